/** A flush: its parameters, and what it did. */
import { decodeBytes, decodeIntegers, decodeTexts } from '../binary-arrays.js';
import type { UncoveredRow } from './tables.js';
import { timeOf } from './values.js';

/** The effect of a flush. */
export interface FlushEffect {
  /** Undefined: another node has counted a request, by its idempotency key. */
  readonly stream: string | undefined;
  /** The epoch that the statement carried. */
  readonly epoch: number;
  readonly from: number;
  readonly to: number;
  readonly sums: readonly (readonly [string, bigint])[];
  readonly uncovered: readonly UncoveredRow[];
}

/** A sum of a flush, of all plain requests or of one idempotent request. */
export interface FlushedSum {
  readonly key: string;
  readonly amount: bigint;
  readonly token: string | undefined;
}

/** The parameters of a flush. */
export interface DecodedFlush {
  readonly stream: string;
  readonly epoch: number;
  readonly from: number;
  readonly to: number;
  readonly acceptedThrough: number;
  readonly tokens: readonly (readonly [token: string, digest: Buffer])[];
  readonly increments: readonly FlushedSum[];
  readonly rejected: readonly FlushedSum[];
  readonly uncovered: readonly UncoveredRow[];
  /** A trigger drops the idempotency keys. */
  readonly isWithoutTokens?: boolean;
}

/** Decodes the parameters of the three flush statements, in the order that `statements.ts` documents. */
export function decodeFlush(values: readonly unknown[]): DecodedFlush {
  const [stream, epoch, from, to, acceptedThrough] = values as [string, unknown, unknown, unknown, unknown];
  const arrays = values as readonly (Buffer | undefined)[];
  const names = textsOf(arrays[7]);
  const contents = bytesOf(arrays[8]);
  const refusedAmounts = integersOf(arrays[13]);
  const refusedTokens = textsOf(arrays[17]);
  return {
    stream,
    epoch: Number(epoch),
    from: Number(from),
    to: Number(to),
    acceptedThrough: timeOf(acceptedThrough) ?? Number.NEGATIVE_INFINITY,
    tokens: names.map((name, index) => [name, contents[index] ?? Buffer.alloc(0)]),
    increments: [...decodeSums(arrays[5], arrays[6], undefined), ...decodeSums(arrays[10], arrays[11], arrays[9])],
    rejected: textsOf(arrays[12]).map((key, index) => ({
      key,
      amount: refusedAmounts[index] ?? 0n,
      token: refusedTokens[index] === '' ? undefined : refusedTokens[index],
    })),
    uncovered: decodeUncovered(stream, arrays.slice(18)),
  };
}

function decodeUncovered(stream: string, arrays: readonly (Buffer | undefined)[]): UncoveredRow[] {
  const [amounts, lsns, seconds] = [integersOf(arrays[1]), integersOf(arrays[2]), integersOf(arrays[5])];
  const [tokens, digests] = [textsOf(arrays[3]), bytesOf(arrays[4])];
  return textsOf(arrays[0]).map((key, index) => ({
    stream,
    lsn: Number(lsns[index]),
    key,
    amount: amounts[index] ?? 0n,
    token: tokens[index] ?? '',
    digest: digests[index] ?? Buffer.alloc(0),
    acceptedAfter: seconds[index] === 0n ? Number.NEGATIVE_INFINITY : 1000 * Number(seconds[index]),
  }));
}

function decodeSums(keys: Buffer | undefined, amounts: Buffer | undefined, tokens: Buffer | undefined): FlushedSum[] {
  const sums = integersOf(amounts);
  const names = textsOf(tokens);
  return textsOf(keys).map((key, index) => ({ key, amount: sums[index] ?? 0n, token: names[index] }));
}

function textsOf(array: Buffer | undefined): string[] {
  return array === undefined ? [] : decodeTexts(array);
}

function bytesOf(array: Buffer | undefined): Buffer[] {
  return array === undefined ? [] : decodeBytes(array);
}

function integersOf(array: Buffer | undefined): bigint[] {
  return array === undefined ? [] : decodeIntegers(array);
}
