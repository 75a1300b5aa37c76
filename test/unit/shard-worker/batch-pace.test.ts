import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatchPace } from '#product/shard-worker/batch-pace.js';

/** Clients that each wait for their answer before they send again, and a shard that takes `roundTripMs` for a batch. */
class ClosedLoop {
  readonly pace = new BatchPace();
  readonly batchSizes: number[] = [];
  nowMs = 1000;
  waitedMs = 0;

  clients: number;
  readonly roundTripMs: number;
  readonly requestMs = 0.01;

  constructor(clients: number, roundTripMs: number) {
    this.clients = clients;
    this.roundTripMs = roundTripMs;
  }

  /** Runs `batches` batches: each client's request arrives `requestMs` after the one before it. */
  run(batches: number): void {
    let open = 0;
    for (let batch = 0; batch < batches; batch += 1) {
      for (;;) {
        const restMs = open === 0 ? Number.POSITIVE_INFINITY : this.pace.restMs(open, this.nowMs);
        if (restMs <= 0) break;
        if (open < this.clients) {
          open += 1;
          this.nowMs += this.requestMs;
        } else {
          this.nowMs += restMs;
          this.waitedMs += restMs;
        }
      }
      const sent = open;
      this.pace.posted(this.nowMs);
      this.batchSizes.push(sent);
      this.nowMs += this.roundTripMs;
      open = Math.min(this.clients - sent, Math.floor(this.roundTripMs / this.requestMs));
      this.pace.answered(sent);
      this.pace.settled(open);
    }
  }
}

void test('a client alone waits for nobody, but in the batches that look for others', () => {
  const loop = new ClosedLoop(1, 0.2);
  loop.run(1000);
  assert.ok(loop.batchSizes.every((size) => size === 1));
  assert.ok(loop.waitedMs <= 2 * Math.ceil(1000 / 128), `waited ${String(loop.waitedMs)} ms`);
});

void test('most of many clients make a batch, and the rest are taken in while it is with the shard', () => {
  const loop = new ClosedLoop(128, 0.3);
  loop.run(1000);
  const settled = loop.batchSizes.slice(2);
  assert.ok(settled.every((size) => size >= 96));
  assert.ok(settled.filter((size) => size <= 100).length > 0.98 * settled.length);
});

void test('a shard that answers at once does not make batches small', () => {
  const loop = new ClosedLoop(128, 0.02);
  loop.run(1000);
  assert.ok(loop.batchSizes.slice(2).every((size) => size >= 96));
});

void test('a request after a quiet time is posted at once', () => {
  const pace = new BatchPace();
  pace.posted(1000);
  pace.answered(500);
  pace.settled(0);
  assert.equal(pace.restMs(1, 1002), 0);
  assert.ok(pace.restMs(1, 1001) > 0);
});

void test('when most clients have left, two batches later nobody waits for them any more', () => {
  const loop = new ClosedLoop(128, 0.3);
  loop.run(200);
  loop.clients = 4;
  loop.run(2);
  loop.waitedMs = 0;
  loop.run(40);
  assert.equal(loop.waitedMs, 0);
});
