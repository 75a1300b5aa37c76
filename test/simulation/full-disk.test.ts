/**
 * A full disk, while a process serves and while one starts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WrittenHistory } from './written-history.js';

/** A key so large that it does not fit into a segment's zeros with others. */
function longKey(index: number): string {
  return `${index} `.padEnd(500, 'x');
}

test('on a full disk readiness is journal-unavailable, and ok again without a request when there is space', async () => {
  const history = new WrittenHistory(1);
  const { storage } = history.world;
  const node = await history.startServing(1);
  assert.equal(await history.count(node, longKey(0)), 'acknowledged');
  storage.full = true;
  let index = 1;
  while ((await history.count(node, longKey(index))) === 'acknowledged') index += 1;
  assert.equal(history.readinessOf(node), 'journal-unavailable');
  await history.pass(10_000);
  assert.equal(history.readinessOf(node), 'journal-unavailable');
  storage.full = false;
  await history.pass(1500);
  assert.equal(history.readinessOf(node), 'ok');
  assert.equal(await history.count(node, longKey(index + 1)), 'acknowledged');
  await history.flush(node);
  history.checkAll();
});

test('an increment that finds space makes readiness ok at once', async () => {
  const history = new WrittenHistory(1);
  const { storage } = history.world;
  const node = await history.startServing(1);
  storage.full = true;
  assert.equal(await history.count(node, 'a'), 'refused');
  assert.equal(history.readinessOf(node), 'journal-unavailable');
  storage.full = false;
  assert.equal(await history.count(node, 'a'), 'acknowledged');
  assert.equal(history.readinessOf(node), 'ok');
});

/** A process that was killed with pending increments and left a full disk. */
async function killOnFullDisk(history: WrittenHistory, withReserve: boolean): Promise<void> {
  const { storage } = history.world;
  const node = await history.startServing(1);
  for (let index = 0; index < 40; index += 1) {
    assert.equal(await history.count(node, longKey(index)), 'acknowledged');
  }
  // The process reserves space a second after the start.
  await history.pass(1500);
  assert.equal(await history.count(node, longKey(40)), 'acknowledged');
  node.crash();
  if (!withReserve) storage.remove('/data/journal/reserve-0');
  storage.full = true;
}

for (const keepSeconds of [0, 5]) {
  test(`a start on a disk full of its own journal frees it by flushing, and then takes increments (keep ${keepSeconds} s)`, async () => {
    // The segment that would take over does not fit into the reserved space.
    const history = new WrittenHistory(1, { flushIntervalMs: 1000, keepSeconds, segmentBytes: 1 << 20 });
    await killOnFullDisk(history, true);
    const node = await history.startServing(1);
    assert.equal(history.readinessOf(node), 'journal-unavailable');
    await history.until(() => node.streams.length === 1);
    await history.pass(1500);
    assert.equal(history.readinessOf(node), 'ok');
    assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
    await history.flush(node);
    history.checkAll();
    assert.equal(node.end, undefined);
  });
}

test('a start on a full disk continues its journal if the reserved space is enough', async () => {
  const history = new WrittenHistory(1, { flushIntervalMs: 1000 });
  await killOnFullDisk(history, true);
  const node = await history.startServing(1);
  assert.equal(history.readinessOf(node), 'ok');
  assert.equal(node.streams.length, 1);
  assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
  await history.flush(node);
  history.checkAll();
});

test('a start that finds no space at all waits for it and refuses increments', async () => {
  const history = new WrittenHistory(1, { flushIntervalMs: 1000 });
  const { storage } = history.world;
  await killOnFullDisk(history, false);
  const node = history.start(1);
  await history.pass(30_000);
  assert.equal(history.readinessOf(node), 'starting');
  assert.equal(node.end, undefined);
  storage.full = false;
  await history.until(() => node.refusal === undefined, 6000);
  assert.equal(await history.count(node, longKey(1000)), 'acknowledged');
  await history.flush(node);
  history.checkAll();
});

test('a shard thread that dies on a full disk is restarted, and the process continues', async () => {
  const history = new WrittenHistory(1, { flushIntervalMs: 1000 });
  const { storage } = history.world;
  const node = await history.startServing(1);
  for (let index = 0; index < 40; index += 1) await history.count(node, longKey(index));
  storage.full = true;
  node.killThread(0);
  await history.pass(20_000);
  assert.equal(history.readinessOf(node), 'journal-unavailable');
  assert.equal(node.end, undefined);
  storage.full = false;
  await history.until(() => node.refusal === undefined, 6000);
  await history.flush(node);
  history.checkAll();
});

test('journals of earlier runs that a full disk keeps from being read when the database returns are read later', async () => {
  const history = new WrittenHistory(1);
  const { storage, database } = history.world;
  const first = await history.startServing(1);
  assert.equal(await history.count(first, longKey(0)), 'acknowledged');
  first.crash();
  database.network = 'gone';
  const node = await history.startServing(1);
  storage.full = true;
  database.network = 'fine';
  await history.pass(20_000);
  assert.equal(node.isRecovered, false);
  assert.equal(node.end, undefined);
  storage.full = false;
  await history.until(() => node.isRecovered, 6000);
  await history.flush(node);
  history.checkAll();
});
