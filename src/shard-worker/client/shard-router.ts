/**
 * The router of an HTTP server: splits requests over the shards, applies all limits, and joins the outcomes of the parts of a
 * request. HTTP thread.
 *
 * A request is admitted in all its shards before any part of it is sent. Outcome of a request over several shards:
 *
 * | parts | outcome |
 * | --- | --- |
 * | all kept | 202 |
 * | all refused | the refusal |
 * | otherwise | `outcome-unknown`, because some parts are counted and some are not |
 *
 * A request is not posted while `submit` runs, but at the end of the turn or with a later request. Until then the parser of
 * uWebSockets.js may find malformed bytes behind the body, answer with an error, and abort the request.
 * {@link ShardRouter.withdraw} then takes it back. It is always the last request taken, because the parser reads one connection
 * after the other, and one request of a connection after the other.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Bound, Refusal } from '../../core/bounds.js';
import type { ErrorCode } from '../../core/errors.js';
import { finishKeyHash, hashKeyByte, KEY_HASH_START, shardOfHash } from '../../core/key-hash.js';
import type { Admission, IncrementRouter, ParsedIncrements, PendingReply } from '../../core/increment.js';
import { shardPort } from '../protocol/batch-ports.js';
import type { HttpServerLink } from '../protocol/control-messages.js';
import { STAT, statsRow } from '../protocol/stats.js';
import { INCREMENT_HEADER_BYTES, PENDING_KEY_OVERHEAD_BYTES } from '../protocol/record-layout.js';
import { idempotentRequestBytes } from './outgoing-batch.js';
import type { ShardClient } from './shard-client.js';
import type { SharedReservations } from './shared-reservations.js';

/** The limits of admission. */
export interface RouterLimits {
  /** Most keys pending in all shards of the server. */
  readonly pendingKeysMax: number;
  /** Most bytes pending in all shards of the server. */
  readonly pendingBytesMax: number;
  /** Most bytes in one shard's journal. */
  readonly journalBytesMax: number;
  /** Most bytes sent to one shard and not yet answered. */
  readonly windowBytesMax: number;
  readonly ackTimeoutMs: number;
  /** Idempotent requests that can be taken before IDEMPOTENCY_MAX_ROWS is reached. */
  readonly idempotencyRoom: () => number;
}

/** Bytes that a batch may need in a journal besides its entries: the headers of a record and of a segment. */
const JOURNAL_OVERHEAD_BYTES = 8192;

/** The router of one HTTP server. */
export class ShardRouter implements IncrementRouter, HttpServerLink {
  readonly #clients: readonly ShardClient[];
  readonly #stats: readonly Float64Array[];
  readonly #limits: RouterLimits;
  readonly #atTurnEnd: (callback: () => void) => void;
  /** The reservations of all HTTP servers; undefined if this is the only one. */
  readonly #shared: SharedReservations | undefined;
  readonly #admissions: Admission[];
  readonly #partIncrements: Uint32Array;
  readonly #partBytes: Uint32Array;
  #shardOfRow = new Uint8Array(64);
  #turnScheduled = false;
  readonly #endTurn = (): void => {
    this.#turnScheduled = false;
    for (const client of this.#clients) client.endTurn();
  };

  /**
   * `atTurnEnd` runs its argument once this turn of the event loop has read its sockets. `shared` is given if there are other
   * HTTP servers; the clients release room there.
   */
  constructor(
    clients: readonly ShardClient[],
    stats: SharedArrayBuffer,
    limits: RouterLimits,
    atTurnEnd: (callback: () => void) => void = setImmediate,
    shared?: SharedReservations,
  ) {
    this.#shared = shared;
    this.#atTurnEnd = atTurnEnd;
    this.#clients = clients;
    this.#stats = clients.map((_, shard) => statsRow(stats, shard));
    this.#limits = limits;
    this.#admissions = clients.map(() => 'starting');
    this.#partIncrements = new Uint32Array(clients.length);
    this.#partBytes = new Uint32Array(clients.length);
  }

  connect(shard: number, port: MessagePort): void {
    this.#clients[shard]?.connect(shardPort(port));
  }

  /** Refuses the shard's increments as `journal-unavailable` until its admission is set again. */
  disconnect(shard: number): void {
    // First, so that nothing is sent to a missing shard.
    this.setShardAdmission(shard, 'journal-unavailable');
    this.#clients[shard]?.disconnect();
  }

  /** Sets whether a shard takes increments: `open`, or the code of the refusal. */
  setShardAdmission(shard: number, admission: Admission): void {
    this.#admissions[shard] = admission;
  }

  /** The refusal of the first shard that takes no increments; undefined if all take them. */
  get closedAdmission(): ErrorCode | undefined {
    return this.#admissions.find((admission) => admission !== 'open');
  }

  /** Why some shard would refuse a new key of `keyBytes` now; undefined if none would. For probes. */
  refusalOfNew(keyBytes: number): Refusal | undefined {
    const admission = this.closedAdmission;
    if (admission !== undefined) return admission;
    if (this.#stats.some((row) => row[STAT.journalRefused] === 1)) return 'journal-unavailable';
    // Asks for room itself, because a load balancer may send no requests after the probe.
    const bound = this.#boundOfNew(INCREMENT_HEADER_BYTES + keyBytes);
    return bound === undefined ? undefined : this.#wantRoom(bound);
  }

  /** Answers requests that have waited longer than the acknowledgement timeout. To be called a few times a timeout. */
  expire(): void {
    for (const client of this.#clients) client.expire(this.#limits.ackTimeoutMs);
  }

  /** Whether every shard has started and its journal takes records. */
  get isJournalAvailable(): boolean {
    return this.closedAdmission === undefined && !this.#stats.some((row) => row[STAT.journalRefused] === 1);
  }

  /** Bytes that this router has reserved in a shard. */
  reservedBytes(shard: number): number {
    return this.#clients[shard]?.reservedBytes ?? 0;
  }

  /** Whether no request waits for a shard. */
  get isIdle(): boolean {
    return this.#clients.every((client) => client.batchesInFlight === 0 && !client.hasOpenBatch);
  }

  submit(increments: ParsedIncrements, reply: PendingReply): Refusal | undefined {
    if (increments.count === 1) {
      // Row 0 exists, because the count is above 0.
      const shard = shardOfHash(increments.hash[0] as number, this.#clients.length);
      return this.#submitToOne(shard, increments, INCREMENT_HEADER_BYTES + (increments.keyBytes[0] as number), reply);
    }
    return this.#submitMany(increments, reply);
  }

  submitIdempotent(idempotencyKey: string, increments: ParsedIncrements, reply: PendingReply): Refusal | undefined {
    let incrementsBytes = 0;
    for (let row = 0; row < increments.count; row += 1)
      incrementsBytes += INCREMENT_HEADER_BYTES + (increments.keyBytes[row] as number);
    // The shard of the idempotency key takes the whole request, so it is atomic and one shard knows the key.
    const shard = shardOfHash(hashIdempotencyKey(idempotencyKey), this.#clients.length);
    const bytes = idempotentRequestBytes(idempotencyKey, incrementsBytes);
    this.#shared?.reserve(shard, increments.count, bytes);
    const refusal = this.#refusalOfWindow(shard, bytes);
    if (refusal !== undefined) {
      this.#shared?.release(shard, increments.count, bytes);
      return refusal;
    }
    // A replay needs no room: without room, the shard answers what it knows and refuses the rest.
    const bound = this.#boundOfJournal(shard, bytes) ?? this.#boundOfIdempotent(increments.count, bytes);
    const client = this.#clients[shard] as ShardClient;
    if (bound === undefined) client.addIdempotent('idempotent', idempotencyKey, increments, reply, incrementsBytes);
    else {
      const replyAtBound = new ReplyAtBound(reply, bound);
      client.addIdempotent('onlyKnownKeys', idempotencyKey, increments, replyAtBound, incrementsBytes);
    }
    if (client.needsTurnEnd) this.#scheduleTurnEnd();
    return undefined;
  }

  withdraw(reply: PendingReply): void {
    const clients = this.#clients.filter(({ lastReply }) => lastReply !== undefined && requestOf(lastReply) === reply);
    const last = clients[0]?.lastReply;
    // If a part is posted, the others stay: the request should not be counted in part.
    if (clients.length !== (last instanceof SplitReply ? last.parts : 1)) return;
    for (const client of clients) client.withdrawLast();
  }

  #submitToOne(shard: number, increments: ParsedIncrements, bytes: number, reply: PendingReply): Refusal | undefined {
    this.#shared?.reserve(shard, increments.count, bytes);
    const refusal = this.#refusalOf(shard, bytes) ?? this.#boundOfBytes(increments.count, bytes);
    if (refusal !== undefined) {
      this.#shared?.release(shard, increments.count, bytes);
      return refusal;
    }
    const client = this.#clients[shard] as ShardClient;
    if (this.#pendingKeysWith(increments.count) > this.#limits.pendingKeysMax) {
      this.#wantRoom('pending-keys');
      // Only the shard knows whether the keys are pending. Then the request needs no room.
      client.addOnlyPendingKeys(increments, reply, bytes);
      this.#scheduleTurnEnd();
      return undefined;
    }
    client.open(bytes);
    for (let row = 0; row < increments.count; row += 1) client.write(increments, row);
    client.finish(reply, increments.count, bytes);
    if (client.needsTurnEnd) this.#scheduleTurnEnd();
    return undefined;
  }

  #submitMany(increments: ParsedIncrements, reply: PendingReply): Refusal | undefined {
    const parts = this.#split(increments);
    if (parts === 1) {
      const only = this.#shardOfRow[0] as number;
      return this.#submitToOne(only, increments, this.#partBytes[only] as number, reply);
    }
    const shared = this.#shared;
    if (shared !== undefined) this.#eachPart((shard, count, bytes) => shared.reserve(shard, count, bytes));
    const refusal = this.#refusalOfParts(increments.count);
    if (refusal === undefined) this.#writeParts(increments, new SplitReply(reply, parts));
    else if (shared !== undefined) this.#eachPart((shard, count, bytes) => shared.release(shard, count, bytes));
    return refusal;
  }

  #refusalOfParts(count: number): Refusal | undefined {
    let bytes = 0;
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      if (this.#partIncrements[shard] === 0) continue;
      const refusal = this.#refusalOf(shard, this.#partBytes[shard] as number);
      if (refusal !== undefined) return refusal;
      bytes += this.#partBytes[shard] as number;
    }
    if (this.#pendingKeysWith(count) > this.#limits.pendingKeysMax) return this.#wantRoom('pending-keys');
    return this.#boundOfBytes(count, bytes);
  }

  #eachPart(callback: (shard: number, count: number, bytes: number) => void): void {
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      const count = this.#partIncrements[shard] as number;
      if (count !== 0) callback(shard, count, this.#partBytes[shard] as number);
    }
  }

  #writeParts(increments: ParsedIncrements, reply: PendingReply): void {
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      if (this.#partIncrements[shard] !== 0)
        (this.#clients[shard] as ShardClient).open(this.#partBytes[shard] as number);
    }
    for (let row = 0; row < increments.count; row += 1) {
      (this.#clients[this.#shardOfRow[row] as number] as ShardClient).write(increments, row);
    }
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      const count = this.#partIncrements[shard] as number;
      if (count !== 0) (this.#clients[shard] as ShardClient).finish(reply, count, this.#partBytes[shard] as number);
    }
    this.#scheduleTurnEnd();
  }

  /** Finds the shard of each row and the size of each part. Returns the number of parts. */
  #split(increments: ParsedIncrements): number {
    this.#partIncrements.fill(0);
    this.#partBytes.fill(0);
    if (this.#shardOfRow.length < increments.count) this.#shardOfRow = new Uint8Array(2 * increments.count);
    let parts = 0;
    for (let row = 0; row < increments.count; row += 1) {
      const shard = shardOfHash(increments.hash[row] as number, this.#clients.length);
      this.#shardOfRow[row] = shard;
      if (this.#partIncrements[shard] === 0) parts += 1;
      this.#partIncrements[shard] = (this.#partIncrements[shard] as number) + 1;
      this.#partBytes[shard] =
        (this.#partBytes[shard] as number) + INCREMENT_HEADER_BYTES + (increments.keyBytes[row] as number);
    }
    return parts;
  }

  #boundOfIdempotent(count: number, bytes: number): Bound | undefined {
    if (this.#limits.idempotencyRoom() <= 0) return 'idempotency-rows';
    if (this.#pendingKeysWith(count) > this.#limits.pendingKeysMax) return this.#wantRoom('pending-keys');
    return this.#boundOfBytes(count, bytes);
  }

  #boundOfBytes(count: number, bytes: number): Bound | undefined {
    return this.#pendingBytesWith(count, bytes) > this.#limits.pendingBytesMax
      ? this.#wantRoom('pending-bytes')
      : undefined;
  }

  /** Asks the shards for flushes, which make room. Returns `bound`. */
  #wantRoom(bound: Bound): Bound {
    // A store takes the cache line from the shard's thread, so only if it changes the value.
    for (const row of this.#stats) if (row[STAT.roomWanted] !== 1) row[STAT.roomWanted] = 1;
    return bound;
  }

  /** Why this shard cannot take `bytes` more now, apart from limits of the whole server. */
  #refusalOf(shard: number, bytes: number): Refusal | undefined {
    return this.#refusalOfWindow(shard, bytes) ?? this.#boundOfJournal(shard, bytes);
  }

  /** Why `bytes` cannot be sent to this shard now, even if it would not keep them. */
  #refusalOfWindow(shard: number, bytes: number): Refusal | undefined {
    const admission = this.#admissions[shard] as Admission;
    if (admission !== 'open') return admission;
    const client = this.#clients[shard] as ShardClient;
    // An empty window takes a request of any size, because it never has more room.
    const isFull = client.reservedBytes > 0 && client.reservedBytes + bytes > this.#limits.windowBytesMax;
    return isFull ? 'window-bytes' : undefined;
  }

  #boundOfJournal(shard: number, bytes: number): Bound | undefined {
    const reserved = (this.#clients[shard] as ShardClient).reservedBytes + bytes;
    // The shared reservations include these bytes already. They are read before the stats.
    const reservedByAll = this.#shared === undefined ? reserved : this.#shared.bytes(shard);
    const journaled = (this.#stats[shard] as Float64Array)[STAT.journalBytes] as number;
    return journaled + reservedByAll > this.#limits.journalBytesMax ? this.#wantRoom('journal-bytes') : undefined;
  }

  /** The bound that a new key whose increment has `bytes` would meet. */
  #boundOfNew(bytes: number): Bound | undefined {
    const { pendingKeysMax, pendingBytesMax, journalBytesMax } = this.#limits;
    if (this.#pendingKeysWith(0) + 1 > pendingKeysMax) return 'pending-keys';
    if (this.#pendingBytesWith(0, 0) + PENDING_KEY_OVERHEAD_BYTES + bytes > pendingBytesMax) return 'pending-bytes';
    const journaled = bytes + JOURNAL_OVERHEAD_BYTES;
    const isFull = this.#stats.some((row) => (row[STAT.journalBytes] as number) + journaled > journalBytesMax);
    return isFull ? 'journal-bytes' : undefined;
  }

  /** Most keys that can be pending after `count` more increments. */
  #pendingKeysWith(count: number): number {
    const shared = this.#shared;
    let keys = shared === undefined ? count : 0;
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      keys +=
        shared === undefined ? (this.#clients[shard] as ShardClient).reservedIncrements : shared.increments(shard);
      keys += (this.#stats[shard] as Float64Array)[STAT.pendingKeys] as number;
    }
    return keys;
  }

  /** Most bytes that can be pending after `count` more increments of `added` bytes together. */
  #pendingBytesWith(count: number, added: number): number {
    const shared = this.#shared;
    let bytes = shared === undefined ? added + count * PENDING_KEY_OVERHEAD_BYTES : 0;
    for (let shard = 0; shard < this.#clients.length; shard += 1) {
      const client = this.#clients[shard] as ShardClient;
      const increments = shared === undefined ? client.reservedIncrements : shared.increments(shard);
      bytes +=
        (shared === undefined ? client.reservedBytes : shared.bytes(shard)) + increments * PENDING_KEY_OVERHEAD_BYTES;
      bytes += (this.#stats[shard] as Float64Array)[STAT.pendingBytes] as number;
    }
    return bytes;
  }

  #scheduleTurnEnd(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    this.#atTurnEnd(this.#endTurn);
  }
}

function hashIdempotencyKey(idempotencyKey: string): number {
  let hash = KEY_HASH_START;
  for (let at = 0; at < idempotencyKey.length; at += 1) hash = hashKeyByte(hash, idempotencyKey.charCodeAt(at));
  return finishKeyHash(hash);
}

/** The HTTP server's reply for a request, from the reply that a client got. */
function requestOf(reply: PendingReply): PendingReply {
  return reply instanceof SplitReply || reply instanceof ReplyAtBound ? reply.request : reply;
}

/** The reply of an idempotent request without room: if the shard does not know its key, the refusal names the bound. */
class ReplyAtBound implements PendingReply {
  readonly request: PendingReply;
  readonly #bound: Bound;

  constructor(request: PendingReply, bound: Bound) {
    this.request = request;
    this.#bound = bound;
  }

  settle(refusal: Refusal | undefined, replayed?: boolean): void {
    this.request.settle(refusal === 'overloaded' ? this.#bound : refusal, replayed);
  }
}

/** Joins the outcomes of the parts of a request. */
class SplitReply implements PendingReply {
  readonly request: PendingReply;
  readonly parts: number;
  #kept = 0;
  #refused = 0;
  #unknown = 0;
  #refusal: Refusal | undefined;

  constructor(request: PendingReply, parts: number) {
    this.request = request;
    this.parts = parts;
  }

  settle(refusal: Refusal | undefined): void {
    if (refusal === undefined) this.#kept += 1;
    else if (refusal === 'outcome-unknown') this.#unknown += 1;
    else {
      this.#refused += 1;
      this.#refusal = refusal;
    }
    if (this.#kept + this.#refused + this.#unknown < this.parts) return;
    if (this.#kept === this.parts) this.request.settle(undefined);
    else this.request.settle(this.#refused === this.parts ? this.#refusal : 'outcome-unknown');
  }
}
