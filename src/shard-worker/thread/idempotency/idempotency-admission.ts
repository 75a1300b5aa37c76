/**
 * Decides, before a batch of requests with tokens is journaled, which of them are new. Shard thread.
 */
import { errorCodes, type ErrorCode } from '../../../core/errors.js';
import type { RecordBytes } from '../../journal/journal.js';
import { RECORD_HEADER_BYTES, RECORD_OFFSET, TOKENED_OFFSET, TOKENED_OUTCOME } from '../../protocol/messages.js';
import { digestOf } from './request-digest.js';
import { tokenedEnd } from '../pending-sums.js';
import type { KnownToken } from './idempotency-window.js';

/** A replay of a request that is in the same group: it shares that group's outcome. Never leaves the shard. */
const IN_GROUP = 255;

const OUTCOME_OF: Readonly<Record<KnownToken, number>> = {
  new: TOKENED_OUTCOME.journaled,
  replay: TOKENED_OUTCOME.replayed,
  'in-group': IN_GROUP,
  mismatch: TOKENED_OUTCOME.mismatch,
};

/** The shard's memory of tokens; a digest is valid during the call. */
export interface TokenMemory {
  admitToken(token: string, digest: Uint8Array): KnownToken;
  lookToken(token: string, digest: Uint8Array): KnownToken;
}

/**
 * Fills in the digests and moves the new requests together. Returns the record of those, undefined if there is none, and
 * an outcome for each request that is preliminary until the group is durable.
 */
export function admitTokened(
  record: RecordBytes,
  memory: TokenMemory,
): { readonly record: RecordBytes | undefined; readonly outcomes: Uint8Array } {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const outcomes: number[] = [];
  let end = RECORD_HEADER_BYTES;
  eachToken(record, (token, digest, at, next) => {
    const known = memory.admitToken(token, digest);
    outcomes.push(OUTCOME_OF[known]);
    if (known !== 'new') return;
    record.set(digest, at + TOKENED_OFFSET.digest);
    record.copyWithin(end, at, next);
    end += next - at;
  });
  view.setUint32(RECORD_OFFSET.bytes, end, true);
  return {
    record: end === RECORD_HEADER_BYTES ? undefined : record.subarray(0, end),
    outcomes: Uint8Array.from(outcomes),
  };
}

/** The outcomes of requests for which there is no room: what is known of them, and a refusal of those that are new. */
export function knownOutcomes(record: RecordBytes, memory: TokenMemory): Uint8Array {
  const outcomes: number[] = [];
  eachToken(record, (token, digest) => {
    const known = memory.lookToken(token, digest);
    outcomes.push(known === 'new' ? refusedWith('overloaded') : OUTCOME_OF[known]);
  });
  return Uint8Array.from(outcomes);
}

/** Calls back with each request of a record: its token, its digest, and where its entry begins and ends. */
function eachToken(
  record: RecordBytes,
  callback: (token: string, digest: Uint8Array, at: number, next: number) => void,
): void {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const text = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
  let at = RECORD_HEADER_BYTES;
  while (at < record.length) {
    const next = tokenedEnd(view, at);
    const token = at + TOKENED_OFFSET.token;
    const pairs = token + view.getUint8(at + TOKENED_OFFSET.tokenBytes);
    callback(text.toString('latin1', token, pairs), digestOf(record, pairs, next), at, next);
    at = next;
  }
}

function refusedWith(code: ErrorCode): number {
  return TOKENED_OUTCOME.refused + errorCodes.indexOf(code);
}

/** The outcomes once the group is durable. */
export function settledOutcomes(outcomes: Uint8Array): Uint8Array {
  return outcomes.map((outcome) => (outcome === IN_GROUP ? TOKENED_OUTCOME.replayed : outcome));
}

/** The outcomes where the group was not journaled: what depended on it gets the code. */
export function failedOutcomes(outcomes: Uint8Array, code: ErrorCode): Uint8Array {
  const refused = refusedWith(code);
  return outcomes.map((outcome) => (outcome === IN_GROUP || outcome === TOKENED_OUTCOME.journaled ? refused : outcome));
}
