/**
 * Idempotent requests that the row of their stream does not cover. Their idempotency keys may have been pruned, so nobody can
 * tell whether they are duplicates. The flush writes them to `rejected_increments`, one row an increment. Shard thread.
 */
import type { UncoveredIncrement } from '../../../db/binary-array.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  incrementEnd,
  keyBytesAt,
  keyStart,
} from '../../protocol/record-layout.js';
import type { IdempotentRequest } from './idempotent-requests.js';

/** Bytes of a row besides its key, as MAX_PENDING_BYTES counts them. */
const ROW_BYTES = 400;

/** The requests of one range, in order. */
export class UncoveredRequests {
  readonly #rows: UncoveredIncrement[] = [];
  #requests = 0;
  #increments = 0;
  #bytes = 0;

  /** Number of requests. */
  get size(): number {
    return this.#requests;
  }

  /** Number of increments as sent. */
  get increments(): number {
    return this.#increments;
  }

  /** Each row counts as a pending key. */
  get rows(): readonly UncoveredIncrement[] {
    return this.#rows;
  }

  get pendingBytes(): number {
    return this.#bytes;
  }

  /** Adds the request whose entry is at `at` of `bytes`, of a record with this LSN and time. Returns its increments. */
  add(view: DataView, bytes: Uint8Array, at: number, lsn: Lsn, time: DatabaseTime): number {
    const idempotencyKey = bytes.slice(idempotencyKeyStart(at), idempotencyKeyEnd(view, at));
    const digest = bytes.slice(digestStart(at), digestStart(at) + DIGEST_BYTES);
    const end = idempotentRequestEnd(view, at);
    let increments = 0;
    for (let next = idempotencyKeyEnd(view, at); next < end; next = incrementEnd(view, next)) {
      const key = bytes.slice(keyStart(next), keyStart(next) + keyBytesAt(view, next));
      this.#push({ key, amount: amountAt(view, next), lsn, idempotencyKey, digest, time });
      increments += 1;
    }
    this.#requests += 1;
    this.#increments += increments;
    return increments;
  }

  /** Adds a request that was summed by key already. */
  addSummed({ idempotencyKey, digest, requestSums, increments, time }: IdempotentRequest, lsn: Lsn): void {
    const keyOfRequest = Buffer.from(idempotencyKey, 'latin1');
    for (const { key, sum } of requestSums)
      this.#push({ key, amount: sum, lsn, idempotencyKey: keyOfRequest, digest, time });
    this.#requests += 1;
    this.#increments += increments;
  }

  #push(row: UncoveredIncrement): void {
    this.#rows.push(row);
    this.#bytes += ROW_BYTES + row.key.length;
  }
}
