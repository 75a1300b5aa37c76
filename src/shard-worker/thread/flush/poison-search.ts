/**
 * Finds the keys of a range that PostgreSQL refuses (poison), by halving the range. Shard thread.
 *
 * A key is a number: its entry among the plain sums or, after those, among the totals of idempotent requests. So a part of the
 * range is two numbers, and a probe copies only the keys of its part. The memory of a search depends on {@link PROBE_KEYS_MAX}
 * and on the poison found, not on the backlog.
 */
import { SumArrayEncoder, type Refusal } from '../../../db/binary-array.js';
import type { StatementRefusedError } from '../../../db/database-errors.js';
import { addSums, type Sum } from '../../../core/increment.js';
import { printablePrefix } from '../../../core/logger.js';
import type { FrozenRange } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';

/** Keys of one probe. A probe of a whole backlog would exceed the usual time limit. */
export const PROBE_KEYS_MAX = 10_000;

/** Most different reasons that one flush keeps. A trigger may put the key into each message. */
const REASONS_MAX = 100;
const REASON_CHARACTERS_MAX = 500;
const REASON_OMITTED = '(reason omitted: PostgreSQL gave too many different ones)';

/** The poison keys of a range, each with the reason of PostgreSQL. */
export class Poison {
  readonly #plain = new Map<number, Refusal>();
  readonly #totals = new Map<number, Refusal>();
  /** By SQLSTATE and reason: rows share them. */
  readonly #refusals = new Map<string, Refusal>();
  #size = 0;

  /** Number of keys. */
  get size(): number {
    return this.#size;
  }

  /** By entry among the plain sums. */
  get plain(): ReadonlyMap<number, Refusal> {
    return this.#plain;
  }

  /** By entry among the totals of idempotent requests. */
  get totals(): ReadonlyMap<number, Refusal> {
    return this.#totals;
  }

  /** Adds a key; an entry is -1 where the range has none. */
  add(plain: number, total: number, { message, sqlState }: StatementRefusedError): void {
    const refusal = this.#shared(message.slice(0, REASON_CHARACTERS_MAX), sqlState);
    if (plain >= 0) this.#plain.set(plain, refusal);
    if (total >= 0) this.#totals.set(total, refusal);
    this.#size += 1;
  }

  #shared(reason: string, sqlState: string): Refusal {
    const name = `${sqlState} ${reason}`;
    const known = this.#refusals.get(name);
    if (known !== undefined) return known;
    if (this.#refusals.size >= REASONS_MAX && reason !== REASON_OMITTED) return this.#shared(REASON_OMITTED, sqlState);
    const refusal = { reason, sqlState };
    this.#refusals.set(name, refusal);
    return refusal;
  }
}

/** The keys of the rows that a flush set aside, for the log. */
export interface RejectedKeys {
  /** Number of keys that PostgreSQL refused. */
  readonly keys: number;
  /** One of them, shortened and printable. */
  readonly key: string;
  /** Why PostgreSQL refused that one. */
  readonly reason: string;
  readonly sqlState: string;
}

/** Tries rows without committing them; undefined if PostgreSQL takes them all. It may append to them. */
export type Probe = (rows: SumArrayEncoder) => Promise<StatementRefusedError | undefined>;

/** The poison keys of a range. Rejects where a probe does. */
export async function findPoison(range: FrozenRange, probe: Probe): Promise<Poison> {
  const encoder = new SumArrayEncoder();
  const end = range.sums.size + range.idempotent.totals.size;
  const poison = new Poison();
  for (let first = 0; first < end; first += PROBE_KEYS_MAX) {
    // Untried parts, the next one last. Parts are halved, so there are few.
    const parts: (readonly [from: number, to: number])[] = [[first, Math.min(first + PROBE_KEYS_MAX, end)]];
    for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
      const [from, to] = part;
      encoder.reset();
      for (let key = from; key < to; key += 1) appendKey(encoder, range, key);
      if (encoder.count === 0) continue;
      const refusal = await probe(encoder);
      if (refusal === undefined) continue;
      const half = from + ((to - from) >> 1);
      if (to - from === 1) poison.add(plainEntry(range, from), totalEntry(range, from), refusal);
      else parts.push([half, to], [from, half]);
    }
  }
  return poison;
}

/**
 * Appends a key with everything that the range adds to it, because a constraint may refuse only the whole. A key that is also
 * in idempotent requests has two numbers; the second appends nothing.
 */
function appendKey(encoder: SumArrayEncoder, range: FrozenRange, key: number): void {
  const { sums, idempotent } = range;
  const plain = plainEntry(range, key);
  if (key >= sums.size && plain >= 0) return;
  const total = totalEntry(range, key);
  const map = plain >= 0 ? sums : idempotent.totals;
  const entry = plain >= 0 ? plain : total;
  const whole: Sum = plain >= 0 && total >= 0 ? addSums(sums.sum(plain), idempotent.totals.sum(total)) : map.sum(entry);
  encoder.append(map.arena, map.keyStart(entry), map.keyBytes(entry), whole);
}

/** The key's entry among the plain sums, or -1. */
function plainEntry({ sums, idempotent }: FrozenRange, key: number): number {
  return key < sums.size ? key : sameKey(sums, idempotent.totals, key - sums.size);
}

/** The key's entry among the totals of idempotent requests, or -1. */
function totalEntry({ sums, idempotent }: FrozenRange, key: number): number {
  return key >= sums.size ? key - sums.size : sameKey(idempotent.totals, sums, key);
}

/** The entry in `map` of the key that `other` has at `entry`, or -1. */
function sameKey(map: SummingMap, other: SummingMap, entry: number): number {
  if (map.size === 0) return -1;
  return map.find(other.keyHash(entry), other.arena, other.keyStart(entry), other.keyBytes(entry));
}

/**
 * Number of increments that a flush set aside with these keys. Requests whose idempotency key is in `duplicates` do not count.
 * Where a request is set aside in part, each of its sums counts as one increment.
 */
export function rejectedIncrements(
  { sums, idempotent }: FrozenRange,
  poison: Poison,
  duplicates: readonly string[],
): number {
  let increments = 0;
  for (const entry of poison.plain.keys()) increments += sums.entryIncrements(entry);
  if (poison.totals.size === 0) return increments;
  const known = new Set(duplicates);
  for (let request = 0; request < idempotent.size; request += 1) {
    const [start, end] = [idempotent.sumsStart(request), idempotent.sumsEnd(request)];
    let rejected = 0;
    for (let sum = start; sum < end; sum += 1) if (poison.totals.has(idempotent.sumEntry(sum))) rejected += 1;
    if (rejected === 0 || known.has(idempotent.idempotencyKey(request))) continue;
    increments += rejected === end - start ? idempotent.incrementsOf(request) : rejected;
  }
  return increments;
}

/** The poison keys, at least one, for the log. */
export function rejectedKeys({ sums, idempotent }: FrozenRange, { plain, totals, size }: Poison): RejectedKeys {
  const [map, refused] = plain.size > 0 ? [sums, plain] : [idempotent.totals, totals];
  const [first] = refused;
  if (first === undefined) throw new TypeError('no key is poison');
  const [entry, refusal] = first;
  const start = map.keyStart(entry);
  return { keys: size, key: printablePrefix(map.arena.subarray(start, start + map.keyBytes(entry))), ...refusal };
}
