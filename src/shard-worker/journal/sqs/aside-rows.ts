/**
 * Records as rows of `rejected_increments`. Shard thread.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { RunStatement } from '../../../db/shard-connection.js';
import * as streams from '../../../db/stream-statements.js';
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
import type { ReceivedRecords } from '../stream-log.js';

/**
 * Keeps messages of a stream, in a transaction of the caller. `at`: its row, which is retired; undefined: it has none. Resolves to the
 * number of increments; undefined: roll back, because the row is another one or there is one by now, or rows are not written.
 */
export async function setMessagesAside(
  run: RunStatement,
  messages: readonly ReceivedRecords[],
  at: Checkpoint | undefined,
): Promise<number | undefined> {
  // Callers pass at least one.
  const [{ stream }] = messages as [ReceivedRecords];
  await run({ text: streams.LOCK_SET_ASIDE, values: [stream] });
  if (at !== undefined) {
    const ended = await run({ text: streams.END_AT_GAP, values: [stream, at.epoch, at.lsn] });
    if (ended.length === 0) return undefined;
  }
  const rows = new AsideRows();
  const seen = new Set<Lsn>();
  for (const { lsn, entries, databaseTime } of messages.flatMap(({ records }) => records)) {
    // A queue may have two copies of a message.
    if (!seen.has(lsn)) rows.add(lsn, entries, databaseTime);
    seen.add(lsn);
  }
  if (rows.keys.length === 0) return 0;
  const { keys, amounts, lsns, idempotencyKeys, digests, times } = rows;
  const values = [stream, keys, amounts, lsns, idempotencyKeys, digests, times, at !== undefined];
  const inserted = await run({ text: streams.SET_STREAM_ASIDE, values });
  const isKept = (await run({ text: streams.IS_SET_ASIDE, values: [stream, lsns] })).length > 0;
  return isKept ? inserted.length : undefined;
}

/** Increments as columns. */
class AsideRows {
  readonly keys: Buffer[] = [];
  readonly amounts: string[] = [];
  readonly lsns: Lsn[] = [];
  readonly idempotencyKeys: (string | null)[] = [];
  readonly digests: (Buffer | null)[] = [];
  /** Times of the database that the records carry; 0: none. */
  readonly times: DatabaseTime[] = [];

  add(lsn: Lsn, entries: Uint8Array, time: DatabaseTime): void {
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
    while (this.times.length < this.keys.length) this.times.push(time);
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
