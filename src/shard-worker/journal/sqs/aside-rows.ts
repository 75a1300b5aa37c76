/**
 * Records as rows of `rejected_increments`. Shard thread.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  incrementEnd,
  isIncrement,
  keyStart,
} from '../../protocol/record-layout.js';

/** Increments as columns. */
export class AsideRows {
  readonly keys: Buffer[] = [];
  readonly amounts: string[] = [];
  readonly lsns: Lsn[] = [];
  readonly idempotencyKeys: (string | null)[] = [];
  readonly digests: (Buffer | null)[] = [];

  add(lsn: Lsn, entries: Uint8Array): void {
    const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    for (let at = 0; at < bytes.length;) {
      if (isIncrement(view, at)) at = this.#addIncrement(lsn, bytes, view, at, null, null);
      else {
        const idempotencyKey = bytes.toString('latin1', idempotencyKeyStart(at), idempotencyKeyEnd(view, at));
        const digest = bytes.subarray(digestStart(at), digestStart(at) + DIGEST_BYTES);
        const end = idempotentRequestEnd(view, at);
        for (at = idempotencyKeyEnd(view, at); at < end;)
          at = this.#addIncrement(lsn, bytes, view, at, idempotencyKey, digest);
      }
    }
  }

  #addIncrement(
    lsn: Lsn,
    bytes: Buffer,
    view: DataView,
    at: number,
    idempotencyKey: string | null,
    digest: Buffer | null,
  ): number {
    const end = incrementEnd(view, at);
    this.keys.push(bytes.subarray(keyStart(at), end));
    this.amounts.push(String(amountAt(view, at)));
    this.lsns.push(lsn);
    this.idempotencyKeys.push(idempotencyKey);
    this.digests.push(digest);
    return end;
  }
}
