import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RestartBudget } from '#product/shard-worker/supervisor/shard-supervisor.js';
import { ManualClock } from '../../../support/manual-clock.js';

test('a shard may restart five times within a minute, and once more when the first restart is a minute ago', () => {
  const clock = new ManualClock();
  const budget = new RestartBudget(clock);
  for (let restart = 1; restart <= 5; restart += 1) {
    assert.equal(budget.take(), true);
    clock.advance(1000);
  }
  clock.advance(55_001);
  assert.equal(budget.take(), true);
  assert.equal(budget.take(), false);
});
