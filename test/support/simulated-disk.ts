/**
 * A disk in memory that keeps no more than a real one promises. Each unsynced sector survives a loss of power at
 * random, and so does each entry of an unsynced directory. A sync that fails drops its data, and the next one reports
 * success. A test can make any call fail, or make it the last one before the crash.
 */
import type { Disk, DiskFile } from '#product/shard-worker/journal/file/disk.js';
import type { Mulberry32 } from './mulberry32.js';

const SECTOR_BYTES = 512;

/** The process has crashed: nothing after this reaches the disk. */
export class SimulatedCrash extends Error {
  override readonly name = 'SimulatedCrash';
}

/** A fault at the n-th call, counted from 1. */
export type Fault =
  | { readonly kind: 'crash'; readonly atCall: number }
  | {
      readonly kind: 'error';
      readonly atCall: number;
      readonly code: string;
      readonly calls?: readonly DiskCall[];
      /** Later calls fail as well, until the test removes the fault. */
      readonly lasting?: true;
    };

/** The calls of a disk, by their names in faults. */
export type DiskCall = keyof Disk | 'write' | 'read' | 'sync' | 'size' | 'close';

/** What a crash leaves of unsynced data: nothing, all, or a part. */
export type PowerLoss = 'nothing' | 'everything' | 'some';

class Inode {
  durable = Buffer.alloc(0);
  current = Buffer.alloc(0);
  /** Ranges written since the last sync. */
  dirty: { readonly from: number; readonly to: number }[] = [];
  /** The entries, of a directory. */
  directory: Directory | undefined;
}

type Entries = Map<string, Inode>;

/** A call that changed one directory or two; it becomes durable as a whole. */
interface Change {
  isDurable: boolean | undefined;
}

class Directory {
  durable: Entries = new Map();
  current: Entries = new Map();
  changes: { readonly of: Change; readonly apply: (entries: Entries) => void }[] = [];

  change(apply: (entries: Entries) => void, of: Change = { isDurable: undefined }): void {
    apply(this.current);
    this.changes.push({ of, apply });
  }
}

export class SimulatedDisk implements Disk {
  /** Calls so far. */
  calls = 0;
  fault: Fault | undefined;
  readonly #roots = new Map<string, Directory>();
  readonly #random: Mulberry32;
  #crashed = false;
  /** Files open now, to detect leaks. */
  openFiles = 0;

  /** `roots` exist and are durable. */
  constructor(random: Mulberry32, roots: readonly string[]) {
    this.#random = random;
    for (const root of roots) this.#roots.set(root, new Directory());
  }

  /** The disk of the next process: after a loss of power, or after the end of the process alone. */
  restart(loss: PowerLoss | undefined): void {
    this.#crashed = false;
    this.fault = undefined;
    this.calls = 0;
    this.openFiles = 0;
    if (loss === undefined) return;
    for (const directory of this.#roots.values()) this.#restartDirectory(directory, loss);
  }

  create(path: string): DiskFile {
    this.#call('create');
    const directory = this.#directory(parentOf(path));
    if (directory.current.has(nameOf(path))) throw systemError('EEXIST', path);
    const inode = new Inode();
    directory.change((entries) => entries.set(nameOf(path), inode));
    return this.#open(inode);
  }

  open(path: string): DiskFile {
    this.#call('open');
    return this.#open(this.#inode(path));
  }

  openWritable(path: string): DiskFile {
    this.#call('openWritable');
    return this.#open(this.#inode(path));
  }

  makeDirectory(path: string): void {
    this.#call('makeDirectory');
    if (this.#find(path) !== undefined) return;
    const inode = new Inode();
    inode.directory = new Directory();
    this.#directory(parentOf(path)).change((entries) => entries.set(nameOf(path), inode));
  }

  list(path: string): string[] {
    this.#call('list');
    return [...(this.#find(path)?.current.keys() ?? [])];
  }

  rename(from: string, to: string): void {
    this.#call('rename');
    const inode = this.#inode(from);
    const [source, target] = [this.#directory(parentOf(from)), this.#directory(parentOf(to))];
    if (source !== target && inode.directory === undefined)
      throw new Error('The journal renames files within a directory only.');
    const change: Change = { isDurable: undefined };
    if (source === target) {
      source.change((entries) => {
        entries.delete(nameOf(from));
        entries.set(nameOf(to), inode);
      }, change);
      return;
    }
    source.change((entries) => entries.delete(nameOf(from)), change);
    target.change((entries) => entries.set(nameOf(to), inode), change);
  }

  remove(path: string): void {
    this.#call('remove');
    const inode = this.#inode(path);
    this.#directory(parentOf(path)).change((entries) => {
      if (entries.get(nameOf(path)) === inode) entries.delete(nameOf(path));
    });
  }

  removeDirectory(path: string): void {
    this.#call('removeDirectory');
    if (this.#directory(path).current.size > 0) throw systemError('ENOTEMPTY', path);
    this.#directory(parentOf(path)).change((entries) => entries.delete(nameOf(path)));
  }

  truncate(path: string, bytes: number): void {
    this.#call('truncate');
    const inode = this.#inode(path);
    inode.current = Buffer.from(inode.current.subarray(0, bytes));
    inode.durable = Buffer.from(inode.durable.subarray(0, bytes));
  }

  syncDirectory(path: string): void {
    this.#call('syncDirectory');
    const directory = this.#directory(path);
    for (const { of } of directory.changes) of.isDurable = true;
    directory.durable = new Map(directory.current);
    directory.changes = [];
  }

  #open(inode: Inode): DiskFile {
    this.openFiles += 1;
    return {
      write: (bytes, offset) => this.#write('write', inode, bytes, offset),
      writeAll: (parts, offset) => this.#write('write', inode, Buffer.concat(parts), offset),
      read: (into, offset) => {
        this.#call('read');
        return inode.current.copy(into, 0, offset, offset + into.byteLength);
      },
      sync: () => {
        this.#sync(inode);
      },
      size: () => {
        this.#call('size');
        return inode.current.length;
      },
      isAt: (path) => this.#find(parentOf(path))?.current.get(nameOf(path)) === inode,
      close: () => {
        this.#call('close');
        this.openFiles -= 1;
      },
    };
  }

  #write(call: DiskCall, inode: Inode, bytes: Uint8Array, offset: number): number {
    let written = bytes.byteLength;
    try {
      this.#call(call);
    } catch (error) {
      // A failed or interrupted write may have written a part.
      written = this.#random.below(bytes.byteLength + 1);
      this.#put(inode, bytes.subarray(0, written), offset);
      throw error;
    }
    this.#put(inode, bytes, offset);
    return written;
  }

  #put(inode: Inode, bytes: Uint8Array, offset: number): void {
    if (inode.current.length < offset + bytes.byteLength) {
      inode.current = Buffer.concat([inode.current, Buffer.alloc(offset + bytes.byteLength - inode.current.length)]);
    }
    inode.current.set(bytes, offset);
    inode.dirty.push({ from: offset, to: offset + bytes.byteLength });
  }

  #sync(inode: Inode): void {
    try {
      this.#call('sync');
    } catch (error) {
      // Written or not, the system considers the data clean from now on.
      this.#persist(inode, 'some');
      throw error;
    }
    this.#persist(inode, 'everything');
  }

  #losePower(inode: Inode, loss: PowerLoss): void {
    this.#persist(inode, loss);
    inode.current = Buffer.from(inode.durable);
  }

  /** Writes sectors to the platter. The file grows once: growth by each sector would copy it as often as it has sectors. */
  #persist(inode: Inode, loss: PowerLoss): void {
    const surviving: { readonly at: number; readonly end: number }[] = [];
    let bytes = inode.durable.length;
    for (const { from, to } of inode.dirty) {
      for (let at = from - (from % SECTOR_BYTES); at < to; at += SECTOR_BYTES) {
        if (!this.#survives(loss)) continue;
        const end = Math.min(at + SECTOR_BYTES, inode.current.length);
        surviving.push({ at, end });
        bytes = Math.max(bytes, end);
      }
    }
    if (bytes > inode.durable.length) {
      inode.durable = Buffer.concat([inode.durable, Buffer.alloc(bytes - inode.durable.length)]);
    }
    for (const { at, end } of surviving) inode.current.copy(inode.durable, at, at, end);
    inode.dirty = [];
  }

  #survives(loss: PowerLoss): boolean {
    return loss === 'everything' || (loss === 'some' && this.#random.below(2) === 0);
  }

  #restartDirectory(directory: Directory, loss: PowerLoss): void {
    for (const { of, apply } of directory.changes) {
      of.isDurable ??= this.#survives(loss);
      if (of.isDurable) apply(directory.durable);
    }
    directory.changes = [];
    directory.current = new Map(directory.durable);
    for (const inode of directory.current.values()) {
      if (inode.directory === undefined) this.#losePower(inode, loss);
      else this.#restartDirectory(inode.directory, loss);
    }
  }

  #find(path: string): Directory | undefined {
    if (path === '') return undefined;
    return this.#roots.get(path) ?? this.#find(parentOf(path))?.current.get(nameOf(path))?.directory;
  }

  #directory(path: string): Directory {
    const directory = this.#find(path);
    if (directory === undefined) throw systemError('ENOENT', path);
    return directory;
  }

  #inode(path: string): Inode {
    const inode = this.#directory(parentOf(path)).current.get(nameOf(path));
    if (inode === undefined) throw systemError('ENOENT', path);
    return inode;
  }

  #call(call: DiskCall): void {
    if (this.#crashed) throw new SimulatedCrash(call);
    this.calls += 1;
    const { fault } = this;
    if (fault === undefined || this.calls < fault.atCall) return;
    if (fault.kind === 'crash') {
      this.#crashed = true;
      throw new SimulatedCrash(call);
    }
    if (fault.calls !== undefined && !fault.calls.includes(call)) return;
    if (fault.lasting !== true) this.fault = undefined;
    throw systemError(fault.code, call);
  }
}

function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
