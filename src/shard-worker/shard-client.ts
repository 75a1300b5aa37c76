/**
 * A front end's end of one shard's port: the open batch of this event-loop turn, the batches in flight, and the room
 * that requests have reserved. Front-end thread.
 *
 * A MessagePort has no backpressure of its own: what is posted is buffered without bound. The in-flight window here is
 * the only one, so nothing is posted without room reserved in it, and room is given back only when the shard has
 * answered or died.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import type { ErrorCode } from '../errors.js';
import type { PairColumns, PendingReply } from '../increment.js';
import {
  PAIR_HEADER_BYTES,
  PAIR_OFFSET,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeUint64,
  type BatchAnswer,
} from './messages.js';

/** A batch is posted when it would outgrow this, even within a turn; one larger request makes a larger batch. */
const BATCH_BYTES = 64 * 1024;

/**
 * Batches that may be with the shard at a time. A batch costs its two messages more than all of its requests cost the
 * shard, so requests gather here while the shard is busy, as they do for its sync: at load a batch holds what came
 * within one round trip.
 */
const BATCHES_IN_FLIGHT_MAX = 1;

interface BatchInFlight {
  replies: readonly PendingReply[];
  readonly pairs: number;
  readonly bytes: number;
  readonly sentAtMs: number;
}

/** One shard as a front end sees it. */
export class ShardClient {
  #port: MessagePort | undefined;
  #bytes = new Uint8Array(BATCH_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #end = RECORD_HEADER_BYTES;
  #pairs = 0;
  #replies: PendingReply[] = [];
  #openedAtMs = 0;
  readonly #inFlight: BatchInFlight[] = [];
  #inFlightHead = 0;
  #reservedPairs = 0;
  #reservedBytes = 0;

  /** Pairs open and in flight: each may become a pending key. */
  get reservedPairs(): number {
    return this.#reservedPairs;
  }

  /** Bytes open and in flight, as the record will hold them. */
  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  /** Batches posted and not yet answered. */
  get batchesInFlight(): number {
    return this.#inFlight.length - this.#inFlightHead;
  }

  get isConnected(): boolean {
    return this.#port !== undefined;
  }

  /** Something waits for {@link post}. */
  get hasOpenBatch(): boolean {
    return this.#pairs > 0;
  }

  /** Connects to a started shard. */
  connect(port: MessagePort): void {
    this.#port = port;
    port.on('message', (answer: BatchAnswer) => {
      this.#take(answer);
    });
  }

  /** The shard is gone: what is in flight has an unknown outcome, what is open was never sent. */
  disconnect(): void {
    const port = this.#port;
    // First, so that nothing more is posted.
    this.#port = undefined;
    if (port !== undefined) {
      // What the shard had answered before it died still counts.
      for (;;) {
        const received = receiveMessageOnPort(port) as { message: BatchAnswer } | undefined;
        if (received === undefined) break;
        this.#take(received.message);
      }
      port.close();
    }
    this.#settle(this.batchesInFlight, 'outcome-unknown');
    this.#refuseOpenBatch('journal-unavailable');
    this.#reservedPairs = 0;
    this.#reservedBytes = 0;
  }

  /** Makes room for `bytes` more bytes of one request, so that its pairs land in one batch. */
  open(bytes: number): void {
    if (this.#end + bytes <= this.#bytes.length) return;
    this.post();
    if (RECORD_HEADER_BYTES + bytes > this.#bytes.length) {
      this.#bytes = new Uint8Array(RECORD_HEADER_BYTES + bytes);
      this.#view = new DataView(this.#bytes.buffer);
    }
  }

  /** Adds row `row` to the open batch; {@link open} made room for it. */
  write(pairs: PairColumns, row: number): void {
    // Rows below `count` exist in every column.
    const keyBytes = pairs.keyBytes[row] as number;
    const start = pairs.keyStart[row] as number;
    const source = start >= 0 ? pairs.body : pairs.decoded;
    const from = start >= 0 ? start : ~start;
    const at = this.#end;
    const view = this.#view;
    view.setUint16(at + PAIR_OFFSET.keyBytes, keyBytes, true);
    view.setUint32(at + PAIR_OFFSET.hash, pairs.hash[row] as number, true);
    view.setFloat64(at + PAIR_OFFSET.amount, pairs.amount[row] as number, true);
    const bytes = this.#bytes;
    const key = at + PAIR_HEADER_BYTES;
    for (let index = 0; index < keyBytes; index += 1) bytes[key + index] = source[from + index] as number;
    this.#end = key + keyBytes;
    this.#pairs += 1;
  }

  /** Ends one request's part of the open batch: `reply` is settled with the batch. */
  finish(reply: PendingReply, pairs: number, bytes: number): void {
    if (this.#replies.length === 0) this.#openedAtMs = Date.now();
    this.#replies.push(reply);
    this.#reservedPairs += pairs;
    this.#reservedBytes += bytes;
  }

  /** The end of an event-loop turn: posts the open batch unless the shard is busy with enough. */
  endTurn(): void {
    if (this.batchesInFlight < BATCHES_IN_FLIGHT_MAX) this.post();
  }

  /** Posts the open batch, if there is anything in it. `onlyPendingKeys`: to be taken only if it needs no new key. */
  post(onlyPendingKeys = false): void {
    if (this.#pairs === 0) return;
    const port = this.#port;
    if (port === undefined) throw new TypeError('posting to a shard that is not connected');
    const now = Date.now();
    const view = this.#view;
    view.setUint32(RECORD_OFFSET.bytes, this.#end, true);
    view.setUint32(RECORD_OFFSET.pairs, this.#pairs, true);
    writeUint64(view, RECORD_OFFSET.acceptedAt, now);
    this.#inFlight.push({
      replies: this.#replies,
      pairs: this.#pairs,
      bytes: this.#end - RECORD_HEADER_BYTES,
      sentAtMs: now,
    });
    const buffer = this.#bytes.buffer;
    port.postMessage(onlyPendingKeys ? { onlyPendingKeys: buffer } : buffer, [buffer]);
    this.#reset();
  }

  /** Answers requests whose batch was posted before `beforeMs` (ms since 1970); their room stays taken. */
  expire(beforeMs: number): void {
    // What was never posted is not counted, and leaves nothing behind.
    if (this.#pairs > 0 && this.#openedAtMs < beforeMs) this.#refuseOpenBatch('overloaded');
    for (let index = this.#inFlightHead; index < this.#inFlight.length; index += 1) {
      const batch = this.#inFlight[index] as BatchInFlight;
      if (batch.sentAtMs >= beforeMs) return;
      const replies = batch.replies;
      batch.replies = [];
      for (const reply of replies) reply.settle('outcome-unknown');
    }
  }

  #take(answer: BatchAnswer): void {
    if (typeof answer === 'number') this.#settle(answer, undefined);
    else this.#settle(answer.refused, answer.code);
  }

  #settle(count: number, refusal: ErrorCode | undefined): void {
    const settled: BatchInFlight[] = [];
    for (let left = count; left > 0 && this.#inFlightHead < this.#inFlight.length; left -= 1) {
      const batch = this.#inFlight[this.#inFlightHead] as BatchInFlight;
      this.#inFlightHead += 1;
      this.#reservedPairs -= batch.pairs;
      this.#reservedBytes -= batch.bytes;
      settled.push(batch);
    }
    if (this.#inFlightHead === this.#inFlight.length) {
      this.#inFlight.length = 0;
      this.#inFlightHead = 0;
    } else if (this.#inFlightHead > 1024) {
      this.#inFlight.splice(0, this.#inFlightHead);
      this.#inFlightHead = 0;
    }
    // Before the replies, so that the shard works while they are written.
    if (this.#port !== undefined) this.endTurn();
    for (const { replies } of settled) {
      for (let index = 0; index < replies.length; index += 1) (replies[index] as PendingReply).settle(refusal);
    }
  }

  #refuseOpenBatch(code: ErrorCode): void {
    const replies = this.#replies;
    this.#reservedPairs -= this.#pairs;
    this.#reservedBytes -= this.#end - RECORD_HEADER_BYTES;
    this.#reset();
    for (const reply of replies) reply.settle(code);
  }

  #reset(): void {
    this.#bytes = new Uint8Array(BATCH_BYTES);
    this.#view = new DataView(this.#bytes.buffer);
    this.#end = RECORD_HEADER_BYTES;
    this.#pairs = 0;
    this.#replies = [];
  }
}
