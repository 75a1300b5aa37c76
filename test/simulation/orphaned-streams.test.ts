/**
 * Cases of orphaned streams that are rare in random histories: one process had two shards, the next has one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Case, KEYS } from './simulated-case.js';

test('a read that began before the last flush of an orphaned stream is repeated after the stream is deleted', async () => {
  const history = new Case(1);
  const { node: second } = await history.leaveOver();
  const { checkpoints } = history.world.database.tables;
  const seen = new Map(second.streams.map((stream) => [stream, checkpoints.get(stream) ?? null]));
  await history.until(() => second.streams.length === 1);
  const answers = KEYS.map((key) => second.pendingOf([Buffer.from(key)], seen));
  let isAnswered = false;
  void Promise.all(answers).then(() => (isAnswered = true));
  await history.until(() => isAnswered);
  for (const answer of await Promise.all(answers)) assert.deepEqual(answer, ['again']);
});

test('an orphaned stream stays if the database goes back in time between its last flush and the end of its keep time', async () => {
  // At every step after the flush, since the case needs a statement of another stream in between.
  for (let steps = 0; steps < 60; steps += 1) {
    const history = new Case(steps);
    const { database, scheduler } = history.world;
    const { node: second, orphaned } = await history.leaveOver();
    const before = database.snapshot();
    await history.until(() => (database.tables.checkpoints.get(orphaned)?.lsn ?? 0) > 0);
    const until = scheduler.steps + (steps % 12);
    await history.until(() => scheduler.steps >= until);
    database.failOver(before);
    const third = await history.restartUntilCommitted(second);
    assert.equal(third.end, undefined);
  }
});

test('at the limit on keys a key that only an orphaned stream holds is refused, since it needs a new entry', async () => {
  const history = new Case(1, { flushIntervalMs: 30_000, pendingKeysMax: KEYS.length });
  const { node } = await history.leaveOver();
  const outcomes = await history.outcomesOf(node, KEYS);
  assert.deepEqual([...new Set(outcomes)].sort(), ['acknowledged', 'refused']);
  node.checkBalance();
  assert.equal(node.pendingKeys, KEYS.length);
});

for (const keepSeconds of [0, 5]) {
  test(`a finished orphaned stream is deleted ${keepSeconds} s after it was retired`, async () => {
    const history = new Case(1, { keepSeconds });
    const { scheduler } = history.world;
    const { node: second, orphaned } = await history.leaveOver();
    await history.until(() => history.isRetired(orphaned));
    const retiredAt = scheduler.now;
    await history.until(() => second.streams.length === 1);
    const afterMs = scheduler.now - retiredAt;
    assert.ok(afterMs >= 1000 * keepSeconds && afterMs < 1000 * keepSeconds + 1000, `${afterMs} ms`);
    assert.equal(history.world.storage.durableLsn(orphaned), 0);
  });
}

test('the keep time of a finished orphaned stream starts again with the next process', async () => {
  const history = new Case(1);
  const { scheduler } = history.world;
  const { node: second, orphaned } = await history.leaveOver();
  await history.until(() => history.isRetired(orphaned));
  await history.pass(4000);
  second.crash();
  const third = history.start(1);
  await history.until(() => third.isRecovered && third.streams.length === 2);
  const startedAt = scheduler.now;
  await history.until(() => third.streams.length === 1);
  assert.ok(scheduler.now - startedAt >= 4900, `${scheduler.now - startedAt} ms`);
});

test('an orphaned stream that the database forgets within its keep time is counted again from the journal', async () => {
  const history = new Case(1);
  const { database } = history.world;
  const { node: second, orphaned } = await history.leaveOver();
  const before = database.snapshot();
  await history.until(() => history.isRetired(orphaned) && history.isAllCommitted);
  await history.pass(4000);
  database.failOver(before);
  assert.equal(history.isAllCommitted, false);
  await history.until(() => history.isAllCommitted);
  await history.until(() => second.streams.length === 1);
  assert.ok(history.isAllCommitted);
});

test('an orphaned stream that could not be retired without the database is retired when it returns', async () => {
  // At every step between the last flush and the retirement.
  for (let steps = 0; ; steps += 1) {
    const history = new Case(1);
    const { database, scheduler } = history.world;
    const { node: second, orphaned } = await history.leaveOver();
    await history.until(() => (database.tables.checkpoints.get(orphaned)?.lsn ?? 0) > 0);
    const until = scheduler.steps + steps;
    await history.until(() => scheduler.steps >= until);
    if (history.isRetired(orphaned)) {
      assert.ok(steps > 2, `${steps} steps`);
      return;
    }
    database.network = 'gone';
    database.crash();
    await history.pass(3000);
    assert.equal(history.isRetired(orphaned), false);
    database.network = 'fine';
    await history.until(() => history.isRetired(orphaned));
    await history.until(() => second.streams.length === 1);
  }
});

test('a stop does not wait for the keep time, and the next process finishes the stream', async () => {
  const history = new Case(1);
  const { scheduler } = history.world;
  const { node: second, orphaned } = await history.leaveOver();
  await history.until(() => history.isRetired(orphaned));
  const askedAt = scheduler.now;
  void second.terminate();
  await history.until(() => second.end === 'drained');
  assert.ok(scheduler.now - askedAt < 1000);
  assert.deepEqual(second.left, []);
  const third = history.start(1);
  await history.until(() => third.isRecovered && third.streams.length === 1);
  assert.ok(history.isAllCommitted);
});

test('a first start without the database is recovered when the database answers, and not earlier', async () => {
  const history = new Case(1);
  const { database } = history.world;
  database.network = 'gone';
  const node = await history.startServing(1);
  assert.equal(await history.count(node, 'a'), 'acknowledged');
  assert.equal(node.isRecovered, false);
  database.network = 'fine';
  await history.until(() => node.isRecovered);
  assert.equal(history.readinessOf(node), 'ok');
});

test('a stop that flushes an orphaned stream to its end closes its row, which then holds no pruning up', async () => {
  const history = new Case(1, { flushIntervalMs: 30_000 });
  const { node: second, orphaned } = await history.leaveOver();
  const { checkpoints } = history.world.database.tables;
  assert.equal(checkpoints.get(orphaned)?.lsn, 0);
  void second.terminate();
  await history.until(() => second.end === 'drained');
  assert.ok(history.isAllCommitted);
  assert.notEqual(checkpoints.get(orphaned)?.closedAt, undefined);
  const third = history.start(1);
  await history.until(() => history.isRetired(orphaned));
  await history.until(() => third.isRecovered && third.streams.length === 1);
});
