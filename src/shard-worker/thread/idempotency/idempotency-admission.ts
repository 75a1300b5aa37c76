/**
 * Decides which requests of an idempotent batch are new, before the batch is journaled. Shard thread.
 */
import { REFUSALS, type Refusal } from '../../../core/bounds.js';
import type { RecordBytes } from '../../journal/journal.js';
import {
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
} from '../../protocol/record-layout.js';
import { IDEMPOTENT_OUTCOME } from '../../protocol/batches.js';
import { digestOf } from './request-digest.js';
import type { KnownKey } from './idempotency-window.js';

/** A duplicate of a request in the same group: it shares the outcome of that group. Never leaves the shard. */
const IN_GROUP = 255;

const OUTCOME_OF: Readonly<Record<KnownKey, number>> = {
  new: IDEMPOTENT_OUTCOME.journaled,
  duplicate: IDEMPOTENT_OUTCOME.replayed,
  'in-group': IN_GROUP,
  mismatch: IDEMPOTENT_OUTCOME.mismatch,
};

/** What a shard knows of idempotency keys. Digests are valid during the call. */
export interface IdempotencyMemory {
  /** Looks an idempotency key up. Remembers a new one as part of the current group. */
  admitKey(idempotencyKey: string, digest: Uint8Array): KnownKey;
  /** Looks an idempotency key up without remembering it. */
  lookUpKey(idempotencyKey: string, digest: Uint8Array): KnownKey;
}

/**
 * Fills in the digests and moves the new requests together. Returns their record, if any, and an outcome for each request.
 * Outcomes are preliminary until the group is durable.
 */
export function admitRequests(
  record: RecordBytes,
  memory: IdempotencyMemory,
): { readonly record: RecordBytes | undefined; readonly outcomes: Uint8Array } {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const outcomes: number[] = [];
  let end = RECORD_HEADER_BYTES;
  eachRequest(record, (idempotencyKey, digest, at, next) => {
    const known = memory.admitKey(idempotencyKey, digest);
    outcomes.push(OUTCOME_OF[known]);
    if (known !== 'new') return;
    record.set(digest, digestStart(at));
    record.copyWithin(end, at, next);
    end += next - at;
  });
  view.setUint32(RECORD_OFFSET.bytes, end, true);
  return {
    record: end === RECORD_HEADER_BYTES ? undefined : record.subarray(0, end),
    outcomes: Uint8Array.from(outcomes),
  };
}

/**
 * The outcomes of requests that cannot be taken now: known ones get their outcome, new ones the refusal. For `overloaded`, the
 * router knows the limit.
 */
export function knownOutcomes(record: RecordBytes, memory: IdempotencyMemory, refusal: Refusal): Uint8Array {
  const outcomes: number[] = [];
  eachRequest(record, (idempotencyKey, digest) => {
    const known = memory.lookUpKey(idempotencyKey, digest);
    outcomes.push(known === 'new' ? refusedWith(refusal) : OUTCOME_OF[known]);
  });
  return Uint8Array.from(outcomes);
}

/** Calls back with each request of a record: its idempotency key, its digest, and the bounds of its entry. */
function eachRequest(
  record: RecordBytes,
  callback: (idempotencyKey: string, digest: Uint8Array, at: number, next: number) => void,
): void {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const text = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
  let at = RECORD_HEADER_BYTES;
  while (at < record.length) {
    const next = idempotentRequestEnd(view, at);
    const increments = idempotencyKeyEnd(view, at);
    const idempotencyKey = text.toString('latin1', idempotencyKeyStart(at), increments);
    callback(idempotencyKey, digestOf(record, increments, next), at, next);
    at = next;
  }
}

function refusedWith(refusal: Refusal): number {
  return IDEMPOTENT_OUTCOME.refused + REFUSALS.indexOf(refusal);
}

/** The outcomes once the group is durable. */
export function settledOutcomes(outcomes: Uint8Array): Uint8Array {
  return outcomes.map((outcome) => (outcome === IN_GROUP ? IDEMPOTENT_OUTCOME.replayed : outcome));
}

/** The outcomes if the group was not journaled: requests that depended on it are refused. */
export function failedOutcomes(outcomes: Uint8Array, refusal: Refusal): Uint8Array {
  const refused = refusedWith(refusal);
  return outcomes.map((outcome) =>
    outcome === IN_GROUP || outcome === IDEMPOTENT_OUTCOME.journaled ? refused : outcome,
  );
}
