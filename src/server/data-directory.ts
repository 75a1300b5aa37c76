/**
 * The data directory: its lock, which admits one process at a time, and the node id. Main thread and commands.
 *
 * The lock is an advisory lock on the open file `lock`. The system releases it when the process ends for any reason. It also
 * works between containers that share the directory, unlike a process id.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, constants, existsSync, mkdirSync, openSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { tryLock } from 'fs-native-extensions';
import { StartError, reasonOf, systemErrorCode } from '../core/errors.js';
import { replaceFile } from '../core/replace-file.js';
import { isUuid } from '../core/uuid.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { finishRebind } from '../shard-worker/journal/file/stream-rebind.js';

/** A data directory that this process holds. */
export interface DataDirectory {
  /** The UUID of this node, kept in the directory. */
  readonly nodeId: string;
  /** Unlocks the directory. May be called more than once. */
  release(): void;
}

/**
 * Creates the directory if it is missing, locks it, and reads or creates the node id. Throws StartError if another
 * process holds the lock, if the directory cannot be created or written, or if its `node-id` is not a UUID.
 */
export function acquireDataDirectory(dataDir: string): DataDirectory {
  const lock = orRefuse(`The data directory ${dataDir} cannot be used`, () => {
    makeDirectory(dataDir);
    return openSync(path.join(dataDir, 'lock'), constants.O_RDWR | constants.O_CREAT, 0o640);
  });
  let held = true;
  const release = (): void => {
    if (held) closeSync(lock);
    held = false;
  };
  try {
    if (!orRefuse(`The data directory ${dataDir} cannot be locked`, () => tryLock(lock))) {
      throw new StartError([
        `Another process is using the data directory ${dataDir}; stop it, or set another DATA_DIR.`,
      ]);
    }
    return { nodeId: readNodeId(dataDir) ?? makeNodeId(dataDir), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Completes an interrupted `npm run journal -- rebind`. Throws StartError if only an operator can. */
export function finishInterruptedRebind(dataDir: string): void {
  orRefuse('An interrupted rebind cannot be completed', () => {
    finishRebind(systemDisk, path.join(dataDir, 'journal'));
  });
}

/** Gives the directory another node id, which it returns. The caller holds the lock. Throws StartError. */
export function makeNodeId(dataDir: string): string {
  const file = nodeIdFile(dataDir);
  const nodeId = randomUUID();
  orRefuse(`The node id cannot be written to ${file}`, () => {
    replaceFile(file, `${nodeId}\n`, 0o640);
  });
  return nodeId;
}

/** Creates parents one by one, because the recursive mkdir of Node 20 never returns if that is impossible, as below /proc. */
function makeDirectory(directory: string): void {
  if (existsSync(directory)) return;
  makeDirectory(path.dirname(directory));
  try {
    mkdirSync(directory, { mode: 0o750 });
  } catch (error) {
    // Another process has created it meanwhile.
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
}

/** The streams of the directory's journal; undefined if they cannot be read. */
export function streamsOnDisk(dataDir: string): readonly string[] | undefined {
  try {
    return readdirSync(path.join(dataDir, 'journal')).filter(isUuid);
  } catch (error) {
    return systemErrorCode(error) === 'ENOENT' ? [] : undefined;
  }
}

function readNodeId(dataDir: string): string | undefined {
  const file = nodeIdFile(dataDir);
  const text = orRefuse(`The node id cannot be read from ${file}`, () => {
    try {
      return readFileSync(file, 'utf8').trim();
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  });
  if (text === undefined || isUuid(text)) return text;
  throw new StartError([`${file} should hold a UUID, the node id, but holds something else; restore the file.`]);
}

function nodeIdFile(dataDir: string): string {
  return path.join(dataDir, 'node-id');
}

function orRefuse<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const reason = reasonOf(error);
    throw new StartError([`${what}: ${reason}.`], { cause: error });
  }
}
