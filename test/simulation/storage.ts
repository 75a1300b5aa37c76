/**
 * One machine's disk: directories whose entries are durable after a sync, and files of `stored-file.ts`. Processes
 * start and end; their writes stay in the page cache until the power is lost.
 */
import type { Disk, DiskFile } from '#product/shard-worker/journal/file/disk.js';
import { lsnOfSegmentName } from '#product/shard-worker/journal/file/segment-header.js';
import type { Mulberry32 } from '../support/mulberry32.js';
import { StoredFile, type Remains } from './stored-file.js';

/** The calls of a disk, by name. */
export type DiskCall = keyof Disk | 'write' | 'read' | 'sync' | 'size' | 'close';

/** Called before each disk call of a process: throws a crash or a system error. */
export type DiskHook = (call: DiskCall, path: string) => void;

type DiskNode = StoredFile | Directory;
type Change = (entries: Map<string, DiskNode>) => void;

class Directory {
  durable = new Map<string, DiskNode>();
  current = new Map<string, DiskNode>();
  changes: Change[] = [];

  change(change: Change): void {
    change(this.current);
    this.changes.push(change);
  }

  sync(): void {
    this.durable = new Map(this.current);
    this.changes = [];
  }
}

/** Observer of the storage: called before the last name of a segment, or of a whole stream, is deleted. */
export interface StorageWatch {
  /** `lastLsn`: its highest valid LSN. */
  segmentGoes(stream: string, lastLsn: number): void;
  streamGoes(stream: string, lastLsn: number): void;
}

/** A durable root directory `/data` and everything in it. */
export class Storage {
  readonly #random: Mulberry32;
  readonly #watch: StorageWatch;
  #root = new Directory();
  /** After a failed sync the system drops the data of a segment from its cache as well. */
  readonly dropsFailed: boolean;
  /** Maximum bytes of all files together. */
  #capacity = Number.POSITIVE_INFINITY;

  constructor(random: Mulberry32, watch: StorageWatch, dropsFailed: boolean) {
    this.#random = random;
    this.dropsFailed = dropsFailed;
    this.#watch = watch;
  }

  /** A durable copy of everything as programs see it now. */
  copy(): Storage {
    const storage = new Storage(this.#random, this.#watch, this.dropsFailed);
    storage.#root = copyDirectory(this.#root);
    return storage;
  }

  /** The disk as one thread sees it. */
  diskOf(hook: DiskHook): Disk {
    return new ThreadDisk(this, this.#random, hook);
  }

  /** The machine loses power. */
  losePower(remains: Remains): void {
    this.#lose(this.#root, remains);
  }

  /** Highest LSN of a stream that survives any loss of power. */
  durableLsn(stream: string): number {
    return this.#lastLsn(
      stream,
      (directory) => directory.durable,
      (file) => file.syncedLsn,
    );
  }

  /** Highest LSN of a stream that programs can read. */
  readableLsn(stream: string): number {
    return this.#lastLsn(
      stream,
      (directory) => directory.current,
      (file) => file.writtenLsn,
    );
  }

  #lastLsn(
    stream: string,
    entriesOf: (directory: Directory) => ReadonlyMap<string, DiskNode>,
    lsnOf: (file: StoredFile) => number,
  ): number {
    const journal = entriesOf(this.#root).get('journal');
    const directory = journal instanceof Directory ? entriesOf(journal).get(stream) : undefined;
    if (!(directory instanceof Directory)) return 0;
    let lsn = 0;
    for (const [name, file] of entriesOf(directory)) {
      if (file instanceof StoredFile && lsnOfSegmentName(name) !== undefined) lsn = Math.max(lsn, lsnOf(file));
    }
    return lsn;
  }

  /** The disk is full: files cannot grow and nothing can be created until something is deleted. */
  get full(): boolean {
    return this.#capacity !== Number.POSITIVE_INFINITY && this.room === 0;
  }

  set full(full: boolean) {
    this.#capacity = full ? this.bytes : Number.POSITIVE_INFINITY;
  }

  /** Bytes by which files can still grow. */
  get room(): number {
    if (this.#capacity === Number.POSITIVE_INFINITY) return this.#capacity;
    return Math.max(0, this.#capacity - this.bytes);
  }

  /** Bytes of all files, as programs see them now. */
  get bytes(): number {
    return bytesOf(this.#root);
  }

  /** Bytes of all segments, which JOURNAL_MAX_BYTES limits. */
  get segmentBytes(): number {
    return bytesOf(this.#root, (name) => lsnOfSegmentName(name) !== undefined);
  }

  create(path: string): StoredFile {
    const { directory, name } = this.#locate(path);
    if (directory.current.has(name)) throw systemError('EEXIST', path);
    if (this.full) throw systemError('ENOSPC', path);
    const file = new StoredFile();
    directory.change((entries) => entries.set(name, file));
    return file;
  }

  file(path: string): StoredFile {
    const { directory, name } = this.#locate(path);
    const node = directory.current.get(name);
    if (!(node instanceof StoredFile)) throw systemError('ENOENT', path);
    return node;
  }

  leadsTo(path: string, file: StoredFile): boolean {
    return this.#find(path) === file;
  }

  makeDirectory(path: string): void {
    const { directory, name } = this.#locate(path);
    if (directory.current.has(name)) return;
    if (this.full) throw systemError('ENOSPC', path);
    const made = new Directory();
    directory.change((entries) => entries.set(name, made));
  }

  list(path: string): string[] {
    const directory = this.#find(path);
    if (!(directory instanceof Directory)) return [];
    const names = [...directory.current.keys()];
    return this.#random.below(2) === 0 ? names : names.reverse();
  }

  rename(from: string, to: string): void {
    const { directory, name } = this.#locate(from);
    const target = this.#locate(to);
    const node = directory.current.get(name);
    if (node === undefined) throw systemError('ENOENT', from);
    if (node instanceof Directory && target.name.endsWith('.removed')) this.#noticeStream(name, node);
    if (target.directory === directory) {
      directory.change((entries) => {
        entries.delete(name);
        entries.set(target.name, node);
      });
      return;
    }
    target.directory.change((entries) => entries.set(target.name, node));
    directory.change((entries) => entries.delete(name));
  }

  remove(path: string): void {
    const { directory, name, parent } = this.#locate(path);
    const node = directory.current.get(name);
    if (!(node instanceof StoredFile)) throw systemError('ENOENT', path);
    this.#noticeSegment(parent, directory, name, node);
    directory.change((entries) => {
      if (entries.get(name) === node) entries.delete(name);
    });
  }

  removeDirectory(path: string): void {
    const { directory, name } = this.#locate(path);
    const node = directory.current.get(name);
    if (!(node instanceof Directory)) throw systemError('ENOENT', path);
    if (node.current.size > 0) throw systemError('ENOTEMPTY', path);
    directory.change((entries) => entries.delete(name));
  }

  syncDirectory(path: string): void {
    const node = this.#find(path);
    if (!(node instanceof Directory)) throw systemError('ENOENT', path);
    node.sync();
  }

  #find(path: string): DiskNode | undefined {
    let node: DiskNode | undefined = this.#root;
    for (const part of path.split('/').slice(2)) {
      if (!(node instanceof Directory)) return undefined;
      node = node.current.get(part);
    }
    return node;
  }

  #locate(path: string): { readonly directory: Directory; readonly name: string; readonly parent: string } {
    const slash = path.lastIndexOf('/');
    const parent = path.slice(0, slash);
    const directory = this.#find(parent);
    if (!(directory instanceof Directory)) throw systemError('ENOENT', path);
    return { directory, name: path.slice(slash + 1), parent };
  }

  #noticeSegment(parent: string, directory: Directory, name: string, file: StoredFile): void {
    if (lsnOfSegmentName(name) === undefined || parent.endsWith('.removed')) return;
    this.#watch.segmentGoes(parent.slice(parent.lastIndexOf('/') + 1), lastLsnOf(directory, name, file));
  }

  #noticeStream(stream: string, directory: Directory): void {
    let lsn = 0;
    for (const [name, file] of directory.current) {
      if (file instanceof StoredFile && lsnOfSegmentName(name) !== undefined) {
        lsn = Math.max(lsn, lastLsnOf(directory, name, file));
      }
    }
    this.#watch.streamGoes(stream, lsn);
  }

  #lose(directory: Directory, remains: Remains): void {
    const { changes } = directory;
    const cut = this.#random.below(changes.length + 1);
    for (const [index, change] of changes.entries()) {
      const survives =
        remains === 'everything' ||
        (remains === 'prefix' && index < cut) ||
        (remains === 'subset' && this.#random.below(2) === 0);
      if (survives) change(directory.durable);
    }
    directory.changes = [];
    directory.current = new Map(directory.durable);
    for (const node of directory.current.values()) {
      if (node instanceof Directory) this.#lose(node, remains);
      else node.losePower(remains, this.#random);
    }
  }
}
/** The last LSN of a segment that counts: what it holds above the end that its successor names is void. */
function lastLsnOf(directory: Directory, segment: string, file: StoredFile): number {
  const next = [...directory.current.keys()]
    .filter((other) => lsnOfSegmentName(other) !== undefined && other > segment)
    .sort()[0];
  const successor = next === undefined ? undefined : directory.current.get(next);
  const limit = successor instanceof StoredFile ? (successor.predecessorLsn ?? Infinity) : Infinity;
  return Math.min(limit, file.writtenLsn);
}

class ThreadDisk implements Disk {
  readonly #storage: Storage;
  readonly #random: Mulberry32;
  readonly #hook: DiskHook;

  constructor(storage: Storage, random: Mulberry32, hook: DiskHook) {
    this.#storage = storage;
    this.#random = random;
    this.#hook = hook;
  }

  create(path: string): DiskFile {
    this.#hook('create', path);
    return this.#open(this.#storage.create(path), path);
  }

  open(path: string): DiskFile {
    this.#hook('open', path);
    return this.#open(this.#storage.file(path), path);
  }

  openWritable(path: string): DiskFile {
    this.#hook('openWritable', path);
    return this.#open(this.#storage.file(path), path);
  }

  makeDirectory(path: string): void {
    this.#hook('makeDirectory', path);
    this.#storage.makeDirectory(path);
  }

  list(path: string): string[] {
    this.#hook('list', path);
    return this.#storage.list(path);
  }

  rename(from: string, to: string): void {
    this.#hook('rename', from);
    this.#storage.rename(from, to);
  }

  remove(path: string): void {
    this.#hook('remove', path);
    this.#storage.remove(path);
  }

  removeDirectory(path: string): void {
    this.#hook('removeDirectory', path);
    this.#storage.removeDirectory(path);
  }

  truncate(path: string, bytes: number): void {
    this.#hook('truncate', path);
    this.#storage.file(path).truncate(bytes);
  }

  syncDirectory(path: string): void {
    this.#hook('syncDirectory', path);
    this.#storage.syncDirectory(path);
  }

  #open(file: StoredFile, path: string): DiskFile {
    return {
      write: (bytes, offset) => this.#write(file, path, bytes, offset),
      writeAll: (parts, offset) => this.#write(file, path, Buffer.concat(parts), offset),
      read: (into, offset) => {
        this.#hook('read', path);
        return file.read(into, offset);
      },
      sync: () => {
        try {
          this.#hook('sync', path);
        } catch (error) {
          if (isSystemError(error)) file.syncFailed(this.#random, this.#storage.dropsFailed && path.includes('.wal'));
          throw error;
        }
        file.sync();
      },
      size: () => file.size,
      isAt: (at) => this.#storage.leadsTo(at, file),
      close: () => {
        this.#hook('close', path);
      },
    };
  }

  #write(file: StoredFile, path: string, bytes: Uint8Array, offset: number): number {
    try {
      this.#hook('write', path);
    } catch (error) {
      // A write that fails or is interrupted by a crash may have written a part; an ended thread writes nothing.
      if (isSystemError(error) || isLastCall(error)) {
        file.write(bytes.subarray(0, this.#random.below(bytes.byteLength + 1)), offset);
      }
      throw error;
    }
    const growth = Math.max(0, offset + bytes.byteLength - file.size);
    const { room } = this.#storage;
    if (growth > room) {
      const written = bytes.byteLength - growth + Math.min(room, this.#random.below(growth));
      file.write(bytes.subarray(0, written), offset);
      if (written === 0) throw systemError('ENOSPC', path);
      return written;
    }
    file.write(bytes, offset);
    return bytes.byteLength;
  }
}

function copyDirectory(directory: Directory): Directory {
  const copy = new Directory();
  for (const [name, node] of directory.current) {
    copy.current.set(name, node instanceof Directory ? copyDirectory(node) : node.clone());
  }
  copy.sync();
  return copy;
}

function bytesOf(directory: Directory, counts: (name: string) => boolean = () => true): number {
  let bytes = 0;
  for (const [name, node] of directory.current) {
    if (node instanceof Directory) bytes += bytesOf(node, counts);
    else if (counts(name)) bytes += node.size;
  }
  return bytes;
}

/** A system error. */
export function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'code' in error;
}

function isLastCall(error: unknown): boolean {
  return error instanceof Error && 'lastCall' in error && error.lastCall === true;
}
