/** The parameters of a flush that a walk sends: each record adds 1 to a key of its own. */
import { encodeKeys, IdempotentArrayEncoder, SumArrayEncoder } from '#product/db/binary-array.js';

/** A record: a request, and N in seconds. */
export interface WalkRecord {
  /** The key of its counter, and its idempotency key if it is not a plain request. '': the record has no increments. */
  readonly token: string;
  readonly heard: number;
  readonly isPlain: boolean;
}

/** A record without increments: an opening record, or a heartbeat. */
export function emptyRecord(heard: number): WalkRecord {
  return { token: '', heard, isPlain: true };
}

/** The digest of every request. */
export const DIGEST = Buffer.alloc(16, 1);

const NO_KEY = Buffer.alloc(0);
/** An encoder takes far more memory than a walk needs, so walks use these again, and keep copies: a flush may be sent again. */
const SUMS = new SumArrayEncoder();
const IDEMPOTENT = new IdempotentArrayEncoder();
const NONE = Buffer.from(encodeKeys([]));
const NO_INTEGERS = Buffer.from(SUMS.amounts());

/**
 * The parameters of FLUSH_WITH_REJECTED for the records that follow the checkpoint. N is that of the last one; `heard` replaces
 * it.
 */
export function valuesOfFlush(
  stream: string,
  { epoch, lsn, coveredFrom }: { readonly epoch: number; readonly lsn: number; readonly coveredFrom: number },
  range: readonly WalkRecord[],
  heard = range.at(-1)?.heard ?? 0,
): readonly unknown[] {
  IDEMPOTENT.reset();
  const plain: Buffer[] = [];
  const aside: { readonly token: Buffer; readonly lsn: number; readonly heard: number }[] = [];
  const seen = new Set<string>();
  range.forEach(({ token, heard: recordHeard, isPlain }, index) => {
    const bytes = Buffer.from(token);
    if (token === '') return;
    if (isPlain) {
      plain.push(bytes);
    } else if (recordHeard < coveredFrom) {
      aside.push({ token: bytes, lsn: lsn + index + 1, heard: recordHeard });
    } else if (!seen.has(token)) {
      seen.add(token);
      IDEMPOTENT.appendRequest(bytes, 0, bytes.length, DIGEST, 0, DIGEST.length);
      IDEMPOTENT.appendSum(bytes, 0, bytes.length, 1);
    }
  });
  const { idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts } = IDEMPOTENT.finish();
  const sums = [idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts].map((array) => Buffer.from(array));
  const tokens = aside.length === 0 ? NONE : encodeKeys(aside.map(({ token }) => token));
  return [
    ...[stream, epoch, lsn, lsn + range.length, textOfSeconds(heard)],
    ...[...onesOf(plain), ...sums],
    ...[NONE, NONE, [], [], NONE, NONE],
    ...[tokens, integersOf(aside.map(() => 1)), integersOf(aside.map((row) => row.lsn)), tokens],
    ...[aside.length === 0 ? NONE : encodeKeys(aside.map(() => DIGEST)), integersOf(aside.map((row) => row.heard))],
  ];
}

/** A time in seconds since 1970 as text; 0 is -infinity. */
export function textOfSeconds(seconds: number): string {
  return seconds === 0 ? '-infinity' : new Date(1000 * seconds).toISOString();
}

/** Keys, each with an increment of 1: both arrays. */
export function onesOf(keys: readonly Buffer[]): readonly [keys: Buffer, amounts: Buffer] {
  if (keys.length === 0) return [NONE, NO_INTEGERS];
  SUMS.reset();
  for (const key of keys) SUMS.append(key, 0, key.length, 1);
  return [Buffer.from(SUMS.keys()), Buffer.from(SUMS.amounts())];
}

function integersOf(values: readonly number[]): Buffer {
  if (values.length === 0) return NO_INTEGERS;
  SUMS.reset();
  for (const value of values) SUMS.append(NO_KEY, 0, 0, value);
  return Buffer.from(SUMS.amounts());
}
