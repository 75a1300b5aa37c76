/** Idle streams; random histories are too short for them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Case } from './simulated-case.js';

/** Idle streams advance at least once a minute; the rest is a margin for clocks and waits. */
const IDLE_TOUCH_MAX_MS = 20_000;

test('idle streams keep advancing accepted_through', async () => {
  const history = new Case(1);
  const node = history.start(3);
  await history.until(() => node.refusal === undefined);
  for (let round = 0; round < 5; round += 1) {
    await history.pass(IDLE_TOUCH_MAX_MS);
    const { clock, tables } = history.world.database;
    for (const [stream, { acceptedThrough }] of tables.checkpoints) {
      const behindMs = (clock.now() - acceptedThrough) / clock.scale.rate;
      assert.ok(behindMs >= 0 && behindMs < IDLE_TOUCH_MAX_MS, `${stream} is ${behindMs} ms behind`);
    }
  }
});

test('a stop while the row of a new stream is being made closes that row', async () => {
  const history = new Case(1, { ackTimeoutMs: 50 });
  const { database } = history.world;
  const node = await history.startServing(1);
  database.slowness = 200;
  const request = history.send(node, 'a', 'idempotency key');
  await history.until(() => request.fate === 'refused');
  assert.equal(database.tables.checkpoints.size, 0);
  void node.terminate();
  await history.until(() => node.end === 'drained');
  await history.pass(5000);
  assert.deepEqual(
    [...database.tables.checkpoints.values()].map(({ closedAt }) => closedAt === undefined),
    [false],
  );
});
