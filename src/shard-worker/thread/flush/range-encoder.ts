/**
 * Turns frozen ranges into flush requests. Shard thread.
 */
import {
  IdempotentArrayEncoder,
  RejectedArrayEncoder,
  SumArrayEncoder,
  UncoveredArrayEncoder,
  type IdempotentFlushArrays,
  type RejectedRows,
  type UncoveredRows,
} from '../../../db/binary-array.js';
import type { FlushRequest } from '../../../db/flush-statement.js';
import { DIGEST_BYTES } from '../../protocol/record-layout.js';
import type { IdempotentRequests } from '../idempotency/idempotent-requests.js';
import type { FrozenRange } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';
import { Poison } from './poison-search.js';

const NO_POISON = new Poison();

/** The encoder of one shard, whose streams share its memory. */
export class RangeEncoder {
  readonly #sums = new SumArrayEncoder();
  readonly #idempotent = new IdempotentArrayEncoder();

  /** The flush of a range, with its `poison` keys set aside. Its buffers are valid until the next call. */
  encode(range: FrozenRange, poison: Poison = NO_POISON): FlushRequest {
    const { stream, epoch, fromLsn, toLsn, acceptedThrough, sums, idempotent, uncovered } = range;
    this.#encodeSums(sums, poison);
    const idempotencyKeys = this.#encodeIdempotent(idempotent, poison);
    return {
      stream,
      epoch,
      fromLsn,
      toLsn,
      acceptedThrough,
      keys: this.#sums.keys(),
      amounts: this.#sums.amounts(),
      ...(idempotencyKeys === undefined ? {} : { idempotencyKeys }),
      ...(poison.size === 0 ? {} : { rejected: rejectedRows(range, poison) }),
      ...(uncovered.size === 0 ? {} : { uncovered: uncoveredRows(range) }),
    };
  }

  #encodeSums(sums: SummingMap, { plain }: Poison): void {
    const encoder = this.#sums;
    const { arena } = sums;
    encoder.reset(sums.size, sums.arenaBytes);
    for (let entry = 0; entry < sums.size; entry += 1) {
      if (plain.size > 0 && plain.has(entry)) continue;
      encoder.append(arena, sums.keyStart(entry), sums.keyBytes(entry), sums.sum(entry));
    }
  }

  /** Undefined if the range has no idempotent requests. */
  #encodeIdempotent(idempotent: IdempotentRequests, poison: Poison): IdempotentFlushArrays | undefined {
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
        const entry = idempotent.sumEntry(requestSum);
        if (poison.totals.size > 0 && poison.totals.has(entry)) continue;
        const sum = idempotent.sumAmount(requestSum);
        encoder.appendSum(totals.arena, totals.keyStart(entry), totals.keyBytes(entry), sum);
      }
    }
    return encoder.finish();
  }
}

/** The rows of `rejected_increments`: one for each plain sum and each request sum of a poison key. */
function rejectedRows({ sums, idempotent }: FrozenRange, poison: Poison): RejectedRows {
  const encoder = new RejectedArrayEncoder();
  for (const [entry, refusal] of poison.plain) {
    const key = sums.keyStart(entry);
    encoder.append(sums.arena, key, sums.keyBytes(entry), sums.sum(entry), refusal);
  }
  const { totals, idempotencyKeys } = idempotent;
  for (let request = 0; request < idempotent.size && poison.totals.size > 0; request += 1) {
    const end = idempotent.sumsEnd(request);
    for (let requestSum = idempotent.sumsStart(request); requestSum < end; requestSum += 1) {
      const entry = idempotent.sumEntry(requestSum);
      const refusal = poison.totals.get(entry);
      if (refusal === undefined) continue;
      const sum = idempotent.sumAmount(requestSum);
      encoder.append(totals.arena, totals.keyStart(entry), totals.keyBytes(entry), sum, refusal, {
        source: idempotencyKeys.arena,
        offset: idempotencyKeys.keyStart(request),
        length: idempotencyKeys.keyBytes(request),
      });
    }
  }
  return encoder.finish();
}

function uncoveredRows({ uncovered }: FrozenRange): UncoveredRows {
  const encoder = new UncoveredArrayEncoder();
  for (const row of uncovered.rows) encoder.append(row);
  return encoder.finish();
}
