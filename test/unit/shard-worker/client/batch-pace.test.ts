import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatchPace } from '#product/shard-worker/client/batch-pace.js';

/** Probes in a thousand batches: one in 128. */
const PROBES = 8;

/** Clients that wait for an answer before they send again, and a shard that answers a batch after `roundTripMs`. */
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

void test('a single client waits only in probes', () => {
  const loop = new ClosedLoop(1, 0.2);
  loop.run(1000);
  assert.ok(loop.batchSizes.every((size) => size === 1));
  assert.ok(loop.waitedMs <= 2 * PROBES, `waited ${String(loop.waitedMs)} ms`);
});

void test('a batch holds the requests of most clients; the others gather while it is in flight', () => {
  const loop = new ClosedLoop(128, 0.3);
  loop.run(1000);
  const settled = loop.batchSizes.slice(3);
  assert.ok(settled.filter((size) => size > 100).length <= PROBES, 'all of them in a probe');
  assert.ok(settled.filter((size) => size < 96).length <= PROBES, 'fewer after it, when all come anew');
});

void test('batches stay large when the shard answers at once', () => {
  const loop = new ClosedLoop(128, 0.02);
  loop.run(1000);
  assert.ok(loop.batchSizes.slice(3).filter((size) => size < 96).length <= PROBES);
});

void test('a request after a quiet time is posted at once', () => {
  const pace = new BatchPace();
  for (const nowMs of [1000, 1010]) {
    pace.posted(nowMs);
    pace.answered(500);
    pace.settled(0);
  }
  assert.equal(pace.restMs(1, 1011), 0);
  assert.ok(pace.restMs(1, 1010.9) > 0);
});

void test('after most clients have left, batches wait a millisecond until the next probe, and then no more', () => {
  const loop = new ClosedLoop(128, 0.3);
  loop.run(200);
  loop.clients = 4;
  loop.run(20);
  assert.ok(loop.waitedMs > 0 && loop.waitedMs <= 20, `waited ${String(loop.waitedMs)} ms`);
  loop.run(128);
  loop.waitedMs = 0;
  loop.run(30);
  assert.equal(loop.waitedMs, 0);
});
