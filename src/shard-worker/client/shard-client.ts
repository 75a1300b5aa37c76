/**
 * The client of one shard: the open batches, the batches in flight, and the room that requests have reserved. HTTP thread.
 *
 * A MessagePort has no backpressure: it buffers messages without limit. The in-flight window here is the only limit, so nothing
 * is posted without reserved room. Room is released when the shard has answered or its thread has ended.
 */
import { systemClock, type Clock, type Timer } from '../../core/clock.js';
import { REFUSALS, type Refusal } from '../../core/bounds.js';
import type { ParsedIncrements, PendingReply } from '../../core/increment.js';
import { type BatchAnswer, type BatchKind, IDEMPOTENT_OUTCOME } from '../protocol/batches.js';
import type { ShardPort } from '../protocol/batch-ports.js';
import { BatchPace } from './batch-pace.js';
import { BatchStats, makeBatchStats } from './batch-stats.js';
import {
  type BatchBuffer,
  BatchMemory,
  type FilledBatch,
  idempotentRequestBytes,
  OutgoingBatch,
} from './outgoing-batch.js';

/**
 * Batches in flight at a time, unless room forces more. The messages and the sync of a batch cost the shard more than its
 * requests, so requests gather here while the shard is busy.
 */
const BATCHES_IN_FLIGHT_MAX = 1;

/** Releases room in a shard that several HTTP servers reserve together. */
export interface ReservedRoom {
  release(increments: number, bytes: number): void;
}

interface BatchInFlight {
  replies: readonly PendingReply[];
  readonly buffer: BatchBuffer;
  readonly increments: number;
  readonly bytes: number;
  /** On the monotonic clock, because the wall clock may be set meanwhile. */
  readonly sentAtMs: number;
  /** When its first request came, on the same clock. */
  readonly openedAtMs: number;
  readonly requests: number;
}

/** The request that was added last, so that it can be withdrawn. */
interface LastRequest {
  /** Undefined if it is posted, refused or withdrawn. */
  batch: OutgoingBatch | undefined;
  increments: number;
  bytes: number;
}

/** Room for increments open and in flight, each of which may become a pending key. */
class Room {
  increments = 0;
  bytes = 0;
  readonly #shared: ReservedRoom | undefined;

  constructor(shared: ReservedRoom | undefined) {
    this.#shared = shared;
  }

  reserve(increments: number, bytes: number): void {
    this.increments += increments;
    this.bytes += bytes;
  }

  release(increments: number, bytes: number): void {
    this.increments -= increments;
    this.bytes -= bytes;
    this.#shared?.release(increments, bytes);
  }
}

type IdempotentKind = 'idempotent' | 'onlyKnownKeys';

/** The client of one shard in one HTTP server. */
export class ShardClient {
  readonly #clock: Clock;
  readonly #room: Room;
  readonly #stats: BatchStats;
  #port: ShardPort | undefined;
  #memory = new BatchMemory();
  readonly #open: Readonly<Record<BatchKind, OutgoingBatch>>;
  /** The open batches in posting order. */
  readonly #inOrder: readonly OutgoingBatch[];
  /** Requests in the open batches. */
  #openRequests = 0;
  readonly #last: LastRequest = { batch: undefined, increments: 0, bytes: 0 };
  /** Oldest first. */
  readonly #inFlight: BatchInFlight[] = [];
  readonly #pace = new BatchPace();
  #timer: Timer | undefined;
  readonly #postLate = (): void => {
    this.#timer = undefined;
    this.endTurn();
  };

  /**
   * `shared` is given if several HTTP servers reserve room together: room released here is also released there. `stats` are
   * those of the HTTP server. `readGeneration` reads `STAT.generation` of the shard.
   */
  constructor(
    clock: Clock = systemClock,
    shared?: ReservedRoom,
    stats = new BatchStats(makeBatchStats(1), 0),
    readGeneration = (): number => 0,
  ) {
    this.#stats = stats;
    this.#clock = clock;
    this.#room = new Room(shared);
    const open = (kind: BatchKind): OutgoingBatch => new OutgoingBatch(kind, clock, this.#memory, readGeneration);
    this.#open = {
      plain: open('plain'),
      onlyPendingKeys: open('onlyPendingKeys'),
      idempotent: open('idempotent'),
      onlyKnownKeys: open('onlyKnownKeys'),
    };
    this.#inOrder = Object.values(this.#open);
  }

  /** Increments open and in flight. Each may become a pending key. */
  get reservedIncrements(): number {
    return this.#room.increments;
  }

  /** Bytes of increments open and in flight, as records hold them. */
  get reservedBytes(): number {
    return this.#room.bytes;
  }

  /** Batches posted and not yet answered. */
  get batchesInFlight(): number {
    return this.#inFlight.length;
  }

  /** Whether requests wait to be posted. */
  get hasOpenBatch(): boolean {
    return this.#openRequests > 0;
  }

  /** Connects to a shard that has started. */
  connect(port: ShardPort): void {
    this.#port = port;
    // A former thread of the shard may still read its last batch.
    this.#memory = new BatchMemory();
    for (const batch of this.#inOrder) batch.useMemory(this.#memory);
    port.listen((answer) => {
      this.#take(answer);
    });
  }

  /** The shard's thread has ended. Requests in flight have an unknown outcome; open ones were never sent. */
  disconnect(): void {
    const port = this.#port;
    // First, because the answers below would post the open batches.
    this.#port = undefined;
    this.#timer?.cancel();
    this.#timer = undefined;
    if (port !== undefined) {
      // Answers that the shard posted before its thread ended still count.
      for (;;) {
        const answer = port.receive();
        if (answer === undefined) break;
        this.#take(answer);
      }
      port.close();
    }
    for (const { replies } of this.#shift(this.batchesInFlight)) settleAll(replies, 'outcome-unknown');
    for (const batch of this.#inOrder) this.#refuseOpen(batch, 'journal-unavailable');
  }

  /** Makes room for `bytes` more bytes of one request, so that its increments are in one batch. */
  open(bytes: number): void {
    this.#makeRoom(this.#open.plain, bytes);
  }

  /** Adds row `row` to the open batch. {@link open} has made room. */
  write(increments: ParsedIncrements, row: number): void {
    this.#open.plain.write(increments, row);
  }

  /** Ends a request's part of the open batch. Its `reply` is settled with the batch. */
  finish(reply: PendingReply, increments: number, bytes: number): void {
    this.#finish(this.#open.plain, reply, increments, bytes);
  }

  /**
   * Adds a request as a batch of its own, which the shard takes only if it needs no new key. The next such request or
   * {@link endTurn}, which the caller must call, posts it at once.
   */
  addOnlyPendingKeys(increments: ParsedIncrements, reply: PendingReply, bytes: number): void {
    const batch = this.#open.onlyPendingKeys;
    // The open batches go first, so that requests keep their order.
    this.#post(this.#open.plain);
    this.#post(batch);
    this.#makeRoom(batch, bytes);
    for (let row = 0; row < increments.count; row += 1) batch.write(increments, row);
    this.#finish(batch, reply, increments.count, bytes);
  }

  /** Adds a whole idempotent request; its increments need `incrementsBytes`. */
  addIdempotent(
    kind: IdempotentKind,
    idempotencyKey: string,
    increments: ParsedIncrements,
    reply: PendingReply,
    incrementsBytes: number,
  ): void {
    const bytes = idempotentRequestBytes(idempotencyKey, incrementsBytes);
    const batch = this.#open[kind];
    this.#makeRoom(batch, bytes);
    batch.writeIdempotencyKey(idempotencyKey, incrementsBytes);
    for (let row = 0; row < increments.count; row += 1) batch.write(increments, row);
    this.#finish(batch, reply, increments.count, bytes);
  }

  /** The reply of the request that was added last; undefined if it is posted, refused or withdrawn. */
  get lastReply(): PendingReply | undefined {
    return this.#last.batch?.lastReply;
  }

  /** Removes the request that was added last, and releases its room. {@link lastReply} is its reply. */
  withdrawLast(): void {
    const { batch, increments, bytes } = this.#last;
    batch?.removeLast(increments, bytes);
    this.#last.batch = undefined;
    this.#openRequests -= 1;
    this.#room.release(increments, bytes);
  }

  /**
   * Whether {@link endTurn} must be called, because no answer will call it. Also while the timer runs: it counts whole
   * milliseconds, and a turn may find that the wait is over.
   */
  get needsTurnEnd(): boolean {
    return this.batchesInFlight < BATCHES_IN_FLIGHT_MAX;
  }

  /**
   * Posts the open batches at the end of an event-loop turn, unless the shard is busy or more requests are expected.
   */
  endTurn(): void {
    if (this.#port === undefined) return;
    this.#post(this.#open.onlyPendingKeys);
    if (this.batchesInFlight >= BATCHES_IN_FLIGHT_MAX || !this.hasOpenBatch) return;
    const nowMs = this.#clock.monotonic();
    const restMs = this.#pace.restMs(this.#openRequests, nowMs);
    if (restMs > 0) {
      this.#timer ??= this.#clock.schedule(Math.ceil(restMs), this.#postLate);
      return;
    }
    this.#pace.posted(nowMs);
    for (const batch of this.#inOrder) this.#post(batch);
  }

  /** Answers requests that have waited longer than `timeoutMs`. Posted ones keep their room. */
  expire(timeoutMs: number): void {
    const beforeMs = this.#clock.monotonic() - timeoutMs;
    // A request that was never posted is not counted, so it is refused and its room released.
    for (const batch of this.#inOrder) {
      if (!batch.isEmpty && batch.openedAtMs < beforeMs) this.#refuseOpen(batch, 'ack-timeout');
    }
    for (const batch of this.#inFlight) {
      if (batch.sentAtMs >= beforeMs) return;
      const { replies } = batch;
      batch.replies = [];
      settleAll(replies, 'outcome-unknown');
    }
  }

  /** Makes room for `bytes` more, which are written next. Posts a batch without room, because all of it is older. */
  #makeRoom(batch: OutgoingBatch, bytes: number): void {
    if (batch.hasRoom(bytes)) return;
    this.#post(batch);
    batch.hasRoom(bytes);
  }

  #finish(batch: OutgoingBatch, reply: PendingReply, increments: number, bytes: number): void {
    batch.finish(reply);
    this.#openRequests += 1;
    this.#last.batch = batch;
    this.#last.increments = increments;
    this.#last.bytes = bytes;
    this.#room.reserve(increments, bytes);
  }

  #post(batch: OutgoingBatch): void {
    if (batch.isEmpty) return;
    const port = this.#port;
    if (port === undefined) throw new TypeError('posting to a shard that is not connected');
    const { openedAtMs } = batch;
    const { buffer, replies, increments, bytes } = this.#takeOpen(batch, this.#clock.now());
    const [sentAtMs, requests] = [this.#clock.monotonic(), replies.length];
    this.#inFlight.push({ replies, buffer, increments, bytes, sentAtMs, openedAtMs, requests });
    this.#stats.batchRequests.observe(requests);
    port.post({ kind: batch.kind, memory: buffer.memory });
  }

  #takeOpen(batch: OutgoingBatch, nowMs: number): FilledBatch {
    const filled = batch.take(nowMs);
    this.#openRequests -= filled.replies.length;
    return filled;
  }

  #take(answer: BatchAnswer): void {
    const isOutcomes = typeof answer === 'object' && 'outcomes' in answer;
    const settled = this.#shift(typeof answer === 'number' ? answer : isOutcomes ? 1 : answer.refused);
    const nowMs = this.#clock.monotonic();
    for (const { replies, openedAtMs, requests } of settled) {
      this.#pace.answered(replies.length);
      this.#stats.ackSeconds.observe((nowMs - openedAtMs) / 1000, requests);
    }
    if (this.batchesInFlight === 0) this.#pace.settled(this.#openRequests);
    // Before the replies, so that the shard works while this thread writes them.
    this.endTurn();
    for (const { replies } of settled) {
      if (isOutcomes) settleEach(replies, answer.outcomes);
      else settleAll(replies, typeof answer === 'number' ? undefined : answer.refusal);
    }
  }

  /** Takes the oldest batches out of flight and releases their room. */
  #shift(count: number): readonly BatchInFlight[] {
    const shifted = this.#inFlight.splice(0, count);
    for (const { increments, bytes, buffer } of shifted) {
      this.#memory.release(buffer);
      this.#room.release(increments, bytes);
    }
    return shifted;
  }

  #refuseOpen(batch: OutgoingBatch, refusal: Refusal): void {
    if (batch.isEmpty) return;
    const { replies, buffer, increments, bytes } = this.#takeOpen(batch, 0);
    this.#memory.release(buffer);
    this.#room.release(increments, bytes);
    settleAll(replies, refusal);
  }
}

function settleAll(replies: readonly PendingReply[], refusal: Refusal | undefined): void {
  for (const reply of replies) reply.settle(refusal);
}

function settleEach(replies: readonly PendingReply[], outcomes: Uint8Array): void {
  for (const [index, reply] of replies.entries()) {
    const outcome = outcomes[index] ?? IDEMPOTENT_OUTCOME.mismatch;
    if (outcome === IDEMPOTENT_OUTCOME.journaled) reply.settle(undefined);
    else if (outcome === IDEMPOTENT_OUTCOME.replayed) reply.settle(undefined, true);
    else if (outcome === IDEMPOTENT_OUTCOME.mismatch) reply.settle('idempotency-mismatch');
    else reply.settle(refusalOf(outcome));
  }
}

/** The refusal whose index an outcome from `refused` on holds. */
function refusalOf(outcome: number): Refusal {
  return REFUSALS[outcome - IDEMPOTENT_OUTCOME.refused] ?? 'outcome-unknown';
}
