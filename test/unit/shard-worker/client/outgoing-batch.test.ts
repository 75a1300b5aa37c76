import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { shardPort, httpServerPort } from '#product/shard-worker/protocol/batch-ports.js';
import { BATCH_BYTES_MAX, BatchMemory } from '#product/shard-worker/client/outgoing-batch.js';
import { BATCH_KINDS, type BatchAnswer } from '#product/shard-worker/protocol/batches.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ManualClock } from '../../../support/manual-clock.js';

void test('memory that was released is used again, other memory is not', () => {
  const memory = new BatchMemory();
  const first = memory.take(100);
  const second = memory.take(100);
  assert.notEqual(second.memory, first.memory);
  memory.release(first);
  assert.equal(memory.take(BATCH_BYTES_MAX), first);
  assert.notEqual(memory.take(1).memory, second.memory);
});

void test('batches beyond the slots and batches larger than a slot get unshared memory', () => {
  const memory = new BatchMemory();
  const slots = Array.from({ length: 8 }, () => memory.take(1));
  assert.ok(slots.every((slot) => slot.memory instanceof SharedArrayBuffer));
  const further = memory.take(1);
  assert.ok(further.memory instanceof ArrayBuffer);
  assert.equal(further.bytes.length, BATCH_BYTES_MAX);
  const large = memory.take(BATCH_BYTES_MAX + 1);
  assert.ok(large.memory instanceof ArrayBuffer);
  assert.equal(large.bytes.length, BATCH_BYTES_MAX + 1);
});

void test('a batch beyond the slots is posted as a copy of its own length, and its memory is used again', () => {
  const memory = new BatchMemory();
  for (let slot = 0; slot < 8; slot += 1) memory.take(1);
  const written = memory.take(1);
  written.bytes.fill(7, 0, 100);
  const sealed = memory.seal(written, 100);
  assert.ok(sealed.memory instanceof ArrayBuffer);
  assert.deepEqual(Buffer.from(sealed.bytes), Buffer.alloc(100, 7));
  assert.equal(memory.take(1), written);
  memory.release(sealed);
  assert.notEqual(memory.take(1), sealed);
  const large = memory.take(BATCH_BYTES_MAX + 1);
  assert.equal(memory.seal(large, BATCH_BYTES_MAX + 1), large);
});

void test('at the key bound the batch of a single request takes no more memory than it needs', () => {
  const shard = new AnsweredByHand();
  shard.connect();
  for (let request = 0; request < 100; request += 1) shard.postAlone();
  assert.equal(shard.memories.length, 100);
  const ownBytes = shard.memories.slice(8).map((memory) => memory.byteLength);
  assert.ok(Math.max(...ownBytes) < 200, `${String(Math.max(...ownBytes))} bytes`);
  shard.answer(100);
  assert.deepEqual(shard.outcomes, Array(100).fill('created'));
});

void test('batches of every kind and memory arrive in order, each with the content that was written last', () => {
  const channel = new MessageChannel();
  const toShard = shardPort(channel.port1);
  const toHttpServer = httpServerPort(channel.port2);
  try {
    const memory = new BatchMemory();
    for (let round = 0; round < 3; round += 1) {
      const buffers = [...BATCH_KINDS.keys()].map(() => memory.take(1));
      const large = memory.take(BATCH_BYTES_MAX + 1);
      for (const [index, buffer] of [...buffers, large].entries()) {
        buffer.view.setUint32(0, round * 100 + index);
        toShard.post({ kind: BATCH_KINDS[(index + round) % BATCH_KINDS.length] ?? 'plain', memory: buffer.memory });
      }
      assert.equal(large.memory.byteLength, 0, 'transferred');
      for (const index of [...buffers, large].keys()) {
        const batch = toHttpServer.receive();
        assert.ok(batch !== undefined);
        assert.equal(batch.kind, BATCH_KINDS[(index + round) % BATCH_KINDS.length]);
        assert.equal(new DataView(batch.memory).getUint32(0), round * 100 + index);
      }
      assert.equal(toHttpServer.receive(), undefined);
      // Not in the order in which they were taken.
      for (const buffer of [buffers[2], buffers[0], buffers[3], buffers[1]]) if (buffer) memory.release(buffer);
    }
  } finally {
    toShard.close();
    toHttpServer.close();
  }
});

void test('an unknown number on the port is an error', () => {
  const channel = new MessageChannel();
  const toHttpServer = httpServerPort(channel.port2);
  try {
    channel.port1.postMessage(5);
    assert.throws(() => toHttpServer.receive(), /no batch has the number 5/);
  } finally {
    channel.port1.close();
    toHttpServer.close();
  }
});

/** A client whose shard answers when the test says so. */
class AnsweredByHand {
  readonly clock = new ManualClock();
  readonly client = new ShardClient(this.clock);
  readonly outcomes: string[] = [];
  /** The memory of each posted batch, in order. */
  readonly memories: ArrayBufferLike[] = [];
  answer: (answer: BatchAnswer) => void = () => undefined;
  readonly #scanner = new IncrementBodyScanner({ keyBytesMax: 512 });

  connect(): void {
    this.client.connect({
      listen: (callback) => {
        this.answer = callback;
      },
      receive: () => undefined,
      post: ({ memory }) => this.memories.push(memory),
      close: () => undefined,
    });
  }

  /** Posts a batch of one request; returns its memory. */
  post(): ArrayBufferLike | undefined {
    this.client.open(100);
    this.client.write(this.#scanner.scan(Buffer.from('{"k":1}'), false), 0);
    this.client.finish({ settle: (refusal) => this.outcomes.push(refusal ?? 'created') }, 1, 15);
    this.clock.advance(10);
    this.client.endTurn();
    return this.memories.at(-1);
  }

  /** Posts a request as the router does at the key bound. */
  postAlone(): void {
    const settle = (refusal: string | undefined): unknown => this.outcomes.push(refusal ?? 'created');
    this.client.addOnlyPendingKeys(this.#scanner.scan(Buffer.from('{"k":1}'), false), { settle }, 15);
    this.client.endTurn();
  }

  /** Adds a request while the batch `posted` is in flight, and checks that the bytes of that batch stay as they are. */
  gather(posted: ArrayBufferLike): void {
    const before = Buffer.from(new Uint8Array(posted));
    this.client.open(100);
    this.client.write(this.#scanner.scan(Buffer.from('{"other":2}'), false), 0);
    this.client.finish({ settle: (refusal) => this.outcomes.push(refusal ?? 'created') }, 1, 19);
    assert.deepEqual(Buffer.from(new Uint8Array(posted)), before);
  }
}

void test('a batch keeps its memory until it is answered, even if its requests time out before', () => {
  const shard = new AnsweredByHand();
  shard.connect();
  const first = shard.post();
  assert.ok(first !== undefined);
  shard.gather(first);
  shard.clock.advance(2000);
  shard.client.expire(1000);
  assert.deepEqual(shard.outcomes.sort(), ['ack-timeout', 'outcome-unknown']);
  shard.gather(first);
  shard.answer(1);
  shard.clock.advance(10);
  shard.client.endTurn();
  assert.notEqual(shard.memories[1], first);
  shard.answer(1);
  assert.ok([first, shard.memories[1]].includes(shard.post()), 'used again');
  assert.equal(shard.memories.length, 3);
});

void test('the next thread of a shard gets other memory, because the former thread may still read', () => {
  const shard = new AnsweredByHand();
  shard.connect();
  const before = [shard.post()];
  shard.answer(1);
  shard.client.disconnect();
  shard.connect();
  for (let batch = 0; batch < 3; batch += 1) {
    assert.ok(!before.includes(shard.post()));
    shard.answer(1);
  }
  assert.equal(shard.memories.length, 4);
});
