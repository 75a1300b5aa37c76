import assert from 'node:assert/strict';
import { once } from 'node:events';
import { afterEach, describe, test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import type { Refusal } from '#product/core/bounds.js';
import { systemClock } from '#product/core/clock.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { makeStats } from '#product/shard-worker/protocol/stats.js';
import { INCREMENT_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { shardPort } from '#product/shard-worker/protocol/batch-ports.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ShardRouter } from '#product/shard-worker/client/shard-router.js';

const KEY = 'k'.repeat(86);
/** Ten requests of one increment. */
const WINDOW_BYTES = 10 * (INCREMENT_HEADER_BYTES + KEY.length);
const ACK_TIMEOUT_MS = 1000;
const UNLIMITED = Number.POSITIVE_INFINITY;

/** A router whose only shard answers when the test says so. */
class StalledShard {
  readonly outcomes: (Refusal | 'created')[] = [];
  readonly #channel = new MessageChannel();
  /** How far the clock is ahead of the machine's clock, in ms. */
  passedMs = 0;
  readonly #client = new ShardClient({
    ...systemClock,
    monotonic: () => systemClock.monotonic() + this.passedMs,
  });
  readonly #scanner = new IncrementBodyScanner({ keyBytesMax: 512 });
  readonly router: ShardRouter;

  constructor() {
    this.router = new ShardRouter([this.#client], makeStats(1), {
      pendingKeysMax: UNLIMITED,
      pendingBytesMax: UNLIMITED,
      journalBytesMax: UNLIMITED,
      windowBytesMax: WINDOW_BYTES,
      ackTimeoutMs: ACK_TIMEOUT_MS,
      idempotencyRoom: () => UNLIMITED,
    });
    this.#client.connect(shardPort(this.#channel.port1));
    this.router.setShardAdmission(0, 'open');
  }

  /** Submits one increment. Returns the refusal if it is refused at once. */
  submit(key = KEY): Refusal | undefined {
    const increments = this.#scanner.scan(Buffer.from(`{"${key}":1}`), false);
    return this.router.submit(increments, { settle: (refusal) => this.outcomes.push(refusal ?? 'created') });
  }

  /** Waits for the next batch and answers that it is in the journal. */
  async answerOne(): Promise<void> {
    if (this.router.isIdle) return;
    await once(this.#channel.port2, 'message');
    const settled = this.outcomes.length;
    this.#channel.port2.postMessage(1);
    while (this.outcomes.length === settled) await new Promise((resolve) => setImmediate(resolve));
  }

  close(): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}

let shard: StalledShard | undefined;
describe('the window of requests in flight', () => {
  afterEach(() => {
    shard?.close();
  });

  test('the window limits the requests in flight with a shard that does not answer; the next request is overloaded', async () => {
    shard = new StalledShard();
    for (let taken = 0; taken < 10; taken += 1) assert.equal(shard.submit(), undefined);
    assert.equal(shard.submit(), 'window-bytes');
    assert.deepEqual(shard.outcomes, []);
    await shard.answerOne();
    assert.deepEqual(
      shard.outcomes,
      Array.from({ length: 10 }, () => 'created'),
    );
    assert.equal(shard.submit(), undefined);
  });

  test('an empty window takes a request of any size', () => {
    shard = new StalledShard();
    assert.equal(shard.submit('k'.repeat(510)), undefined);
    for (let taken = 0; taken < 4; taken += 1) assert.equal(shard.submit(), undefined);
    assert.equal(shard.submit(), 'window-bytes');
  });

  test('after the timeout the outcome of posted requests is unknown, open ones are refused, and the window stays occupied', async () => {
    shard = new StalledShard();
    assert.equal(shard.submit(), undefined);
    // The end of the turn posts the first; the second waits for its answer.
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(shard.submit('second'), undefined);
    await new Promise((resolve) => setImmediate(resolve));
    shard.passedMs = ACK_TIMEOUT_MS + 1;
    shard.router.expire();
    assert.deepEqual([...shard.outcomes].sort(), ['ack-timeout', 'outcome-unknown']);
    assert.equal(shard.router.isIdle, false);
    for (let taken = 0; taken < 9; taken += 1) assert.equal(shard.submit(), undefined);
    assert.equal(shard.submit(), 'window-bytes');
  });
});
