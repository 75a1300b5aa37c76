/** The parameters of a flush that a walk sends: each record adds 1 to a key of its own. */
import { encodeKeys, IdempotentArrayEncoder, SumArrayEncoder } from '#product/db/binary-array.js';

/** A record: a request, and N in seconds. */
export interface WalkRecord {
  /** The key of its counter, and its idempotency key if it is not a plain request. '': the record has no increments. */
  readonly token: string;
  readonly heard: number;
  readonly isPlain: boolean;
}

/** The digest of every request. */
export const DIGEST = Buffer.alloc(16, 1);

const NO_KEY = Buffer.alloc(0);
/** An encoder takes far more memory than a walk needs, so arrays without elements are not made anew. */
const NONE = encodeKeys([]);
const NO_INTEGERS = new SumArrayEncoder().amounts();

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
  const plain = new SumArrayEncoder();
  const idempotent = new IdempotentArrayEncoder();
  const aside: { readonly token: Buffer; readonly lsn: number; readonly heard: number }[] = [];
  const seen = new Set<string>();
  range.forEach(({ token, heard: recordHeard, isPlain }, index) => {
    const bytes = Buffer.from(token);
    if (token === '') return;
    if (isPlain) {
      plain.append(bytes, 0, bytes.length, 1);
    } else if (recordHeard < coveredFrom) {
      aside.push({ token: bytes, lsn: lsn + index + 1, heard: recordHeard });
    } else if (!seen.has(token)) {
      seen.add(token);
      idempotent.appendRequest(bytes, 0, bytes.length, DIGEST, 0, DIGEST.length);
      idempotent.appendSum(bytes, 0, bytes.length, 1);
    }
  });
  const { idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts } = idempotent.finish();
  const tokens = aside.length === 0 ? NONE : encodeKeys(aside.map(({ token }) => token));
  return [
    ...[stream, epoch, lsn, lsn + range.length, textOfSeconds(heard)],
    ...[plain.keys(), plain.amounts(), idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts],
    ...[NONE, NONE, [], [], NONE, NONE],
    ...[tokens, integersOf(aside.map(() => 1)), integersOf(aside.map((row) => row.lsn)), tokens],
    ...[aside.length === 0 ? NONE : encodeKeys(aside.map(() => DIGEST)), integersOf(aside.map((row) => row.heard))],
  ];
}

/** A time in seconds since 1970 as text; 0 is -infinity. */
export function textOfSeconds(seconds: number): string {
  return seconds === 0 ? '-infinity' : new Date(1000 * seconds).toISOString();
}

function integersOf(values: readonly number[]): Buffer {
  if (values.length === 0) return NO_INTEGERS;
  const encoder = new SumArrayEncoder();
  for (const value of values) encoder.append(NO_KEY, 0, 0, value);
  return encoder.amounts();
}
