/**
 * Finds the keys of a range that PostgreSQL refuses (poison), by halving the range. Shard thread.
 */
import { SumArrayEncoder } from '../../../db/binary-array.js';
import type { StatementRefusedError } from '../../../db/database-errors.js';
import type { RejectedIncrement } from '../../../db/flush-statement.js';
import { addSums, type Sum } from '../../../core/increment.js';
import type { FrozenRange } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';
import type { RequestSum, IdempotentRequest } from '../idempotency/idempotent-requests.js';

/** Keys of one probe. A probe has the usual time limit, which all keys of a backlog together would exceed. */
export const PROBE_KEYS_MAX = 10_000;

/** A sum of an idempotent request. */
interface SumOfRequest {
  readonly request: IdempotentRequest;
  readonly requestSum: RequestSum;
}

/** One key of a range with everything that the range adds to it: a constraint may refuse only the total. */
export interface FlushKey {
  readonly bytes: Uint8Array;
  sum: Sum;
  /** Its entry among the plain sums, or -1. */
  readonly entry: number;
  readonly requestSums: SumOfRequest[];
}

/** A key that PostgreSQL refuses. */
export interface PoisonKey {
  readonly key: FlushKey;
  readonly refusal: StatementRefusedError;
}

/** Tries a text[] of keys with their numeric[] of sums without committing them; undefined where PostgreSQL takes them all. */
export type Probe = (keys: Buffer, amounts: Buffer) => Promise<StatementRefusedError | undefined>;

/** The poison keys of a range. Rejects where a probe does. */
export async function findPoison(range: FrozenRange, probe: Probe): Promise<readonly PoisonKey[]> {
  const encoder = new SumArrayEncoder();
  const keys = keysOf(range);
  const poison: PoisonKey[] = [];
  // Parts that are not tried yet, the next one last.
  const parts: (readonly FlushKey[])[] = [];
  for (let from = 0; from < keys.length; from += PROBE_KEYS_MAX) parts.unshift(keys.slice(from, from + PROBE_KEYS_MAX));
  for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
    encoder.reset();
    for (const { bytes, sum } of part) encoder.append(bytes, 0, bytes.length, sum);
    const refusal = await probe(encoder.keys(), encoder.amounts());
    if (refusal === undefined) continue;
    const [key] = part;
    if (part.length === 1 && key !== undefined) poison.push({ key, refusal });
    else parts.push(part.slice(part.length >> 1), part.slice(0, part.length >> 1));
  }
  return poison;
}

function keysOf({ sums, idempotent }: FrozenRange): readonly FlushKey[] {
  const keys: FlushKey[] = [];
  const byKey = new Map<string, FlushKey>();
  for (let entry = 0; entry < sums.size; entry += 1) {
    const start = sums.keyStart(entry);
    const bytes = sums.arena.slice(start, start + sums.keyBytes(entry));
    const key: FlushKey = { bytes, sum: sums.sum(entry), entry, requestSums: [] };
    keys.push(key);
    if (idempotent.size > 0) byKey.set(Buffer.from(bytes).toString('latin1'), key);
  }
  for (const request of idempotent.values()) {
    for (const requestSum of request.requestSums) {
      const name = Buffer.from(requestSum.key).toString('latin1');
      const known = byKey.get(name);
      if (known === undefined) {
        const key: FlushKey = {
          bytes: requestSum.key,
          sum: requestSum.sum,
          entry: -1,
          requestSums: [{ request, requestSum }],
        };
        keys.push(key);
        byKey.set(name, key);
      } else {
        known.sum = addSums(known.sum, requestSum.sum);
        known.requestSums.push({ request, requestSum });
      }
    }
  }
  return keys;
}

/**
 * Number of increments that a flush set aside with these keys. Requests with an idempotency key among `duplicates` do not
 * count: they were recorded before. Where a request is set aside in part, each of its sums counts as one increment.
 */
export function rejectedIncrements(
  { sums }: FrozenRange,
  poison: readonly PoisonKey[],
  duplicates: readonly string[],
): number {
  let increments = 0;
  const sumsOf = new Map<IdempotentRequest, number>();
  for (const { key } of poison) {
    if (key.entry >= 0) increments += sums.entryIncrements(key.entry);
    for (const { request } of key.requestSums) sumsOf.set(request, (sumsOf.get(request) ?? 0) + 1);
  }
  const known = new Set(duplicates);
  for (const [{ idempotencyKey, requestSums, increments: whole }, rejected] of sumsOf) {
    if (!known.has(idempotencyKey)) increments += rejected === requestSums.length ? whole : rejected;
  }
  return increments;
}

/** The rows of `rejected_increments` for a key. */
export function rejectedRows(sums: SummingMap, { key, refusal }: PoisonKey): readonly RejectedIncrement[] {
  const row = { key: Buffer.from(key.bytes), reason: refusal.message, sqlState: refusal.sqlState };
  const plain = key.entry < 0 ? [] : [{ ...row, amount: String(sums.sum(key.entry)) }];
  return [
    ...plain,
    ...key.requestSums.map(({ request, requestSum }) => ({
      ...row,
      amount: String(requestSum.sum),
      idempotencyKey: request.idempotencyKey,
    })),
  ];
}
