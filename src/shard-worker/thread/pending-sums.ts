/**
 * The pending sums of one stream: the sums of its records above the checkpoint. Shard thread.
 *
 * ```text
 * LSN:   ... checkpoint ]( frozen ]( live ... appliedLsn
 * ```
 *
 * Records are applied to the live map. A flush freezes it: the frozen map belongs to exactly one range of LSNs until that range
 * is known to be committed, and a new live map takes further records. There is at most one frozen map, and only a flush
 * freezes. So during an outage of the database, memory grows with the number of distinct keys, not with time.
 */
import { addSums, type Sum } from '../../core/increment.js';
import type { Checkpoint, DatabaseTime, Lsn } from '../../core/checkpoint.js';
import {
  IDEMPOTENT_MARK,
  idempotentRequestEnd,
  INCREMENT_HEADER_BYTES,
  INCREMENT_OFFSET,
  RECORD_HEADER_BYTES,
} from '../protocol/record-layout.js';
import { SummingMap } from './summing-map.js';
import { IdempotentRequests } from './idempotency/idempotent-requests.js';
import { UncoveredRequests } from './idempotency/uncovered-requests.js';

/** The sums of the records `(fromLsn, toLsn]`, frozen until the outcome of their flush is known. */
export interface FrozenRange {
  readonly stream: string;
  /** Of the stream's owner. */
  readonly epoch: number;
  readonly fromLsn: Lsn;
  readonly toLsn: Lsn;
  readonly sums: SummingMap;
  readonly idempotent: IdempotentRequests;
  /** Idempotent requests to set aside. */
  readonly uncovered: UncoveredRequests;
  /** The time that the last record carries. Everything that the stream accepted before is at or below `toLsn`. */
  readonly acceptedThrough: DatabaseTime;
  /** When its first record was accepted, by the clock of its node, ms since 1970; infinite for an empty range. */
  readonly oldestAcceptedAtMs: number;
}

/** A stream's row as it was taken. */
export interface TakenCheckpoint extends Checkpoint {
  /** Idempotent records with an older time are set aside. */
  readonly coveredFrom: DatabaseTime;
}

/** The epoch of a stream whose row was not taken yet. It is not flushed. */
const NO_EPOCH = -1;

/** The pending sums of one stream. */
export class PendingSums {
  readonly stream: string;
  #epoch: number;
  #coveredFrom: DatabaseTime;
  #checkpointLsn: Lsn;
  #applied: Lsn;
  #live = new SummingMap();
  #spare = new SummingMap();
  #liveIdempotent = new IdempotentRequests();
  #spareIdempotent = new IdempotentRequests();
  #liveUncovered = new UncoveredRequests();
  /** The time that the last applied record carries. */
  #lastTime: DatabaseTime = 0;
  #frozen: FrozenRange | undefined;
  /** Keys of the live map that the frozen one does not hold. */
  #liveOnlyKeys = 0;
  /** Bytes of the entries that were applied since the last freeze. */
  #liveRecordBytes = 0;
  /** When the first record since the last freeze was accepted. */
  #liveAcceptedAtMs = Number.POSITIVE_INFINITY;

  /** `row`: undefined for a new stream, whose row is made later. */
  constructor(stream: string, row: TakenCheckpoint | undefined) {
    const { epoch, lsn, coveredFrom } = row ?? { epoch: NO_EPOCH, lsn: 0, coveredFrom: 0 };
    this.stream = stream;
    this.#epoch = epoch;
    this.#coveredFrom = coveredFrom;
    this.#checkpointLsn = lsn;
    this.#applied = lsn;
  }

  /** The epoch under which this process owns the stream. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Whether the stream's row was taken. */
  get isRegistered(): boolean {
    return this.#epoch !== NO_EPOCH;
  }

  /** The oldest time of an idempotent record that the row covers. */
  get coveredFrom(): DatabaseTime {
    return this.#coveredFrom;
  }

  /** Whether idempotent requests are pending that a row with `coveredFrom` does not cover. */
  hasOlderThan(coveredFrom: DatabaseTime): boolean {
    return (
      this.#liveIdempotent.hasOlderThan(coveredFrom) || this.#frozen?.idempotent.hasOlderThan(coveredFrom) === true
    );
  }

  /**
   * Goes on under a row that was taken while records were applied. Sets aside what the row does not cover.
   *
   * - `same`: the checkpoint is where it was; a frozen range is sent again.
   * - `committed`: the frozen range is committed. The caller settles it.
   * - `elsewhere`: the checkpoint is not one of this process. Nothing is changed.
   */
  take({ epoch, lsn, coveredFrom }: TakenCheckpoint): 'same' | 'committed' | 'elsewhere' {
    const frozen = this.#frozen;
    const isCommitted = lsn === frozen?.toLsn;
    if (!isCommitted && lsn !== this.#checkpointLsn) return 'elsewhere';
    this.#epoch = epoch;
    this.#coveredFrom = coveredFrom;
    if (frozen !== undefined && !isCommitted) {
      for (const request of frozen.idempotent.takeOlderThan(coveredFrom))
        frozen.uncovered.addSummed(request, frozen.toLsn);
      this.#frozen = { ...frozen, epoch };
    }
    for (const request of this.#liveIdempotent.takeOlderThan(coveredFrom))
      this.#liveUncovered.addSummed(request, this.#applied);
    return isCommitted ? 'committed' : 'same';
  }

  /** The LSN up to which this process knows the stream to be in `counters`. */
  get checkpointLsn(): Lsn {
    return this.#checkpointLsn;
  }

  /** Where this process left the stream's row. */
  get checkpoint(): Checkpoint {
    return { epoch: this.epoch, lsn: this.#checkpointLsn };
  }

  /** LSN of the last record applied. */
  get appliedLsn(): Lsn {
    return this.#applied;
  }

  get frozen(): FrozenRange | undefined {
    return this.#frozen;
  }

  /** Whether nothing is pending. */
  get isSettled(): boolean {
    return this.#frozen === undefined && this.#applied === this.#checkpointLsn;
  }

  /** Distinct keys pending, as MAX_PENDING_KEYS counts them. */
  get pendingKeys(): number {
    const frozen = this.#frozen;
    const frozenKeys =
      frozen === undefined ? 0 : frozen.sums.size + frozen.idempotent.requestSums + frozen.uncovered.rows.length;
    return this.#liveOnlyKeys + this.#liveIdempotent.requestSums + this.#liveUncovered.rows.length + frozenKeys;
  }

  /** Keys that a flush started now would write. */
  get liveKeys(): number {
    return this.#live.size + this.#liveIdempotent.requestSums + this.#liveUncovered.rows.length;
  }

  /** Bytes that a flush started now would release, as MAX_PENDING_BYTES counts them. */
  get liveBytes(): number {
    return this.#live.pendingBytes + this.#liveIdempotent.pendingBytes + this.#liveUncovered.pendingBytes;
  }

  /** Bytes of records that a flush started now would cover. */
  get liveRecordBytes(): number {
    return this.#liveRecordBytes;
  }

  /** Idempotent requests that wait for a flush. */
  get pendingIdempotent(): number {
    return this.#liveIdempotent.size + (this.#frozen?.idempotent.size ?? 0);
  }

  /** Bytes pending, as MAX_PENDING_BYTES counts them. */
  get pendingBytes(): number {
    const frozen = this.#frozen;
    if (frozen === undefined) return this.liveBytes;
    const { sums, idempotent, uncovered } = frozen;
    return this.liveBytes + sums.pendingBytes + idempotent.pendingBytes + uncovered.pendingBytes;
  }

  /** Increments applied and not known to be committed. */
  get pendingIncrements(): number {
    const frozen = this.#frozen;
    const live = this.#live.increments + this.#liveIdempotent.increments + this.#liveUncovered.increments;
    if (frozen === undefined) return live;
    return live + frozen.sums.increments + frozen.idempotent.increments + frozen.uncovered.increments;
  }

  /** When the oldest pending record was accepted, ms since 1970; infinite where nothing is pending. */
  get oldestAcceptedAtMs(): number {
    return Math.min(this.#frozen?.oldestAcceptedAtMs ?? Number.POSITIVE_INFINITY, this.#liveAcceptedAtMs);
  }

  /**
   * Adds the entries of a record, which carries `time` and was accepted at `acceptedAtMs` by the clock of its node. Its LSN is
   * above all earlier ones. Sets aside idempotent requests that the row does not cover, before requests are found by
   * idempotency key. Returns the number of increments.
   */
  apply(
    lsn: Lsn,
    bytes: Uint8Array,
    start: number,
    end: number,
    time: DatabaseTime,
    acceptedAtMs = Number.POSITIVE_INFINITY,
  ): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const live = this.#live;
    const frozen = this.#frozen?.sums;
    let at = start;
    let increments = 0;
    // By offset: with the functions of the layout V8 sometimes makes this loop a quarter slower.
    while (at < end) {
      const keyBytes = view.getUint16(at + INCREMENT_OFFSET.keyBytes, true);
      if (keyBytes === IDEMPOTENT_MARK) {
        increments +=
          time < this.#coveredFrom
            ? this.#liveUncovered.add(view, bytes, at, lsn, time)
            : this.#liveIdempotent.add(view, bytes, at, time);
        at = idempotentRequestEnd(view, at);
        continue;
      }
      const hash = view.getUint32(at + INCREMENT_OFFSET.keyHash, true);
      const key = at + INCREMENT_HEADER_BYTES;
      if (live.add(hash, bytes, key, keyBytes, view.getFloat64(at + INCREMENT_OFFSET.amount, true))) {
        if (frozen === undefined || frozen.find(hash, bytes, key, keyBytes) < 0) this.#liveOnlyKeys += 1;
      }
      increments += 1;
      at = key + keyBytes;
    }
    this.#applied = lsn;
    this.#lastTime = time;
    if (acceptedAtMs < this.#liveAcceptedAtMs) this.#liveAcceptedAtMs = acceptedAtMs;
    this.#liveRecordBytes += RECORD_HEADER_BYTES + end - start;
    return increments;
  }

  /**
   * Whether adding to the key makes no new pending key, as MAX_PENDING_KEYS counts them. False for a key that is pending only
   * in idempotent requests: each of their sums is a pending key of its own.
   */
  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean {
    if (this.#live.find(hash, bytes, start, length) >= 0) return true;
    const frozen = this.#frozen;
    return frozen !== undefined && frozen.sums.find(hash, bytes, start, length) >= 0;
  }

  /** Freezes what was applied, for one flush. Everything up to `appliedLsn` must be synced, and nothing may be frozen. */
  freeze(): FrozenRange {
    if (this.#frozen !== undefined) throw new TypeError('a range is frozen already');
    if (!this.isRegistered) throw new TypeError('a stream without a row is not flushed');
    const frozen = {
      stream: this.stream,
      epoch: this.epoch,
      fromLsn: this.#checkpointLsn,
      toLsn: this.#applied,
      sums: this.#live,
      idempotent: this.#liveIdempotent,
      uncovered: this.#liveUncovered,
      acceptedThrough: this.#lastTime,
      oldestAcceptedAtMs: this.#liveAcceptedAtMs,
    };
    this.#frozen = frozen;
    this.#live = this.#spare;
    this.#liveIdempotent = this.#spareIdempotent;
    this.#liveUncovered = new UncoveredRequests();
    this.#liveOnlyKeys = 0;
    this.#liveRecordBytes = 0;
    this.#liveAcceptedAtMs = Number.POSITIVE_INFINITY;
    return frozen;
  }

  /** Moves the checkpoint to the end of the frozen range, which must be committed. */
  settle(): void {
    const frozen = this.#frozen;
    if (frozen === undefined) throw new TypeError('nothing is frozen');
    this.#checkpointLsn = frozen.toLsn;
    this.#frozen = undefined;
    this.#liveOnlyKeys = this.#live.size;
    this.#spare = frozen.sums;
    this.#spare.clear(Math.max(this.#spare.size, this.#live.size));
    this.#spareIdempotent = frozen.idempotent;
    this.#spareIdempotent.clear();
  }

  /** Releases the memory of the sums. Nothing may be pending, and no record may follow. */
  close(): void {
    if (!this.isSettled) throw new TypeError('something is pending');
    this.#live = new SummingMap();
    this.#spare = new SummingMap();
    this.#liveIdempotent = new IdempotentRequests();
    this.#spareIdempotent = new IdempotentRequests();
  }

  /**
   * The pending sum of a key above the checkpoint that a read saw. Undefined if the key is not pending.
   *
   * - `again`: the read must be repeated. Its snapshot is older than what is pending here, or than the recovery of the stream.
   * - A row of a later epoch: another owner answers for the stream, so there is nothing to add.
   */
  pendingOf(hash: number, key: Uint8Array, view: Checkpoint | undefined): Sum | undefined | 'again' {
    // A row that this process has not taken is at the checkpoint, because nothing was flushed.
    const seen = !this.isRegistered
      ? { epoch: this.#epoch, lsn: view?.lsn ?? 0 }
      : (view ?? { epoch: this.#epoch, lsn: 0 });
    if (seen.epoch !== this.epoch) return seen.epoch < this.epoch ? 'again' : undefined;
    const live = addHeld(
      this.#live.get(hash, key, 0, key.length),
      this.#liveIdempotent.totals.get(hash, key, 0, key.length),
    );
    const frozen = this.#frozen;
    if (seen.lsn === this.#checkpointLsn) {
      if (frozen === undefined) return live;
      const held = addHeld(
        frozen.sums.get(hash, key, 0, key.length),
        frozen.idempotent.totals.get(hash, key, 0, key.length),
      );
      return addHeld(live, held);
    }
    if (seen.lsn === frozen?.toLsn) return live;
    return 'again';
  }
}

function addHeld(a: Sum | undefined, b: Sum | undefined): Sum | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return addSums(a, b);
}
