/**
 * One shard: its journal, its ledger and its flusher, and those of streams left over from earlier runs. Shard thread.
 *
 * ```text
 * start ──database reachable──► recover own and left-over streams ──► serving, recovered
 *   └────database away────────► a new stream ──► serving ──when it answers──► recover all earlier streams ──► recovered
 * ```
 *
 * Why a new stream while the database is away: only the checkpoint row says which LSNs of an earlier stream are free, so
 * records written without having read it could get LSNs that count as flushed.
 *
 * Longer than most: start, recovery and stop share the streams that a shard owns.
 */
import { CounterError, JournalError } from '../errors.js';
import type { Clock } from '../clock.js';
import { addSums, hashKey, type Lsn, type Sum } from '../increment.js';
import type { LogFields } from '../logger.js';
import { Flusher, type CheckpointRow, type FlushTarget } from './flusher.js';
import type { GroupTarget } from './group-commit.js';
import type { Journal, JournalStreams, RecordBytes, RecoverableJournal } from './journal/journal.js';
import { GAUGE, RECORD_HEADER_BYTES, type ControlMessage, type PendingRange, type SeenCheckpoint } from './messages.js';
import { StreamLedger } from './stream-ledger.js';
import { TokenWindow, type KnownToken } from './token-window.js';

const RECOVERY_BACKOFF_MS = 500;
/** Clearly shorter than JOURNAL_KEEP_SECONDS: an idle stream notices in time that its checkpoint went back. */
const TOUCH_INTERVAL_MS = 15_000;
/** The clocks of threads agree, but a batch is stamped a moment before it is posted. */
const ACCEPTED_MARGIN_MS = 1000;

/** The database as a shard needs it. Methods reject with CounterError `database-unavailable` where it cannot be reached. */
export interface ShardDatabase extends FlushTarget {
  /** The database's id; also waits until migrations are there. */
  databaseId(): Promise<string>;
  /** Makes the checkpoint row, at epoch 0 and LSN 0, unless it is there. */
  ensureStream(stream: string): Promise<void>;
  /** Makes the row unless it is there and raises its epoch. */
  claimStream(stream: string): Promise<CheckpointRow & { readonly retired: boolean }>;
  /** Marks a finished stream; the row stays as a tombstone. False: the row is not at (epoch, lsn). */
  retire(stream: string, epoch: number, lsn: Lsn): Promise<boolean>;
  close(): Promise<void>;
}

/** What a shard is made of. */
export interface ShardParts {
  readonly journals: JournalStreams;
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly gauges: Float64Array;
  readonly random: () => number;
  readonly flushIntervalMs: number;
  readonly flushKeysMax: number;
  /** Everything posted before this time has been taken from the ports. */
  readonly drainedAtMs: () => number;
  readonly tell: (message: ControlMessage) => void;
  /** The thread must end. */
  readonly fail: (error: unknown) => void;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;
}

interface OwnedStream {
  readonly journal: Journal;
  readonly ledger: StreamLedger;
  readonly flusher: Flusher;
  /** Its row was a tombstone when it was recovered. */
  readonly retired: boolean;
}

/** A shard, as group commit and the control port use it. */
export class Shard implements GroupTarget {
  readonly #parts: ShardParts;
  readonly #gauges: Float64Array;
  readonly #tokens = new TokenWindow();
  #own: OwnedStream | undefined;
  readonly #leftOver = new Map<string, OwnedStream>();
  #state: 'starting' | 'serving' | 'draining' | 'failed' = 'starting';
  /** Where left-over streams ended that were finished here. */
  readonly #finished = new Map<string, CheckpointRow>();
  /** Streams of earlier runs that wait for the database to answer. */
  readonly #unread = new Set<string>();
  #recoveringLater: Promise<void> = Promise.resolve();
  #endPause: () => void = () => undefined;

  constructor(parts: ShardParts) {
    this.#parts = parts;
    this.#gauges = parts.gauges;
  }

  /** Recovers, or starts without the database; settles when increments can be taken. */
  async start(): Promise<void> {
    const { journals, log } = this.#parts;
    const existing = journals.existing();
    try {
      journals.setDatabaseId(await this.#parts.database.databaseId());
      this.#own = await this.#continue(existing.own);
      for (const stream of existing.leftOver) await this.#finish(stream);
      this.#serve(true);
    } catch (error) {
      if (!isDatabaseAway(error)) throw error;
      log('warn', { err: error }, 'The database is away: increments are journaled in a new stream until it answers');
      this.#discard();
      this.#own = await this.#begin(false);
      this.#serve(false);
      const earlier = existing.own === undefined ? existing.leftOver : [existing.own, ...existing.leftOver];
      this.#recoveringLater = this.#recoverLater(earlier);
    }
  }

  append(group: readonly RecordBytes[]): Lsn | Promise<Lsn> {
    return this.#ownStream().journal.append(group);
  }

  apply(group: readonly RecordBytes[], lastLsn: Lsn): void {
    const own = this.#ownStream();
    let increments = 0;
    let lsn = lastLsn - group.length;
    for (const record of group) {
      lsn += 1;
      increments += own.ledger.apply(lsn, record, RECORD_HEADER_BYTES, record.length);
    }
    this.#add(GAUGE.accepted, increments);
    this.#publish();
    own.flusher.noticeApplied();
  }

  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean {
    return this.#streams().some(({ ledger }) => ledger.holds(hash, bytes, start, length));
  }

  admitToken(token: string, digest: Uint8Array): KnownToken {
    return this.#tokens.admit(token, digest);
  }

  endGroup(durable: boolean): void {
    this.#tokens.endGroup(durable);
  }

  failed(error: unknown): void {
    if (this.#state === 'failed') return;
    this.#state = 'failed';
    this.#parts.fail(error);
  }

  /** What all streams of this shard hold of a key above the checkpoints that a read saw; null: none holds it. */
  pendingOf(key: Uint8Array, seen: ReadonlyMap<string, SeenCheckpoint>): Sum | 'again' | null {
    for (const [stream, end] of this.#finished) {
      // The snapshot is from before the last flush of a stream that is gone from here.
      const view = seen.get(stream);
      if (view === null || (view?.epoch === end.epoch && view.lsn !== end.lsn)) return 'again';
    }
    const hash = hashKey(key, 0, key.length);
    let pending: Sum | null = null;
    for (const { ledger } of this.#streams()) {
      const view = seen.get(ledger.stream);
      if (view === undefined) return 'again';
      const part = ledger.pendingOf(hash, key, view ?? undefined);
      if (part === 'again') return 'again';
      if (part !== undefined) pending = addSums(pending ?? 0, part);
    }
    return pending;
  }

  /** Commits everything applied before the call; resolves to the keys written. */
  async flush(): Promise<number> {
    const keys = await Promise.all(this.#streams().map(({ flusher }) => flusher.flushNow()));
    return keys.reduce((total, count) => total + count, 0);
  }

  /** Last flush of every stream, then close. Returns what stays in the journal. */
  async drain(): Promise<readonly PendingRange[]> {
    this.#state = 'draining';
    this.#endPause();
    // First, so that a stream that is being recovered at this moment is drained with the others.
    await this.#recoveringLater;
    const left: PendingRange[] = [...this.#unread].map(unreadRange);
    for (const { journal, ledger, flusher } of this.#streams()) {
      if (!(await flusher.drain())) left.push(rangeOf(ledger));
      await journal.close();
    }
    this.#publish();
    await this.#parts.database.close();
    return left;
  }

  #ownStream(): OwnedStream {
    if (this.#own === undefined) throw new TypeError('the shard has not started');
    return this.#own;
  }

  #streams(): readonly OwnedStream[] {
    return this.#own === undefined ? [...this.#leftOver.values()] : [this.#own, ...this.#leftOver.values()];
  }

  #serve(recovered: boolean): void {
    if (this.#state === 'starting') this.#state = 'serving';
    this.#publish();
    this.#announceStreams();
    for (const { flusher, ledger } of this.#streams()) {
      flusher.start();
      this.#retireWhenFinished(ledger.stream);
    }
    this.#tellServing(recovered);
  }

  #tellServing(recovered: boolean): void {
    const recoveredIncrements = this.#gauges[GAUGE.recovered] ?? 0;
    this.#parts.tell({ kind: 'serving', recovered, recoveredIncrements });
  }

  #announceStreams(): void {
    this.#parts.tell({ kind: 'streams', streams: this.#streams().map(({ ledger }) => ledger.stream) });
  }

  /** A start that the database left half-way: nothing was appended, so the journals can be let go of and read again. */
  #discard(): void {
    for (const { journal, ledger } of this.#streams()) {
      void Promise.resolve(journal.close()).catch(this.#parts.fail);
      // The cell also holds what earlier threads of this shard have recovered.
      this.#add(GAUGE.recovered, -ledger.pendingIncrements);
    }
    this.#own = undefined;
    this.#leftOver.clear();
  }

  /** The shard's own stream of the last run, or a new one. */
  async #continue(stream: string | undefined): Promise<OwnedStream> {
    if (stream === undefined) return this.#begin(true);
    const owned = await this.#recover(stream);
    if (!owned.retired) return owned;
    // Another number of shards had it for a left-over, and crashed between its end in the database and in the journal. No
    // record may follow: what comes after its end in the database is nobody's.
    this.#leftOver.set(stream, owned);
    return this.#begin(true);
  }

  /** A new stream, with its row in the database where that can be reached. */
  async #begin(withDatabase: boolean): Promise<OwnedStream> {
    const journal = this.#parts.journals.create();
    if (withDatabase) await this.#parts.database.ensureStream(journal.stream);
    // A new row starts at epoch 0 and LSN 0; nobody else knows its id.
    return this.#assemble(journal, new StreamLedger(journal.stream, 0, 0), false);
  }

  /** Raises the epoch, then reads the journal above the checkpoint: in this order, so that nothing older can still flush. */
  async #recover(stream: string): Promise<OwnedStream> {
    const { journals, database, log } = this.#parts;
    const row = await database.claimStream(stream);
    const journal = journals.open(stream);
    const facts = journal.recover(row.lsn);
    const ledger = new StreamLedger(stream, row.epoch, row.lsn);
    let increments = 0;
    for await (const record of journal.replay(row.lsn)) {
      increments += ledger.apply(record.lsn, record.entries, 0, record.entries.length);
    }
    this.#add(GAUGE.recovered, increments);
    if (row.retired && !ledger.isSettled) {
      const detail = `Stream ${stream} is retired at LSN ${row.lsn}, but the journal reaches LSN ${journal.endLsn}.`;
      throw new JournalError('journal-gap', detail);
    }
    log('info', { stream, checkpoint: row.lsn, end: journal.endLsn, increments, ...facts }, 'Recovered a journal');
    return this.#assemble(journal, ledger, row.retired);
  }

  /** Recovers a stream that no shard continues; it is flushed, retired and removed in the background. */
  async #finish(stream: string): Promise<void> {
    const owned = await this.#recover(stream);
    this.#leftOver.set(stream, owned);
  }

  async #recoverLater(streams: readonly string[]): Promise<void> {
    const { journals, database, clock, log } = this.#parts;
    const left = this.#unread;
    for (const stream of streams) left.add(stream);
    while (this.#state === 'serving') {
      try {
        journals.setDatabaseId(await database.databaseId());
        for (const stream of left) {
          if (this.#state !== 'serving') return;
          await this.#finish(stream);
          left.delete(stream);
          this.#publish();
          this.#announceStreams();
          this.#leftOver.get(stream)?.flusher.start();
          this.#retireWhenFinished(stream);
        }
        this.#tellServing(true);
        return;
      } catch (error) {
        if (!isDatabaseAway(error)) {
          this.failed(error);
          return;
        }
        log('debug', { err: error }, 'The database is still away');
        await new Promise<void>((resolve) => {
          this.#endPause = resolve;
          clock.schedule(RECOVERY_BACKOFF_MS, resolve);
        });
      }
    }
  }

  #assemble(journal: Journal, ledger: StreamLedger, retired: boolean): OwnedStream {
    const { database, clock, random, flushIntervalMs, flushKeysMax, drainedAtMs } = this.#parts;
    const options = {
      intervalMs: flushIntervalMs,
      keysMax: flushKeysMax,
      sync: () => (journal.syncedLsn < journal.endLsn ? journal.sync() : undefined),
      acceptedThroughMs: () => drainedAtMs() - ACCEPTED_MARGIN_MS,
      touchIntervalMs: TOUCH_INTERVAL_MS,
      random,
    };
    const flusher: Flusher = new Flusher(ledger, database, clock, options, {
      committed: ({ toLsn }, { keys, increments, rejected, deduplicated, claimed, mismatches }) => {
        this.#add(GAUGE.flushed, increments - rejected - deduplicated);
        this.#add(GAUGE.rejected, rejected);
        this.#add(GAUGE.deduplicated, deduplicated);
        this.#add(GAUGE.claimedTokens, claimed);
        this.#add(GAUGE.mismatches, mismatches);
        this.#add(GAUGE.flushes, 1);
        this.#add(GAUGE.flushedKeys, keys);
        journal.prune(toLsn);
        this.#publish();
        this.#retireWhenFinished(ledger.stream);
      },
      fenced: (row) => {
        this.#fenced(ledger, row);
      },
      databaseAvailable: (available, error) => {
        const reason = error instanceof Error ? error.message : '';
        this.#parts.tell({ kind: 'database', available, reason });
      },
      failed: (error) => {
        this.failed(error);
      },
    });
    return { journal, ledger, flusher, retired };
  }

  #retireWhenFinished(stream: string): void {
    const owned = this.#leftOver.get(stream);
    if (owned === undefined) return;
    void this.#retire(owned).catch((error: unknown) => {
      if (isDatabaseAway(error)) return;
      this.failed(error);
    });
  }

  /** A left-over stream that is committed to its end is marked in the database first, then removed from the journal. */
  async #retire({ journal, ledger, flusher }: OwnedStream): Promise<void> {
    if (!ledger.isSettled) return;
    const { database } = this.#parts;
    if (!(await database.retire(ledger.stream, ledger.epoch, ledger.checkpoint))) {
      // The database went back in time, say: what the journal holds may be needed again.
      this.#fenced(ledger, await database.readBack(ledger.stream));
      return;
    }
    this.#leftOver.delete(ledger.stream);
    this.#finished.set(ledger.stream, { epoch: ledger.epoch, lsn: ledger.checkpoint });
    this.#announceStreams();
    await flusher.drain();
    await journal.close();
    this.#parts.journals.remove(journal as RecoverableJournal);
    this.#parts.log('info', { stream: ledger.stream }, 'Finished a left-over journal');
  }

  /** A compare-and-set matched nothing: find out whose the stream is now. */
  #fenced(ledger: StreamLedger, row: CheckpointRow | undefined): void {
    if (row !== undefined && row.epoch > ledger.epoch) {
      const detail =
        `Another process has taken over journal stream ${ledger.stream} (epoch ${row.epoch}, ours is ${ledger.epoch}): ` +
        'this data directory is a copy, or was copied. Increments acknowledged here stay in the journal; ' +
        '`npm run journal -- rebind` gives them a stream of their own.';
      this.#parts.tell({ kind: 'foreign-owner', detail });
    }
    this.failed(
      new JournalError('journal-fenced', `The checkpoint of stream ${ledger.stream} is not where it was left.`),
    );
  }

  #add(cell: number, amount: number): void {
    this.#gauges[cell] = (this.#gauges[cell] ?? 0) + amount;
  }

  #publish(): void {
    let keys = 0;
    let bytes = 0;
    let increments = 0;
    let journalBytes = 0;
    let tokens = 0;
    for (const { ledger, journal } of this.#streams()) {
      keys += ledger.pendingKeys;
      bytes += ledger.pendingBytes;
      increments += ledger.pendingIncrements;
      journalBytes += journal.bytes;
      tokens += ledger.pendingTokens;
    }
    this.#gauges[GAUGE.pendingKeys] = keys;
    this.#gauges[GAUGE.pendingBytes] = bytes;
    this.#gauges[GAUGE.pendingIncrements] = increments;
    this.#gauges[GAUGE.journalBytes] = journalBytes;
    this.#gauges[GAUGE.pendingTokens] = tokens;
  }
}

function isDatabaseAway(error: unknown): boolean {
  return error instanceof CounterError && error.code === 'database-unavailable';
}

function unreadRange(stream: string): PendingRange {
  return { stream, afterLsn: 0, throughLsn: undefined, increments: 0 };
}

function rangeOf(ledger: StreamLedger): PendingRange {
  return {
    stream: ledger.stream,
    afterLsn: ledger.checkpoint,
    throughLsn: ledger.appliedLsn,
    increments: ledger.pendingIncrements,
  };
}
