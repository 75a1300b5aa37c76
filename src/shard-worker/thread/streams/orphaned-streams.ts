/**
 * Orphaned streams: streams of earlier runs to which no shard appends. Their shard no longer exists, or a start without the
 * database began another stream. Shard thread.
 *
 * ```text
 * unread ──epoch raised, journal read──► pending ──all committed──► retired in the database ──kept for a time──► removed
 * ```
 *
 * There can be any number of orphaned streams, and each can hold as much as a server may hold pending. So the next one is read
 * when those before it are committed, or while too few keys are pending for an early flush. Until all are read, no exact sum of
 * a counter is known.
 *
 * Every step needs the database and is retried while it is unavailable. A committed stream is kept as long as segments are,
 * because a failover may undo commits. Meanwhile the flusher touches the row. The journal is removed only if the row is still
 * where this process left it.
 */
import type { Clock } from '../../../core/clock.js';
import { Episode } from '../../../core/episode.js';
import { JournalError } from '../../../core/errors.js';
import type { FoundStream, Journal, JournalStreams } from '../../journal/journal.js';
import type { PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import { isJournalUnavailable, markClosed, type OwnedStream, type ShardLog } from './owned-stream.js';
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import { isDatabaseUnavailable, type ShardDatabase } from '../flush/shard-database.js';
import { Pauses } from '../pauses.js';

const BACKOFF_MS = 500;
const JOURNAL_BACKOFF_MS = 5000;
/** Claims that are reported of a retired stream. A failover goes back over fewer starts. */
const FINISHED_CLAIMS_MAX = 16;

/** What orphaned streams need of their shard. */
export interface OrphanedStreamsDeps {
  readonly journals: JournalStreams;
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly log: ShardLog;
  /** Takes ownership of the stream and reads it. */
  readonly recover: (stream: string) => Promise<OwnedStream>;
  /** Takes the row of the shard's own stream, if it has records and no row. */
  readonly registerOwn: () => Promise<void>;
  /** Takes the row of an unread stream that may have none. */
  readonly register: (found: FoundStream) => Promise<void>;
  /** Whether so few keys are pending in the shard that there is room for another stream. */
  readonly hasRoom: () => boolean;
  /** A stream was added or removed. */
  readonly changed: () => void;
  /** A stream's journal was removed. `claims`: ids of the last ownership claims of its directory. */
  readonly finished: (stream: string, lsn: Lsn, claims: readonly string[]) => void;
  /** The row of a stream is not where this process left it. */
  readonly fenced: (owned: OwnedStream, row: Checkpoint | undefined) => Promise<unknown>;
  /** The shard cannot go on. */
  readonly fail: (error: unknown) => void;
}

/** The orphaned streams of one shard. */
export class OrphanedStreams {
  readonly #deps: OrphanedStreamsDeps;
  readonly #byName = new Map<string, OwnedStream>();
  #streams: readonly OwnedStream[] = [];
  /** Last checkpoints of streams that were removed here. */
  readonly #finished = new Map<string, Checkpoint>();
  /** Streams that are committed to their end. */
  readonly #ending = new Set<string>();
  /** Streams that wait for the database or for room. */
  readonly #unread = new Map<string, FoundStream>();
  /** Streams whose rows are missing. */
  readonly #leftAlone = new Set<string>();
  #unreadBytes = 0;
  #onCommitted: (() => void) | undefined;
  #recovering: Promise<void> = Promise.resolve();
  #stopped = false;
  readonly #pauses: Pauses;

  constructor(deps: OrphanedStreamsDeps) {
    this.#deps = deps;
    this.#pauses = new Pauses(deps.clock);
  }

  /** Streams that are read and not yet removed. */
  get streams(): readonly OwnedStream[] {
    return this.#streams;
  }

  /** Unread streams. Their records stay in the journal. */
  get unread(): readonly PendingRange[] {
    return [...this.#unread.keys(), ...this.#leftAlone].map((stream) => ({
      stream,
      afterLsn: 0,
      throughLsn: undefined,
      increments: undefined,
    }));
  }

  /** Bytes that unread streams take of JOURNAL_MAX_BYTES. */
  get unreadBytes(): number {
    return this.#unreadBytes;
  }

  /** Whether a read's snapshot is older than the last flush of a removed stream. */
  isOlder(seen: SeenCheckpoints): boolean {
    for (const [stream, end] of this.#finished) {
      const view = seen.get(stream);
      if (view === undefined) continue;
      if (view === null || view.epoch < end.epoch || (view.epoch === end.epoch && view.lsn !== end.lsn)) return true;
    }
    return false;
  }

  /** Adds a recovered stream. {@link OrphanedStreams.start} starts it. */
  add(owned: OwnedStream): void {
    this.#byName.set(owned.pendingSums.stream, owned);
    this.#streams = [...this.#byName.values()];
  }

  /** Forgets the added streams before a start is retried. */
  clear(): void {
    this.#byName.clear();
    this.#streams = [];
  }

  /** Begins to flush every added stream to its end. */
  start(): void {
    for (const owned of this.#streams) this.#start(owned);
  }

  /** Recovers and adds streams while there is room. Returns the rest. */
  async recoverWithinRoom(streams: readonly FoundStream[]): Promise<readonly FoundStream[]> {
    for (const [index, { stream }] of streams.entries()) {
      if (!this.#hasRoom) return streams.slice(index);
      this.add(await this.#deps.recover(stream));
    }
    return [];
  }

  /** Recovers and starts streams while the database is available and there is room. Calls `done` after the last. */
  recoverLater(streams: readonly FoundStream[], done: () => void): void {
    for (const found of streams) {
      this.#unread.set(found.stream, found);
      this.#unreadBytes += found.bytes;
    }
    this.#recovering = this.#recoverAll().then((isDone) => {
      if (isDone) done();
    }, this.#deps.fail);
  }

  /** To be called when a flush of any stream has committed. Retires an orphaned stream that is committed to its end. */
  noticeCommitted(stream: string): void {
    this.#onCommitted?.();
    const owned = this.#byName.get(stream);
    if (owned?.pendingSums.isSettled !== true || this.#ending.has(stream)) return;
    this.#ending.add(stream);
    this.#end(owned).catch(this.#deps.fail);
  }

  /** Starts no further step. Settles when no stream is in recovery. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#onCommitted?.();
    this.#pauses.endAll();
    await this.#recovering;
  }

  #start({ flusher, pendingSums }: OwnedStream): void {
    flusher.start();
    this.noticeCommitted(pendingSums.stream);
  }

  get #hasRoom(): boolean {
    return this.#deps.hasRoom() || this.#streams.every(({ pendingSums }) => pendingSums.isSettled);
  }

  /** Waits until there is room for another stream, or until {@link stop}. */
  async #waitForRoom(): Promise<void> {
    while (!this.#hasRoom && !this.#stopped) {
      const committed = new Promise<void>((resolve) => {
        this.#onCommitted = resolve;
      });
      // At once, because reads wait for this. A failed flusher retries by itself.
      for (const { flusher } of this.#streams) flusher.flushNow().catch(ignore);
      await committed;
    }
    this.#onCommitted = undefined;
  }

  /** False if it was stopped first. */
  async #recoverAll(): Promise<boolean> {
    const { journals, database, log, clock } = this.#deps;
    const unreadable = new Episode(clock);
    while (!this.#stopped) {
      try {
        journals.setDatabaseId(await database.databaseId());
        await this.#registerAll();
        for (const found of this.#unread.values()) {
          await this.#waitForRoom();
          if (this.#stopped) return false;
          await this.#recoverNext(found);
          const ended = unreadable.end();
          if (ended !== undefined) log('info', { seconds: ended.seconds }, 'Orphaned streams can be read again');
        }
        return true;
      } catch (error) {
        if (isDatabaseUnavailable(error)) {
          log('debug', { err: error }, 'PostgreSQL unavailable; retrying the recovery of orphaned streams');
          await this.#pause(BACKOFF_MS);
        } else if (isJournalUnavailable(error)) {
          if (unreadable.notice() !== undefined)
            log('warn', { err: error }, 'Cannot read the journal of an orphaned stream; retrying');
          await this.#pause(JOURNAL_BACKOFF_MS);
        } else {
          throw error;
        }
      }
    }
    return false;
  }

  /** Takes all rows that may be missing, before any flush. */
  async #registerAll(): Promise<void> {
    await this.#deps.registerOwn();
    for (const found of [...this.#unread.values()]) await this.#unlessMissing(found, this.#deps.register(found));
  }

  async #recoverNext(found: FoundStream): Promise<void> {
    const owned = await this.#unlessMissing(found, this.#deps.recover(found.stream));
    if (owned === undefined) return;
    this.add(owned);
    this.#unread.delete(found.stream);
    this.#unreadBytes -= found.bytes;
    this.#deps.changed();
    this.#start(owned);
    // At once, because an outage has already delayed these increments. A failed flusher retries by itself.
    owned.flusher.flushNow().catch(ignore);
  }

  /**
   * Skips a stream whose row is missing, and returns undefined: only an operator knows what of it is counted. New increments go
   * to other streams. The next start with the database stops for it.
   */
  async #unlessMissing<T>({ stream }: FoundStream, taking: Promise<T>): Promise<T | undefined> {
    try {
      return await taking;
    } catch (error) {
      if (!(error instanceof JournalError) || error.code !== 'checkpoint-missing') throw error;
      const { log } = this.#deps;
      log('error', { stream, code: error.code }, `Stream ${stream} is left alone. ${error.message}`);
      this.#unread.delete(stream);
      this.#leftAlone.add(stream);
      return undefined;
    }
  }

  /** Retires a stream that is committed to its end, keeps its journal for a time, then removes it. */
  async #end(owned: OwnedStream): Promise<void> {
    const { journals, log, changed } = this.#deps;
    const { journal, flusher, pendingSums } = owned;
    const { stream, checkpoint } = pendingSums;
    pendingSums.close();
    if (!(await this.#retire(owned))) return;
    if (journals.keepMs > 0) {
      await this.#pause(journals.keepMs);
      if (!(await this.#retire(owned))) return;
    }
    this.#byName.delete(stream);
    this.#streams = [...this.#byName.values()];
    this.#finished.set(stream, checkpoint);
    changed();
    await flusher.drain();
    // A statement may have reported a problem of the stream meanwhile.
    changed();
    journal.close();
    const claims = lastClaims(journal);
    journals.remove(journal);
    this.#deps.finished(stream, checkpoint.lsn, claims);
    log('info', { stream }, 'Removed an orphaned stream; all of it is in PostgreSQL');
  }

  /** Retires the stream in the database. False after a stop, or if the row is not where this process left it. */
  async #retire(owned: OwnedStream): Promise<boolean> {
    const { database, log, fenced } = this.#deps;
    const { stream, checkpoint } = owned.pendingSums;
    while (!this.#stopped) {
      try {
        // First, because a start without the database must not accept idempotent requests under a row that may be retired.
        markClosed(owned.journal);
        if (await database.retire(stream, checkpoint)) return !this.#stopped;
        // If the database went back in time, it may need the records of the journal again.
        await fenced(owned, await database.readBack(stream));
        return false;
      } catch (error) {
        if (!isDatabaseUnavailable(error) && !isJournalUnavailable(error)) throw error;
        log('debug', { err: error, stream }, 'Cannot retire an orphaned stream now; retrying');
        await this.#pause(BACKOFF_MS);
      }
    }
    return false;
  }

  #pause(ms: number): Promise<void> {
    return this.#stopped ? Promise.resolve() : this.#pauses.pause(ms);
  }
}

function ignore(): void {
  // The flusher reports the failure itself.
}

/** Ids of the last ownership claims; none if the disk does not answer. */
function lastClaims(journal: Journal): readonly string[] {
  try {
    return journal
      .ownership()
      .claims.slice(-FINISHED_CLAIMS_MAX)
      .map(({ id }) => id);
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    return [];
  }
}
