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
    for (const [stream, { acceptedThroughMs }] of history.world.database.tables.checkpoints) {
      const behindMs = history.now() - acceptedThroughMs;
      assert.ok(behindMs >= 0 && behindMs < IDLE_TOUCH_MAX_MS, `${stream} is ${behindMs} ms behind`);
    }
  }
});
