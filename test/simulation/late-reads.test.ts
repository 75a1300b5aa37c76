/** Reads whose database snapshot was taken before a shard recovered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PendingAnswer, SeenCheckpoints } from '#product/shard-worker/protocol/control-messages.js';
import type { Checkpoint } from '#product/core/checkpoint.js';
import { Case, KEYS } from './simulated-case.js';
import type { SimulatedNode } from './simulated-node.js';

/** The current checkpoints of the node's streams. */
function snapshot({ world }: Case, node: SimulatedNode): SeenCheckpoints {
  return new Map(node.streams.map((stream) => [stream, world.database.tables.checkpoints.get(stream) ?? null]));
}

/** The pending sums that the shards add to a read of each key. */
async function answers(
  history: Case,
  node: SimulatedNode,
  seen: SeenCheckpoints,
): Promise<readonly (readonly PendingAnswer[])[]> {
  const asked = Promise.all(KEYS.map((key) => node.pendingOf([Buffer.from(key)], seen)));
  let isAnswered = false;
  void asked.then(() => (isAnswered = true));
  await history.until(() => isAnswered);
  return asked;
}

test('a read that began before a shard restarted is repeated, because it would miss acknowledged increments', async () => {
  const history = new Case(1, { flushIntervalMs: 30_000 });
  const node = await history.countKeys();
  const seen = snapshot(history, node);
  for (const shard of [0, 1]) node.killThread(shard);
  await history.until(() => !node.isRecovered);
  await history.until(() => node.isRecovered && node.refusal === undefined);
  for (const parts of await answers(history, node, seen)) assert.ok(parts.includes('again'), String(parts));
  for (const parts of await answers(history, node, snapshot(history, node))) {
    assert.deepEqual(parts.flat().sort(), [1, null]);
  }
});

test('a read that began before an orphaned stream was taken over is repeated, even after the stream is deleted', async () => {
  const history = new Case(1);
  (await history.countKeys()).crash();
  const { checkpoints } = history.world.database.tables;
  const before = new Map(checkpoints);
  const node = history.start(1);
  await history.until(() => node.isRecovered && node.streams.length === 2);
  const [own = '', orphaned = ''] = node.streams;
  await history.until(() => node.streams.length === 1);
  const seen = new Map<string, Checkpoint | null>([
    [own, checkpoints.get(own) ?? null],
    [orphaned, before.get(orphaned) ?? null],
  ]);
  for (const parts of await answers(history, node, seen)) assert.deepEqual(parts, ['again']);
});
