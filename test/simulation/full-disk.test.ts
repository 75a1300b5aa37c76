/**
 * A disk without room, while a process serves and while one starts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WrittenHistory } from './written-history.js';

/** A key that does not fit into a segment's zeros beside others. */
function longKey(index: number): string {
  return `${index} `.padEnd(500, 'x');
}

test('while the disk is full readiness says journal-unavailable, and ok again without a request once there is room', async () => {
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

test('an increment that finds room makes readiness ok at once', async () => {
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
