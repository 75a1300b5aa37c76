/** When a batch that waits for more requests is posted. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import type { BatchAnswer, BatchMessage } from '#product/shard-worker/protocol/batches.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ManualClock } from '../../../support/manual-clock.js';

/** A client that expects eight requests at a time: so many were answered together. */
class WaitingClient {
  readonly clock = new ManualClock();
  readonly client = new ShardClient(this.clock);
  readonly posted: BatchMessage[] = [];
  readonly #scanner = new IncrementBodyScanner({ keyBytesMax: 512 });
  #answer: (answer: BatchAnswer) => void = () => undefined;

  constructor() {
    this.client.connect({
      listen: (callback) => {
        this.#answer = callback;
      },
      receive: () => undefined,
      post: (message) => this.posted.push(message),
      close: () => undefined,
    });
    // The second batch is a probe, which learns how many requests are under way.
    for (const requests of [1, 8]) {
      for (let request = 0; request < requests; request += 1) this.add();
      this.clock.advance(10);
      this.client.endTurn();
      this.#answer(1);
    }
    this.posted.length = 0;
  }

  add(): void {
    this.client.open(100);
    this.client.write(this.#scanner.scan(Buffer.from('{"k":1}'), false), 0);
    this.client.finish({ settle: () => undefined }, 1, 15);
  }

  /** A turn of the event loop with one request, as the router ends it. */
  turn(): void {
    this.add();
    if (this.client.needsTurnEnd) this.client.endTurn();
  }
}

void test('a turn posts the batch whose wait is over, although its timer has not fired', () => {
  const waiting = new WaitingClient();
  waiting.clock.advance(0.25);
  waiting.turn();
  assert.equal(waiting.posted.length, 0, 'others are expected');
  waiting.clock.advance(0.5);
  waiting.turn();
  assert.equal(waiting.posted.length, 0);
  waiting.clock.advance(0.375);
  waiting.turn();
  assert.equal(waiting.posted.length, 1, '1.125 ms after the last batch, and 0.875 ms after the timer was set');
});

void test('the timer posts the batch where no further request comes', () => {
  const waiting = new WaitingClient();
  waiting.clock.advance(0.25);
  waiting.turn();
  waiting.clock.advance(1);
  assert.equal(waiting.posted.length, 1);
});
