/** One shard, for all journals and roles. Shard thread. Its streams are behind `streams/shard-streams.ts`. */
import type { DatabaseTime, Lsn } from '../../core/checkpoint.js';
import { JournalError } from '../../core/errors.js';
import type { RecordBytes } from '../journal/journal.js';
import type { HotKey, PendingAnswer, PendingRange, SeenCheckpoints } from '../protocol/control-messages.js';
import { countIncrements, readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../protocol/record-layout.js';
import { STAT } from '../protocol/stats.js';
import type { GroupTarget } from './group-commit.js';
import { HotKeys } from './hot-keys.js';
import type { KnownKey } from './idempotency/idempotency-window.js';
import type { ShardContext } from './shard-context.js';
import { pendingIn } from './streams/owned-stream.js';
import type { ShardStreams } from './streams/shard-streams.js';

/** A shard, as group commit and the control port use it. */
export class Shard implements GroupTarget {
  readonly #context: ShardContext;
  readonly #streams: ShardStreams;
  readonly #hotKeys: HotKeys;

  constructor(context: ShardContext, streams: ShardStreams) {
    const { clock, random } = context.deps;
    this.#context = context;
    this.#streams = streams;
    this.#hotKeys = new HotKeys(() => clock.monotonic(), random);
  }

  /** Settles when the shard takes requests, if only to refuse them, or is to stop. */
  start(): Promise<void> {
    return this.#streams.start();
  }

  /** Ends the retries of the start, because the shard stops. Settles when the start has ended. */
  endStart(): Promise<void> {
    return this.#streams.endStart();
  }

  open(): Promise<void> | undefined {
    return this.#streams.open();
  }

  coversIdempotent(heardTime: DatabaseTime): boolean {
    return this.#streams.coversIdempotent(heardTime);
  }

  isStale(generation: number): boolean {
    return this.#streams.isStale(generation);
  }

  get groupBytesMax(): number {
    return this.#streams.groupBytesMax;
  }

  get heardTime(): DatabaseTime {
    return this.#streams.heardTime;
  }

  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Lsn | Promise<Lsn> {
    // The thread ends only after the current task. Under a claim that was just lost or moved, a record could get an LSN below
    // the checkpoint and count as committed.
    if (this.#context.phase === 'failed') throw new JournalError('journal-fenced', 'The shard has failed and ends.');
    return this.#streams.append(group, heardTime);
  }

  apply(group: readonly RecordBytes[], lastLsn: Lsn): void {
    const { pendingIn: target, time } = this.#streams.endAppend();
    let increments = 0;
    let lsn = lastLsn - group.length;
    for (const record of group) {
      lsn += 1;
      const applied =
        target === undefined
          ? countIncrements(record)
          : target.pendingSums.apply(lsn, record, RECORD_HEADER_BYTES, record.length, time, acceptedAt(record));
      this.#hotKeys.feed(record, applied);
      increments += applied;
    }
    const { balance } = this.#context;
    balance.observeGroup(group.length);
    balance.publish(this.#streams, { accepted: increments, handedOver: target === undefined ? increments : 0 });
    target?.flusher.noticeApplied();
  }

  /** Looks only in the written stream, where new increments go. A key of another stream counts as new. */
  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean {
    return this.#streams.written?.holds(hash, bytes, start, length) === true;
  }

  admitKey(idempotencyKey: string, digest: Uint8Array): KnownKey {
    return this.#context.window.admit(idempotencyKey, digest);
  }

  lookUpKey(idempotencyKey: string, digest: Uint8Array): KnownKey {
    return this.#context.window.look(idempotencyKey, digest);
  }

  noticeReplays(requests: number): void {
    this.#context.balance.count(STAT.replays, requests);
  }

  endGroup(durable: boolean): void {
    this.#context.window.endGroup(durable);
  }

  failed(error: unknown): void {
    if (!this.#streams.survives(error)) this.#context.fail(error);
  }

  /** The pending sums of keys in all streams, above the checkpoints that a read saw. Null: no stream holds the key. */
  pendingOf(keys: readonly Uint8Array[], seen: SeenCheckpoints): PendingAnswer {
    return this.#streams.isOlder(seen) ? 'again' : pendingIn(this.#streams.flushed, keys, seen);
  }

  /** The keys with the most increments now, at most `most`. */
  hotKeys(most: number): readonly HotKey[] {
    return this.#hotKeys.hottest(most);
  }

  /**
   * Commits everything acknowledged before the call. Resolves to the number of keys written. Rejects with CounterError
   * `database-unavailable`, or with `roll-up-behind` where others flush and have not done so within half a minute.
   */
  flush(): Promise<number> {
    return this.#streams.flush();
  }

  /** Flushes once more, then closes or releases the streams. Returns what stays in the journal. */
  async drain(): Promise<readonly PendingRange[]> {
    const { setAside, deps } = this.#context;
    this.#context.drain();
    const left = await this.#streams.drain();
    setAside.close();
    await deps.database.close();
    return left;
  }
}

/** When the HTTP thread made the record, ms since 1970. */
function acceptedAt(record: RecordBytes): number {
  return readUint64(new DataView(record.buffer, record.byteOffset, record.byteLength), RECORD_OFFSET.acceptedAt);
}
