/**
 * What a journal keeps and for how long, and the effect on a shard that has nothing pending.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SimulatedNode } from './simulated-node.js';
import { WrittenHistory } from './written-history.js';

/** Keys of one length, so that all requests need the same space. */
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
      // The shard gets no requests meanwhile.
      await history.pass(1000 * keepSeconds + 2000);
      assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
      await history.flush(node);
      history.checkAll();
    });
  }
}

test('a journal full of committed records refuses increments until the keep time is over', async () => {
  const history = new WrittenHistory(1, { journalBytesMax: 32 * 1024, flushIntervalMs: 20_000 });
  const node = await history.startServing(1);
  await fill(history, node);
  await history.flush(node);
  await history.pass(4500);
  assert.equal(await history.count(node, longKey(1000)), 'refused');
});

/** A process sees a commit, and its primary dies. After `outageMs` a standby without the commit takes over. */
async function failOverAfter(outageMs: number): Promise<void> {
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
  await history.pass(outageMs);
  database.failOver(standby);
  database.network = 'fine';
  assert.equal(history.world.sumOf('last'), 0n);
  await history.until(() => history.world.sumOf('last') > 0n);
  history.checkAll();
  assert.equal(node.end, undefined);
}

test('if a primary dies after a commit and stays unavailable beyond the keep time, its standby gets the commit again', async () => {
  for (const outageMs of [1000, 20_000, 300_000]) await failOverAfter(outageMs);
});

/**
 * Processes that start without a database, take distinct keys until they refuse, and die. Returns the number of keys.
 */
async function liveWithoutDatabase(history: WrittenHistory, lives: number): Promise<number> {
  history.world.database.network = 'gone';
  let keys = 0;
  for (let life = 0; life < lives; life += 1) {
    const node = await history.startServing(1);
    while ((await history.count(node, longKey(keys))) === 'acknowledged') keys += 1;
    node.crash();
  }
  return keys;
}

test('the journals of starts without the database count against the journal limit of the next start', async () => {
  const bound = { journalBytesMax: 64 * 1024, segmentBytes: 16 * 1024 };
  const history = new WrittenHistory(1, { ...bound, pendingKeysMax: 40 });
  const { storage, database } = history.world;
  const keys = await liveWithoutDatabase(history, 8);
  assert.ok(keys >= 80 && keys < 200, `${keys} keys`);
  assert.ok(storage.segmentBytes <= bound.journalBytesMax, `${storage.segmentBytes} bytes`);
  database.network = 'fine';
  const node = await history.startServing(1);
  await history.until(() => node.isRecovered);
  await history.flush(node);
  history.checkAll();
  // All of them are finished and deleted, so there is space again.
  await history.until(() => node.streams.length === 1);
  assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
});

for (const when of ['before', 'after'] as const) {
  test(`many streams are recovered one at a time if the database returns ${when} the start`, async () => {
    const history = new WrittenHistory(1, { pendingKeysMax: 40, flushKeysMax: 10, flushIntervalMs: 3_600_000 });
    const { database, expectations } = history.world;
    const lives = 6;
    assert.equal(await liveWithoutDatabase(history, lives), 40 * lives);
    if (when === 'before') database.network = 'fine';
    const node = await history.startServing(1);
    database.network = 'fine';
    let most = 0;
    let readsRefused = 0;
    let isWrong = false;
    const [counter] = expectations.counters.values();
    assert.ok(counter !== undefined);
    await history.until(() => {
      most = Math.max(most, node.pendingKeys);
      node.read(counter.bytes).then(
        (sum) => (isWrong ||= sum !== 1 && sum !== 1n),
        () => (readsRefused += 1),
      );
      return node.isRecovered;
    });
    assert.ok(most <= 80, `${most} keys at a time`);
    assert.ok(readsRefused > 0);
    assert.equal(isWrong, false);
    await history.flush(node);
    history.checkAll();
  });
}
