/**
 * What a journal keeps, for how long, and what that does to a shard that has nothing pending.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SimulatedNode } from './simulated-node.js';
import { WrittenHistory } from './written-history.js';

/** Keys of one length, so that no request fits where another has not. */
function longKey(index: number): string {
  return `${index} `.padEnd(300, 'x');
}

/** Sends distinct keys until one is refused; returns how many were acknowledged. */
async function fill(history: WrittenHistory, node: SimulatedNode): Promise<number> {
  for (let index = 0; ; index += 1) {
    if ((await history.count(node, longKey(index))) === 'refused') return index;
  }
}

const bounds = [
  { what: 'four segments', journalBytesMax: 32 * 1024, segmentBytes: 8192 },
  { what: 'one segment', journalBytesMax: 16 * 1024, segmentBytes: 16 * 1024 },
];

for (const { what, ...bound } of bounds) {
  for (const keepSeconds of [0, 5]) {
    test(`a journal of ${what} that was full takes increments again ${keepSeconds} s after all of it is committed`, async () => {
      const history = new WrittenHistory(1, { ...bound, keepSeconds, flushIntervalMs: 20_000 });
      const node = await history.startServing(1);
      assert.ok((await fill(history, node)) > 30);
      await history.flush(node);
      // Nobody asks anything of the shard meanwhile.
      await history.pass(1000 * keepSeconds + 2000);
      assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
      await history.flush(node);
      history.checkAll();
    });
  }
}

test('before the keep time is over a journal that is full of committed records refuses', async () => {
  const history = new WrittenHistory(1, { journalBytesMax: 32 * 1024, flushIntervalMs: 20_000 });
  const node = await history.startServing(1);
  await fill(history, node);
  await history.flush(node);
  await history.pass(4500);
  assert.equal(await history.count(node, longKey(1000)), 'refused');
});

test('a primary that dies after a commit may stay away for longer than the keep time: its standby gets the commit again', async () => {
  for (const awayMs of [1000, 20_000, 300_000]) {
    const history = new WrittenHistory(1);
    const { database } = history.world;
    const node = await history.startServing(1);
    for (let index = 0; index < 60; index += 1) {
      assert.equal(await history.count(node, longKey(index)), 'acknowledged');
    }
    const standby = database.snapshot();
    assert.equal(await history.count(node, 'last'), 'acknowledged');
    await history.until(() => history.world.sumOf('last') > 0n);
    await history.pass(500);
    database.network = 'gone';
    database.crash();
    await history.pass(awayMs);
    database.failOver(standby);
    database.network = 'fine';
    assert.equal(history.world.sumOf('last'), 0n);
    await history.until(() => history.world.sumOf('last') > 0n);
    history.checkAll();
    assert.equal(node.end, undefined);
  }
});
