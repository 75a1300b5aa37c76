import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Logger } from '#product/core/logger.js';
import { reportStop } from '#product/server/stop-report.js';
import { conservation, makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';

test('a balance that does not add up is reported and gives exit code 70', () => {
  const logged: string[] = [];
  const ignore = (): void => undefined;
  const logger: Logger = { debug: ignore, info: ignore, warn: ignore, error: (_, text) => void logged.push(text) };
  const stats = makeStats(1);
  const report = { journal: 'file', role: 'serve', logger, left: [], unread: 0, databaseReason: '' } as const;
  const codeOf = (): number => reportStop({ ...report, balance: conservation(stats, 1) });
  assert.equal(codeOf(), 0);
  statsRow(stats, 0)[STAT.accepted] = 1;
  assert.equal(codeOf(), 70);
  assert.deepEqual(logged, ['Increments do not add up at shutdown because of a bug; exiting with code 70']);
});
