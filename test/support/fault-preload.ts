/**
 * Loaded into every thread of a real server with `node --import`, before the server's own code: makes the process, a
 * thread or a system call fail at a chosen step. The product does not know about it.
 *
 * FAULT is a JSON {@link Fault}. The server's calls to Node and pg show its steps.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import threads from 'node:worker_threads';
import pg from 'pg';
import type { Fault, FaultStep } from './fault-injection.js';

const fault = JSON.parse(process.env['FAULT'] ?? 'null') as Fault | null;
const files = new Map<number, string>();
let seen = 0;
let recordsWritten = false;
/** Records written since the last sync, by descriptor. */
const unsynced = new Map<number, { readonly at: number; readonly bytes: number }[]>();

/** Called at a step: fails if it is the chosen one, at the chosen occurrence. */
function reach(step: FaultStep): void {
  if (fault?.step !== step) return;
  if (fault.armedBy !== undefined && !fs.existsSync(fault.armedBy)) return;
  if (fault.oneThread !== undefined && !isChosenThread(fault.oneThread)) return;
  seen += 1;
  if (seen < fault.at) return;
  if (fault.once !== undefined) {
    try {
      fs.closeSync(originalOpen(fault.once, 'wx'));
    } catch {
      return;
    }
  } else if (seen > fault.at && fault.action !== 'fail-call') {
    return;
  }
  switch (fault.action) {
    case 'kill':
      process.kill(process.pid, 'SIGKILL');
      return;
    case 'exit-thread':
      return process.exit(1);
    case 'throw':
      throw new Error(`a fault at ${step}`);
    case 'fail-call':
      throw Object.assign(new Error(`${fault.errno ?? 'EIO'}: a fault at ${step}`), { code: fault.errno ?? 'EIO' });
  }
}

function noteRecords(fd: number, at: number, bytes: number): void {
  unsynced.set(fd, [...(unsynced.get(fd) ?? []), { at, bytes }]);
}

/** Zeros in the place of everything that was written and not synced. */
function dropRecords(fd: number): void {
  for (const { at, bytes } of unsynced.get(fd) ?? []) originalWrite(fd, Buffer.alloc(bytes), 0, bytes, at);
  unsynced.delete(fd);
}

/** The first thread that calls is chosen, for the life of the process. */
function isChosenThread(path: string): boolean {
  const name = `${process.pid} ${threads.threadId}`;
  try {
    fs.writeFileSync(path, name, { flag: 'wx' });
    return true;
  } catch {
    return fs.readFileSync(path, 'utf8') === name;
  }
}

const originalOpen = fs.openSync;
const originalWrite = fs.writeSync;
const originalWritev = fs.writevSync;
const originalSync = fs.fdatasyncSync;
const originalUnlink = fs.unlinkSync;
const originalRename = fs.renameSync;

function isSegment(path: string | undefined): boolean {
  return path !== undefined && /\.wal(\.new)?$/.test(path);
}

function isRecord(bytes: NodeJS.ArrayBufferView | undefined, position: number | null | undefined): boolean {
  if (bytes === undefined || bytes.byteLength < 40 || position === null || position === undefined) return false;
  const head = new Uint8Array(bytes.buffer, bytes.byteOffset, 40);
  return position >= 4096 && head.some((byte) => byte !== 0);
}

// The assignments change the server's own imports, after syncBuiltinESMExports below.
fs.openSync = (path, flags, mode) => {
  const fd = originalOpen(path, flags, mode);
  files.set(fd, String(path));
  unsynced.delete(fd);
  return fd;
};
fs.writeSync = ((fd: number, bytes: NodeJS.ArrayBufferView, offset: number, length: number, position: number) => {
  if (typeof bytes === 'string' || !isSegment(files.get(fd))) return originalWrite(fd, bytes, offset, length, position);
  const record = isRecord(bytes, position);
  reach(record ? 'append' : 'zero-fill');
  const written = originalWrite(fd, bytes, offset, length, position);
  recordsWritten ||= record;
  if (record) noteRecords(fd, position, written);
  if (record) reach('appended');
  return written;
}) as typeof fs.writeSync;
fs.writevSync = (fd, parts, position) => {
  reach('append');
  const written = originalWritev(fd, parts, position);
  recordsWritten = true;
  noteRecords(fd, position ?? 0, written);
  reach('appended');
  return written;
};
fs.fdatasyncSync = (fd) => {
  try {
    if (isSegment(files.get(fd)) && recordsWritten) reach('sync');
  } catch (error) {
    if (fault?.drop === true) dropRecords(fd);
    throw error;
  }
  originalSync(fd);
  unsynced.delete(fd);
  if (!isSegment(files.get(fd)) || !recordsWritten) return;
  recordsWritten = false;
  reach('synced');
};
fs.unlinkSync = (path) => {
  if (isSegment(String(path))) reach('prune');
  originalUnlink(path);
  if (isSegment(String(path))) reach('pruned');
};
fs.renameSync = (from, to) => {
  if (isSegment(String(from))) reach('publish-segment');
  originalRename(from, to);
  if (isSegment(String(from))) reach('segment-published');
};
// A class of Node: it has the method, and its instances look it up there.
const portPrototype = threads.MessagePort.prototype as unknown as {
  postMessage: (this: object, message: unknown, transfer?: unknown) => void;
};
const originalPost = portPrototype.postMessage;
// Further HTTP threads are started with a number; they post batches like the main thread.
const isHttpThread = threads.isMainThread || 'httpThread' in Object(threads.workerData);
portPrototype.postMessage = function (this: object, message: unknown, transfer?: unknown): void {
  // A batch is a number, or whole if its memory is new to the shard; no other message to a shard has a number.
  const batch = isHttpThread && (typeof message === 'number' || isWholeBatch(message));
  const acknowledgement = !isHttpThread && typeof message === 'number';
  if (batch) reach('post');
  if (acknowledgement) reach('acknowledge');
  originalPost.call(this, message, transfer);
  if (batch) reach('posted');
  if (acknowledgement) reach('acknowledged');
};

function isWholeBatch(message: unknown): boolean {
  return typeof message === 'object' && message !== null && 'memory' in message;
}

interface QueryConfig {
  readonly name?: string;
  readonly text?: string;
}

// The server calls pg's query with a statement and gets a promise.
const clientPrototype = pg.Client.prototype as unknown as {
  query: (this: object, config: QueryConfig) => Promise<unknown>;
};
const originalQuery = clientPrototype.query;
clientPrototype.query = async function (this: object, config: QueryConfig): Promise<unknown> {
  const isFlush = config.name?.startsWith('flush') === true;
  if (isFlush) reach('flush');
  const reply = originalQuery.call(this, config);
  if (isFlush && fault?.step === 'flush-sent') setImmediate(() => reach('flush-sent'));
  const result = await reply;
  if (isFlush) reach('flush-committed');
  return result;
};

syncBuiltinESMExports();
