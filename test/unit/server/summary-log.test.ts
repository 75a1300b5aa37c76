import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SummaryLog, type SummaryTotals } from '#product/server/summary-log.js';
import { CollectedLog } from '../../support/collected-log.js';
import { ManualClock } from '../../support/manual-clock.js';

const NOTHING: SummaryTotals = { accepted: 0, flushed: 0, pending: 0, requests: 0, refusals: 0, flushLagSeconds: 0 };

function scene(intervalSeconds: number) {
  const clock = new ManualClock();
  const logger = new CollectedLog();
  const log = new SummaryLog(clock, logger, intervalSeconds);
  const pass = (seconds: number, totals: SummaryTotals): void => {
    for (let second = 0; second < seconds; second += 1) {
      clock.advance(1000);
      log.look(totals);
    }
  };
  return { logger, pass };
}

test('the first flush has a line of its own, once', () => {
  const { logger, pass } = scene(0);
  pass(2, NOTHING);
  assert.deepEqual(logger.take(), []);
  pass(2, { ...NOTHING, flushed: 3 });
  pass(2, { ...NOTHING, flushed: 9 });
  assert.deepEqual(logger.take(), [
    { level: 'info', fields: { flushed: 3 }, message: 'First flush: 3 increments are in PostgreSQL' },
  ]);
});

test('a summary has what was counted since the last one, and what is pending now', () => {
  const { logger, pass } = scene(10);
  const totals = { accepted: 50, flushed: 0, pending: 50, requests: 12, refusals: 2, flushLagSeconds: 0.5234 };
  pass(10, totals);
  pass(10, { ...totals, accepted: 70, requests: 20, refusals: 3, flushLagSeconds: 10.5 });
  assert.deepEqual(logger.take(), [
    {
      level: 'info',
      fields: { seconds: 10, increments: 50, requests: 12, refusals: 2, flushed: 0, pending: 50, flushLagSeconds: 0.5 },
      message: 'In 10 s 50 increments in 12 requests, 2 refused; 50 pending, the oldest for 0.5 s',
    },
    {
      level: 'info',
      fields: { seconds: 10, increments: 20, requests: 8, refusals: 1, flushed: 0, pending: 50, flushLagSeconds: 10.5 },
      message: 'In 10 s 20 increments in 8 requests, 1 refused; 50 pending, the oldest for 10.5 s',
    },
  ]);
});

test('with an interval of 0 there are no summaries', () => {
  const { logger, pass } = scene(0);
  pass(1000, NOTHING);
  assert.deepEqual(logger.take(), []);
});
