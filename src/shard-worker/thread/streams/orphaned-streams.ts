/**
 * Streams of earlier runs that no shard continues: of a shard that is no more, or of before a start without the database.
 * Shard thread.
 *
 * ```text
 * unread ──epoch raised, journal read──► pending ──committed to its end──► retired in the database ──► kept ──► removed
 * ```
 *
 * Each holds up to what a node may hold pending, and there can be any number of them, so one is read when those before it
 * are committed to their ends, or while what is pending altogether is less than makes a flush come early. Until the last is
 * read nobody can say what a counter comes to.
 *
 * Every step needs the database; where it is away, the step is tried again after a while. What is committed is kept for as
 * long as segments are, since a failover to a standby may take commits back: meanwhile the flusher touches the row now and
 * then, and before the journal goes the row must still be where it was left.
 */
import type { Clock } from '../../../core/clock.js';
import type { FoundStream, Journal, JournalStreams, RecoverableJournal } from '../../journal/journal.js';
import type { PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import { isJournalUnavailable, type OwnedStream, type ShardLog } from './owned-stream.js';
import type { Checkpoint } from '../../../core/checkpoint.js';
import { isDatabaseUnavailable, type ShardDatabase } from '../flush/shard-database.js';
import type { PendingSums } from '../pending-sums.js';

const BACKOFF_MS = 500;
const JOURNAL_BACKOFF_MS = 5000;

/** What left-over streams need of their shard. */
export interface OrphanedStreamsDeps {
  readonly journals: JournalStreams;
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly log: ShardLog;
  /** Takes the stream over and reads it. */
  readonly recover: (stream: string) => Promise<OwnedStream>;
  /** Keys pending in all streams of the shard. */
  readonly pendingKeys: () => number;
  /** With fewer than that there is room for another stream. */
  readonly flushKeysMax: number;
  /** There is a stream more or less than before. */
  readonly changed: () => void;
  /** The row of a stream is not where it was left. */
  readonly fenced: (pendingSums: PendingSums, row: Checkpoint | undefined) => void;
  /** The shard cannot go on. */
  readonly fail: (error: unknown) => void;
}

/** The left-over streams of one shard. */
export class OrphanedStreams {
  readonly #deps: OrphanedStreamsDeps;
  readonly #byName = new Map<string, OwnedStream>();
  #streams: readonly OwnedStream[] = [];
  /** Where streams ended that were finished here. */
  readonly #finished = new Map<string, Checkpoint>();
  /** Streams that are committed to their end. */
  readonly #ending = new Set<string>();
  /** Streams that wait for the database to answer, or for room; with their bytes. */
  readonly #unread = new Map<string, number>();
  #unreadBytes = 0;
  #onCommitted: (() => void) | undefined;
  #recovering: Promise<void> = Promise.resolve();
  #stopped = false;
  readonly #pauses = new Set<() => void>();

  constructor(deps: OrphanedStreamsDeps) {
    this.#deps = deps;
  }

  /** Those that were read and are not gone. */
  get streams(): readonly OwnedStream[] {
    return this.#streams;
  }

  /** Those that were not read. */
  get unread(): readonly PendingRange[] {
    return [...this.#unread.keys()].map((stream) => ({ stream, afterLsn: 0, throughLsn: undefined, increments: 0 }));
  }

  /** Bytes that those take of the bound on the journal. */
  get unreadBytes(): number {
    return this.#unreadBytes;
  }

  /** True where a read's snapshot is from before the last flush of a stream that is gone from here. */
  isOlder(seen: SeenCheckpoints): boolean {
    for (const [stream, end] of this.#finished) {
      const view = seen.get(stream);
      if (view === undefined) continue;
      if (view === null || view.epoch < end.epoch || (view.epoch === end.epoch && view.lsn !== end.lsn)) return true;
    }
    return false;
  }

  /** Takes a stream that was recovered; to be started with {@link OrphanedStreams.start}. */
  add(owned: OwnedStream): void {
    this.#byName.set(owned.pendingSums.stream, owned);
    this.#streams = [...this.#byName.values()];
  }

  /** Forgets what was added: a start that begins anew. */
  clear(): void {
    this.#byName.clear();
    this.#streams = [];
  }

  /** Flushes every stream that was added to its end. */
  start(): void {
    for (const owned of this.#streams) this.#start(owned);
  }

  /** Recovers streams while there is room for another; to be started with {@link OrphanedStreams.start}. Returns the others. */
  async recoverWithinRoom(streams: readonly FoundStream[]): Promise<readonly FoundStream[]> {
    for (const [index, { stream }] of streams.entries()) {
      if (!this.#hasRoom) return streams.slice(index);
      this.add(await this.#deps.recover(stream));
    }
    return [];
  }

  /** Recovers and starts streams as the database answers and there is room, then calls `done`. */
  recoverLater(streams: readonly FoundStream[], done: () => void): void {
    for (const { stream, bytes } of streams) {
      this.#unread.set(stream, bytes);
      this.#unreadBytes += bytes;
    }
    this.#recovering = this.#recoverAll().then((isDone) => {
      if (isDone) done();
    }, this.#deps.fail);
  }

  /** To be called when a flush of any stream has committed: a left-over one that is committed to its end goes. */
  noticeCommitted(stream: string): void {
    this.#onCommitted?.();
    const owned = this.#byName.get(stream);
    if (owned?.pendingSums.isSettled !== true || this.#ending.has(stream)) return;
    this.#ending.add(stream);
    this.#end(owned).catch(this.#deps.fail);
  }

  /** Takes no further step; settles when no stream is being recovered. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#onCommitted?.();
    for (const end of this.#pauses) end();
    await this.#recovering;
  }

  #start({ flusher, pendingSums }: OwnedStream): void {
    flusher.start();
    this.noticeCommitted(pendingSums.stream);
  }

  get #hasRoom(): boolean {
    const { pendingKeys, flushKeysMax } = this.#deps;
    return pendingKeys() < flushKeysMax || this.#streams.every(({ pendingSums }) => pendingSums.isSettled);
  }

  /** Waits until there is room for another stream, or until all is stopped. */
  async #room(): Promise<void> {
    while (!this.#hasRoom && !this.#stopped) {
      const committed = new Promise<void>((resolve) => {
        this.#onCommitted = resolve;
      });
      // Reads wait for this, so no interval is waited for. Where the database is away a flusher goes on by itself.
      for (const { flusher } of this.#streams) flusher.flushNow().catch(ignore);
      await committed;
    }
    this.#onCommitted = undefined;
  }

  /** False where it was stopped before its end. */
  async #recoverAll(): Promise<boolean> {
    const { journals, database, log, recover, changed } = this.#deps;
    while (!this.#stopped) {
      try {
        journals.setDatabaseId(await database.databaseId());
        for (const [stream, bytes] of this.#unread) {
          await this.#room();
          if (this.#stopped) return false;
          const owned = await recover(stream);
          this.add(owned);
          this.#unread.delete(stream);
          this.#unreadBytes -= bytes;
          changed();
          this.#start(owned);
          // What an outage has held up does not wait for an interval as well; where it fails, the loop goes on by itself.
          owned.flusher.flushNow().catch(ignore);
        }
        return true;
      } catch (error) {
        if (isDatabaseUnavailable(error)) {
          log('debug', { err: error }, 'The database is still away');
          await this.#pause(BACKOFF_MS);
        } else if (isJournalUnavailable(error)) {
          log('warn', { err: error }, 'A journal of an earlier run cannot be read now; it is tried again');
          await this.#pause(JOURNAL_BACKOFF_MS);
        } else {
          throw error;
        }
      }
    }
    return false;
  }

  /** A stream that is committed to its end is marked in the database first, then kept, then removed from the journal. */
  async #end(owned: OwnedStream): Promise<void> {
    const { journals, log, changed } = this.#deps;
    const { journal, flusher, pendingSums } = owned;
    const { stream, checkpoint } = pendingSums;
    pendingSums.close();
    if (!(await this.#retire(pendingSums))) return;
    if (journals.keepMs > 0) {
      await this.#pause(journals.keepMs);
      if (!(await this.#retire(pendingSums))) return;
    }
    this.#byName.delete(stream);
    this.#streams = [...this.#byName.values()];
    this.#finished.set(stream, checkpoint);
    changed();
    await flusher.drain();
    await journal.close();
    journals.remove(recoverable(journal));
    log('info', { stream }, 'Finished a left-over journal');
  }

  /** Marks the stream in the database. False where that was stopped, or the row is not where this process left it. */
  async #retire(pendingSums: PendingSums): Promise<boolean> {
    const { database, log, fenced } = this.#deps;
    const { stream, checkpoint } = pendingSums;
    while (!this.#stopped) {
      try {
        if (await database.retire(stream, checkpoint)) return !this.#stopped;
        // The database went back in time, say: what the journal holds may be needed again.
        fenced(pendingSums, await database.readBack(stream));
        return false;
      } catch (error) {
        if (!isDatabaseUnavailable(error)) throw error;
        log('debug', { err: error, stream }, 'A finished journal waits for the database');
        await this.#pause(BACKOFF_MS);
      }
    }
    return false;
  }

  #pause(ms: number): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.#pauses.delete(end);
        resolve();
      };
      const timer = this.#deps.clock.schedule(ms, end);
      this.#pauses.add(end);
    });
  }
}

function ignore(): void {
  // Somebody else deals with it.
}

function recoverable(journal: Journal): RecoverableJournal {
  // Every journal here was opened for recovery.
  return journal as RecoverableJournal;
}
