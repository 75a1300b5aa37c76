/**
 * PostgreSQL arrays in binary format (text[], bytea[], numeric[]), ready to be sent as parameters. Makes no string and no object
 * for an element. Any thread. The layouts are those of array_recv, textrecv and numeric_recv in PostgreSQL's source, all
 * big-endian:
 *
 * ```text
 * array    i32 dimensions (1) | i32 has nulls (0) | u32 element type | i32 elements | i32 lower bound (1) | element...
 * element  i32 bytes | value
 * numeric  i16 digits | i16 weight of the first | u16 sign (0, or 0x4000) | i16 scale (0) | digits base 10000, u16 each
 * ```
 */
import type { Sum } from '../core/increment.js';

const HEADER_BYTES = 20;
const COUNT_OFFSET = 12;
const TEXT_OID = 25;
const BYTEA_OID = 17;
const NUMERIC_OID = 1700;
const NUMERIC_HEADER_BYTES = 8;
const NEGATIVE = 0x4000;
const BASE = 10_000;
const DIGITS_OF_GROUP = 4;
/** Groups of a safe integer: 2^53 has 16 decimal digits. */
const SAFE_GROUPS_MAX = 4;
/** PostgreSQL's limit is 131072 decimal digits before the point. */
const DECIMALS_MAX = 131_072;
/** Up to this length a loop is faster than a view for TypedArray.set. */
const COPY_LOOP_BYTES_MAX = 64;
const INITIAL_BYTES = 64 * 1024;
/** Memory beyond this factor is freed: after an outage the arrays are far larger than usual. */
const RETAINED_FACTOR = 8;
/** Most bytes of an amount that is a safe integer. */
const AMOUNT_BYTES_MAX = 4 + NUMERIC_HEADER_BYTES + 2 * SAFE_GROUPS_MAX;
/** PostgreSQL's limit for one value. */
const BYTES_MAX = 0x3fff_ffff;

/** One array that grows; `reset` keeps its memory. */
class ArrayBuilder {
  bytes = new Uint8Array(INITIAL_BYTES);
  view = new DataView(this.bytes.buffer);
  end = HEADER_BYTES;
  readonly #elementType: number;

  constructor(elementType: number) {
    this.#elementType = elementType;
  }

  /** Removes the elements. Frees memory far beyond the needs of the last array. */
  reset(): void {
    if (this.bytes.length > RETAINED_FACTOR * Math.max(this.end, INITIAL_BYTES)) {
      this.bytes = new Uint8Array(INITIAL_BYTES);
      this.view = new DataView(this.bytes.buffer);
    }
    this.end = HEADER_BYTES;
  }

  /** Makes room for `more` bytes at `end`. */
  reserve(more: number): void {
    const needed = this.end + more;
    if (needed <= this.bytes.length) return;
    if (needed > BYTES_MAX) throw new RangeError(`an array of ${needed} bytes exceeds PostgreSQL's limit`);
    const grown = new Uint8Array(Math.min(Math.max(needed, this.bytes.length * 2), BYTES_MAX));
    grown.set(this.bytes.subarray(0, this.end));
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  finish(count: number): Buffer {
    this.view.setInt32(0, 1);
    this.view.setInt32(4, 0);
    this.view.setUint32(8, this.#elementType);
    this.view.setInt32(COUNT_OFFSET, count);
    this.view.setInt32(16, 1);
    return Buffer.from(this.bytes.buffer, 0, this.end);
  }
}

/** Builds the two parameters of plain sums. One owner reuses it. */
export class SumArrayEncoder {
  readonly #keys = new ArrayBuilder(TEXT_OID);
  readonly #amounts = new ArrayBuilder(NUMERIC_OID);
  #count = 0;

  /** Sums since the last reset. */
  get count(): number {
    return this.#count;
  }

  /**
   * Removes the sums; earlier returned buffers may be overwritten. Reserves memory for `sums` sums whose keys have `keyBytes` bytes
   * in total. Growing by doubling would need up to twice the memory, and as much again during each copy.
   */
  reset(sums = 0, keyBytes = 0): void {
    this.#keys.reset();
    this.#keys.reserve(4 * sums + keyBytes);
    this.#amounts.reset();
    this.#amounts.reserve(AMOUNT_BYTES_MAX * sums);
    this.#count = 0;
  }

  /**
   * Appends a sum; its key is `length` bytes of `source` from `offset`, which must be in range. Throws RangeError beyond
   * 1 GiB, or beyond 131072 decimal digits.
   */
  append(source: Uint8Array, offset: number, length: number, sum: Sum): void {
    appendSum(this.#amounts, sum);
    appendBytes(this.#keys, source, offset, length);
    this.#count += 1;
  }

  /** The keys as text[]: a view, valid until the next `append` or `reset`. */
  keys(): Buffer {
    return this.#keys.finish(this.#count);
  }

  /** The sums as numeric[]: a view, valid until the next `append` or `reset`. */
  amounts(): Buffer {
    return this.#amounts.finish(this.#count);
  }
}

/** Builds the parameters of idempotent requests. One owner reuses it. */
export class IdempotentArrayEncoder {
  readonly #idempotencyKeys = new ArrayBuilder(TEXT_OID);
  readonly #digests = new ArrayBuilder(BYTEA_OID);
  readonly #sumIdempotencyKeys = new ArrayBuilder(TEXT_OID);
  readonly #sums = new SumArrayEncoder();
  #count = 0;
  /** The latest idempotency key in #idempotencyKeys. */
  #idempotencyKeyStart = 0;
  #idempotencyKeyBytes = 0;

  /** Requests since the last reset. */
  get count(): number {
    return this.#count;
  }

  /** Removes the requests; earlier returned buffers may be overwritten. */
  reset(): void {
    for (const builder of [this.#idempotencyKeys, this.#digests, this.#sumIdempotencyKeys]) builder.reset();
    this.#sums.reset();
    this.#count = 0;
  }

  /**
   * Appends a request; its sums follow. Its idempotency key is `length` bytes of `source` from `offset`. Its digest is
   * `digestBytes` bytes of `digests` from `digest`. Both must be in range.
   */
  appendRequest(
    source: Uint8Array,
    offset: number,
    length: number,
    digests: Uint8Array,
    digest: number,
    digestBytes: number,
  ): void {
    appendBytes(this.#idempotencyKeys, source, offset, length);
    appendBytes(this.#digests, digests, digest, digestBytes);
    this.#idempotencyKeyStart = this.#idempotencyKeys.end - length;
    this.#idempotencyKeyBytes = length;
    this.#count += 1;
  }

  /** Appends a sum of the latest request; its key is `length` bytes of `source` from `offset`. */
  appendSum(source: Uint8Array, offset: number, length: number, sum: Sum): void {
    appendBytes(
      this.#sumIdempotencyKeys,
      this.#idempotencyKeys.bytes,
      this.#idempotencyKeyStart,
      this.#idempotencyKeyBytes,
    );
    this.#sums.append(source, offset, length, sum);
  }

  /** The five parameters: views, valid until the next `appendRequest`, `appendSum` or `reset`. */
  finish(): IdempotentFlushArrays {
    return {
      idempotencyKeys: this.#idempotencyKeys.finish(this.#count),
      digests: this.#digests.finish(this.#count),
      sumIdempotencyKeys: this.#sumIdempotencyKeys.finish(this.#sums.count),
      sumKeys: this.#sums.keys(),
      sumAmounts: this.#sums.amounts(),
    };
  }
}

/** Builds the parameters of records for `increment_log`. One owner reuses it. */
export class LogArrayEncoder {
  readonly #keys = new ArrayBuilder(TEXT_OID);
  readonly #amounts = new ArrayBuilder(NUMERIC_OID);
  readonly #idempotencyKeys = new ArrayBuilder(TEXT_OID);
  readonly #digests = new ArrayBuilder(BYTEA_OID);
  #increments = 0;
  #requests = 0;

  /** Increments since the last reset. */
  get increments(): number {
    return this.#increments;
  }

  /** Idempotent requests since the last reset. */
  get requests(): number {
    return this.#requests;
  }

  /** Removes everything; earlier returned buffers may be overwritten. */
  reset(): void {
    for (const builder of [this.#keys, this.#amounts, this.#idempotencyKeys, this.#digests]) builder.reset();
    this.#increments = 0;
    this.#requests = 0;
  }

  /**
   * Appends an increment; its key is `length` bytes of `source` from `offset`, its amount a safe integer. Its idempotency key is
   * `idempotencyKeyBytes` bytes of `source` from `idempotencyKey`; 0 bytes: it has none.
   */
  appendIncrement(
    source: Uint8Array,
    offset: number,
    length: number,
    amount: number,
    idempotencyKey = 0,
    idempotencyKeyBytes = 0,
  ): void {
    appendBytes(this.#keys, source, offset, length);
    appendInteger(this.#amounts, amount);
    appendBytes(this.#idempotencyKeys, source, idempotencyKey, idempotencyKeyBytes);
    this.#increments += 1;
  }

  /** Appends the digest of an idempotent request: `length` bytes of `source` from `offset`. */
  appendDigest(source: Uint8Array, offset: number, length: number): void {
    appendBytes(this.#digests, source, offset, length);
    this.#requests += 1;
  }

  /** The parameters, one element an increment and one a request: views, valid until the next call of another method. */
  finish(): LogArrays {
    return {
      keys: this.#keys.finish(this.#increments),
      amounts: this.#amounts.finish(this.#increments),
      idempotencyKeys: this.#idempotencyKeys.finish(this.#increments),
      digests: this.#digests.finish(this.#requests),
    };
  }
}

/** Parallel arrays in binary format. */
export interface LogArrays {
  /** text[] */
  readonly keys: Buffer;
  /** numeric[] */
  readonly amounts: Buffer;
  /** text[], '' for none. */
  readonly idempotencyKeys: Buffer;
  /** bytea[], one element a request. */
  readonly digests: Buffer;
}

/** The elements of an array in binary format, without nulls, in order. */
export class ArrayElements {
  readonly #bytes: Buffer;
  #at = HEADER_BYTES;
  /** Elements. */
  readonly count: number;

  /** `bytes`: as array_send makes it. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.count = bytes.readInt32BE(0) === 0 ? 0 : bytes.readInt32BE(COUNT_OFFSET);
  }

  /** The next element: a view. There must be one. */
  next(): Buffer {
    const start = this.#at + 4;
    this.#at = start + this.#bytes.readInt32BE(this.#at);
    return this.#bytes.subarray(start, this.#at);
  }
}

/** Builds the parameters of rejected rows. */
export class RejectedArrayEncoder {
  readonly #keys = new ArrayBuilder(BYTEA_OID);
  readonly #amounts = new ArrayBuilder(NUMERIC_OID);
  readonly #refusalNumbers = new ArrayBuilder(NUMERIC_OID);
  readonly #idempotencyKeys = new ArrayBuilder(TEXT_OID);
  /** By refusal: its number, from 1 as PostgreSQL counts. */
  readonly #refusals = new Map<Refusal, number>();
  #count = 0;

  /**
   * Appends a row; its key is `length` bytes of `source` from `offset`. Rows with the same `refusal` object share it.
   * `idempotencyKey` is that of its request, if it has one.
   */
  append(
    source: Uint8Array,
    offset: number,
    length: number,
    amount: Sum,
    refusal: Refusal,
    idempotencyKey?: { readonly source: Uint8Array; readonly offset: number; readonly length: number },
  ): void {
    appendBytes(this.#keys, source, offset, length);
    appendSum(this.#amounts, amount);
    const known = this.#refusals.get(refusal);
    if (known === undefined) this.#refusals.set(refusal, this.#refusals.size + 1);
    appendInteger(this.#refusalNumbers, known ?? this.#refusals.size);
    if (idempotencyKey === undefined) appendBytes(this.#idempotencyKeys, source, 0, 0);
    else appendBytes(this.#idempotencyKeys, idempotencyKey.source, idempotencyKey.offset, idempotencyKey.length);
    this.#count += 1;
  }

  finish(): RejectedRows {
    const refusals = [...this.#refusals.keys()];
    return {
      keys: this.#keys.finish(this.#count),
      amounts: this.#amounts.finish(this.#count),
      reasons: refusals.map(({ reason }) => reason),
      sqlStates: refusals.map(({ sqlState }) => sqlState),
      refusalNumbers: this.#refusalNumbers.finish(this.#count),
      idempotencyKeys: this.#idempotencyKeys.finish(this.#count),
    };
  }
}

/** Builds the parameters of increments that the row of their stream does not cover. */
export class UncoveredArrayEncoder {
  readonly #keys = new ArrayBuilder(BYTEA_OID);
  readonly #amounts = new ArrayBuilder(NUMERIC_OID);
  readonly #lsns = new ArrayBuilder(NUMERIC_OID);
  readonly #idempotencyKeys = new ArrayBuilder(TEXT_OID);
  readonly #digests = new ArrayBuilder(BYTEA_OID);
  readonly #times = new ArrayBuilder(NUMERIC_OID);
  #count = 0;

  /** Appends one increment. */
  append({ key, amount, lsn, idempotencyKey, digest, time }: UncoveredIncrement): void {
    appendBytes(this.#keys, key, 0, key.length);
    appendSum(this.#amounts, amount);
    appendInteger(this.#lsns, lsn);
    appendBytes(this.#idempotencyKeys, idempotencyKey, 0, idempotencyKey.length);
    appendBytes(this.#digests, digest, 0, digest.length);
    appendInteger(this.#times, time);
    this.#count += 1;
  }

  finish(): UncoveredRows {
    return {
      keys: this.#keys.finish(this.#count),
      amounts: this.#amounts.finish(this.#count),
      lsns: this.#lsns.finish(this.#count),
      idempotencyKeys: this.#idempotencyKeys.finish(this.#count),
      digests: this.#digests.finish(this.#count),
      times: this.#times.finish(this.#count),
    };
  }
}

/** An increment of an idempotent request whose window can no longer be checked. */
export interface UncoveredIncrement {
  readonly key: Uint8Array;
  readonly amount: Sum;
  /** Of its record. */
  readonly lsn: number;
  readonly idempotencyKey: Uint8Array;
  readonly digest: Uint8Array;
  /** The time of the database in its record, in seconds since 1970; 0: none. */
  readonly time: number;
}

/** Such increments as parallel arrays in binary format. */
export interface UncoveredRows {
  /** bytea[] */
  readonly keys: Buffer;
  /** numeric[] */
  readonly amounts: Buffer;
  /** numeric[] */
  readonly lsns: Buffer;
  /** text[] */
  readonly idempotencyKeys: Buffer;
  /** bytea[] */
  readonly digests: Buffer;
  /** numeric[] */
  readonly times: Buffer;
}

/** Why PostgreSQL refused a row. */
export interface Refusal {
  readonly reason: string;
  readonly sqlState: string;
}

/** Rows that PostgreSQL refused, as parallel arrays in binary format. `reasons` and `sqlStates` are one list of refusals. */
export interface RejectedRows {
  /** bytea[]: PostgreSQL may refuse the bytes as text. */
  readonly keys: Buffer;
  /** numeric[] */
  readonly amounts: Buffer;
  readonly reasons: readonly string[];
  readonly sqlStates: readonly string[];
  /** numeric[]: the number of the row's refusal in that list, from 1. */
  readonly refusalNumbers: Buffer;
  /** text[]: the idempotency key of the row's request, or ''. */
  readonly idempotencyKeys: Buffer;
}

/** Parallel arrays in binary format: one element for each request, and one for each (request, key). */
export interface IdempotentFlushArrays {
  /** text[], each idempotency key once. */
  readonly idempotencyKeys: Buffer;
  /** bytea[] */
  readonly digests: Buffer;
  /** text[] */
  readonly sumIdempotencyKeys: Buffer;
  /** text[], each key once for a request. */
  readonly sumKeys: Buffer;
  /** numeric[] */
  readonly sumAmounts: Buffer;
}

/** Keys as one text[] parameter. */
export function encodeKeys(keys: readonly Uint8Array[]): Buffer {
  const builder = new ArrayBuilder(TEXT_OID);
  for (const key of keys) appendBytes(builder, key, 0, key.length);
  return builder.finish(keys.length);
}

function appendBytes(builder: ArrayBuilder, source: Uint8Array, offset: number, length: number): void {
  builder.reserve(4 + length);
  const { bytes, view } = builder;
  let at = builder.end;
  view.setInt32(at, length);
  at += 4;
  builder.end = at + length;
  if (length > COPY_LOOP_BYTES_MAX) {
    bytes.set(source.subarray(offset, offset + length), at);
    return;
  }
  // In range by the caller's contract.
  for (let from = offset; from < offset + length; from += 1) bytes[at++] = source[from] as number;
}

function appendSum(builder: ArrayBuilder, sum: Sum): void {
  if (typeof sum === 'number') appendInteger(builder, sum);
  else appendBigint(builder, sum);
}

/** `value` is a safe integer. */
function appendInteger(builder: ArrayBuilder, value: number): void {
  builder.reserve(AMOUNT_BYTES_MAX);
  let rest = Math.abs(value);
  const groups = rest === 0 ? 0 : rest < 1e4 ? 1 : rest < 1e8 ? 2 : rest < 1e12 ? 3 : 4;
  const first = appendNumericHeader(builder, groups, value < 0);
  const { view } = builder;
  for (let group = groups - 1; group >= 0; group -= 1) {
    // Exact: floor of a quotient of safe integers, with the remainder by subtraction.
    const quotient = Math.floor(rest / BASE);
    view.setUint16(first + 2 * group, rest - quotient * BASE);
    rest = quotient;
  }
}

/** Converts through a string, because sums beyond 2^53 are rare. */
function appendBigint(builder: ArrayBuilder, value: bigint): void {
  const decimals = (value < 0n ? -value : value).toString();
  if (decimals.length > DECIMALS_MAX)
    throw new RangeError(`a sum of ${decimals.length} digits exceeds PostgreSQL's limit`);
  const groups = value === 0n ? 0 : Math.ceil(decimals.length / DIGITS_OF_GROUP);
  builder.reserve(4 + NUMERIC_HEADER_BYTES + 2 * groups);
  const first = appendNumericHeader(builder, groups, value < 0n);
  for (let group = 0; group < groups; group += 1) {
    const to = decimals.length - DIGITS_OF_GROUP * (groups - 1 - group);
    builder.view.setUint16(first + 2 * group, Number(decimals.slice(Math.max(0, to - DIGITS_OF_GROUP), to)));
  }
}

/** Returns the offset of the digits. */
function appendNumericHeader(builder: ArrayBuilder, groups: number, negative: boolean): number {
  const { view, end } = builder;
  view.setInt32(end, NUMERIC_HEADER_BYTES + 2 * groups);
  view.setInt16(end + 4, groups);
  view.setInt16(end + 6, groups === 0 ? 0 : groups - 1);
  view.setUint16(end + 8, negative ? NEGATIVE : 0);
  view.setInt16(end + 10, 0);
  const first = end + 4 + NUMERIC_HEADER_BYTES;
  builder.end = first + 2 * groups;
  return first;
}
