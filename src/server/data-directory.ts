/**
 * The data directory: one process at a time, and the node's id in it. Main thread and commands.
 *
 * The lock is held on an open file (`lock`), not written into one: the system lets go of it when the process ends, however
 * it ends, and it counts across containers that share the directory, where a process id means nothing.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, constants, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { tryLock } from 'fs-native-extensions';
import { StartError, reasonOf, systemErrorCode } from '../core/errors.js';
import { replaceFile } from '../core/replace-file.js';
import { isUuid } from '../core/uuid.js';

/** A data directory that this process holds. */
export interface DataDirectory {
  /** This node's UUID, made with the directory and kept in it. */
  readonly nodeId: string;
  /** Lets another process have the directory. Calling it twice is allowed. */
  release(): void;
}

/**
 * Makes the directory where it is missing, locks it, and reads or makes the node's id. Throws StartError, in a sentence,
 * where another process holds it, where it cannot be made or written, or where its `node-id` is not a UUID.
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
      throw new StartError([`Another process is using the data directory ${dataDir}.`]);
    }
    return { nodeId: readNodeId(dataDir) ?? makeNodeId(dataDir), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Gives the directory, which the caller holds, another node id, and returns it. Throws StartError. */
export function makeNodeId(dataDir: string): string {
  const file = nodeIdFile(dataDir);
  const nodeId = randomUUID();
  orRefuse(`The node's id cannot be written to ${file}`, () => {
    replaceFile(file, `${nodeId}\n`, 0o640);
  });
  return nodeId;
}

/** One directory after the other: where none can be made, as below /proc, the recursive mkdir of Node 20 never returns. */
function makeDirectory(directory: string): void {
  if (existsSync(directory)) return;
  makeDirectory(path.dirname(directory));
  try {
    mkdirSync(directory, { mode: 0o750 });
  } catch (error) {
    // Another start was faster.
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
}

function readNodeId(dataDir: string): string | undefined {
  const file = nodeIdFile(dataDir);
  const text = orRefuse(`The node's id cannot be read from ${file}`, () => {
    try {
      return readFileSync(file, 'utf8').trim();
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  });
  if (text === undefined || isUuid(text)) return text;
  throw new StartError([`${file} should hold a UUID, this node's id, and does not.`]);
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
