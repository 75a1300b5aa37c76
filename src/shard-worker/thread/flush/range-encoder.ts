/**
 * Turns frozen ranges into flush requests. Shard thread.
 */
import { IdempotentArrayEncoder, SumArrayEncoder, type IdempotentFlushArrays } from '../../../db/binary-array.js';
import type { FlushRequest } from '../../../db/flush-statement.js';
import { DIGEST_BYTES } from '../../protocol/record-layout.js';
import type { IdempotentRequests } from '../idempotency/idempotent-requests.js';
import type { FrozenRange } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';
import { rejectedRows, type PoisonKey } from './poison-search.js';

/** The encoder of one shard, whose streams share its memory. */
export class RangeEncoder {
  readonly #sums = new SumArrayEncoder();
  readonly #idempotent = new IdempotentArrayEncoder();

  /** The flush of a range, with its `poison` keys set aside. Its buffers are valid until the next call. */
  encode(range: FrozenRange, poison: readonly PoisonKey[] = []): FlushRequest {
    const { stream, epoch, fromLsn, toLsn, acceptedThroughMs, sums, idempotent } = range;
    this.#encodeSums(sums, new Set(poison.map(({ key }) => key.entry)));
    const requestSums = poison.flatMap(({ key }) => key.requestSums.map(({ requestSum }) => requestSum.number));
    const idempotencyKeys = this.#encodeIdempotent(idempotent, new Set(requestSums));
    return {
      stream,
      epoch,
      fromLsn,
      toLsn,
      acceptedThrough: new Date(acceptedThroughMs),
      keys: this.#sums.keys(),
      amounts: this.#sums.amounts(),
      ...(idempotencyKeys === undefined ? {} : { idempotencyKeys }),
      rejected: poison.flatMap((row) => rejectedRows(sums, row)),
    };
  }

  #encodeSums(sums: SummingMap, without: ReadonlySet<number>): void {
    const encoder = this.#sums;
    const { arena } = sums;
    encoder.reset(sums.size, sums.arenaBytes);
    for (let entry = 0; entry < sums.size; entry += 1) {
      if (without.size > 0 && without.has(entry)) continue;
      encoder.append(arena, sums.keyStart(entry), sums.keyBytes(entry), sums.sum(entry));
    }
  }

  /** Undefined where the range has no idempotent requests. `without`: numbers of request sums. */
  #encodeIdempotent(idempotent: IdempotentRequests, without: ReadonlySet<number>): IdempotentFlushArrays | undefined {
    if (idempotent.size === 0) return undefined;
    const encoder = this.#idempotent;
    const { idempotencyKeys, totals, digests } = idempotent;
    encoder.reset();
    for (let request = 0; request < idempotent.size; request += 1) {
      const key = idempotencyKeys.keyStart(request);
      const keyBytes = idempotencyKeys.keyBytes(request);
      encoder.appendRequest(idempotencyKeys.arena, key, keyBytes, digests, request * DIGEST_BYTES, DIGEST_BYTES);
      const end = idempotent.sumsEnd(request);
      for (let requestSum = idempotent.sumsStart(request); requestSum < end; requestSum += 1) {
        if (without.size > 0 && without.has(requestSum)) continue;
        const entry = idempotent.sumEntry(requestSum);
        const sum = idempotent.sumAmount(requestSum);
        encoder.appendSum(totals.arena, totals.keyStart(entry), totals.keyBytes(entry), sum);
      }
    }
    return encoder.finish();
  }
}
