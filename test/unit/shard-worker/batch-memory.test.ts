import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { answerPort } from '#product/shard-worker/answer-port.js';
import { BATCH_BYTES_MAX, BatchMemory } from '#product/shard-worker/batch-memory.js';
import { batchPort } from '#product/shard-worker/batch-port.js';
import { BATCH_KINDS } from '#product/shard-worker/messages.js';

void test('memory that was given back is taken again, and no other', () => {
  const memory = new BatchMemory();
  const first = memory.take(100);
  const second = memory.take(100);
  assert.notEqual(second.memory, first.memory);
  memory.giveBack(first);
  assert.equal(memory.take(BATCH_BYTES_MAX), first);
  assert.notEqual(memory.take(1).memory, second.memory);
});

void test('beyond the slots, and for what is larger than a slot, memory is made for one use', () => {
  const memory = new BatchMemory();
  const slots = Array.from({ length: 8 }, () => memory.take(1));
  assert.ok(slots.every((slot) => slot.memory instanceof SharedArrayBuffer));
  const further = memory.take(1);
  assert.ok(further.memory instanceof ArrayBuffer);
  assert.equal(further.bytes.length, BATCH_BYTES_MAX);
  memory.giveBack(further);
  assert.notEqual(memory.take(1), further);
  const large = memory.take(BATCH_BYTES_MAX + 1);
  assert.ok(large.memory instanceof ArrayBuffer);
  assert.equal(large.bytes.length, BATCH_BYTES_MAX + 1);
});

void test('batches of every kind and memory arrive in order, each with what was written last', () => {
  const channel = new MessageChannel();
  const front = answerPort(channel.port1);
  const shard = batchPort(channel.port2);
  try {
    const memory = new BatchMemory();
    for (let round = 0; round < 3; round += 1) {
      const buffers = [...BATCH_KINDS.keys()].map(() => memory.take(1));
      const large = memory.take(BATCH_BYTES_MAX + 1);
      for (const [index, buffer] of [...buffers, large].entries()) {
        buffer.view.setUint32(0, round * 100 + index);
        front.post({ kind: BATCH_KINDS[(index + round) % BATCH_KINDS.length] ?? 'plain', memory: buffer.memory });
      }
      assert.equal(large.memory.byteLength, 0, 'transferred');
      for (const index of [...buffers, large].keys()) {
        const batch = shard.receive();
        assert.ok(batch !== undefined);
        assert.equal(batch.kind, BATCH_KINDS[(index + round) % BATCH_KINDS.length]);
        assert.equal(new DataView(batch.memory).getUint32(0), round * 100 + index);
      }
      assert.equal(shard.receive(), undefined);
      // In another order than they were taken in.
      for (const buffer of [buffers[2], buffers[0], buffers[3], buffers[1]]) if (buffer) memory.giveBack(buffer);
    }
  } finally {
    front.close();
    shard.close();
  }
});

void test('a number that no memory was given for is an error, not another batch', () => {
  const channel = new MessageChannel();
  const shard = batchPort(channel.port2);
  try {
    channel.port1.postMessage(5);
    assert.throws(() => shard.receive(), /no batch has the number 5/);
  } finally {
    channel.port1.close();
    shard.close();
  }
});
