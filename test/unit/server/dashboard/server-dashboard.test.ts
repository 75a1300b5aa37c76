import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '#product/config/read-config.js';
import type { DashboardDocument } from '#product/http/documents.js';
import { makeRequestStats } from '#product/http/request-stats.js';
import { ServerDashboard } from '#product/server/dashboard/server-dashboard.js';
import { makeBatchStats } from '#product/shard-worker/client/batch-stats.js';
import { makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import { ManualClock } from '../../../support/manual-clock.js';

/** A dashboard over stats that a test writes. Nobody answers for the hottest keys. */
class Scene {
  readonly clock = new ManualClock();
  readonly row = statsRow(makeStats(1), 0);
  readonly errors: unknown[] = [];
  readonly dashboard: ServerDashboard;

  constructor() {
    const sources = {
      config: readConfig({ SHARDS: '1' }),
      versions: { version: '1', node: '22', uws: '20' },
      stats: new SharedArrayBuffer(0),
      requestStats: makeRequestStats(1),
      batchStats: makeBatchStats(1),
      inFlightBytes: () => 0,
      connections: 0,
      isDatabaseAvailable: () => true,
      isJournalAvailable: () => true,
      isReady: () => true,
      idempotencyRows: () => 0,
      pruningHeldSeconds: () => 0,
    };
    this.dashboard = new ServerDashboard({
      clock: this.clock,
      logger: { error: (fields) => void this.errors.push(fields) },
      snapshot: () => Promise.resolve({ sources, shards: [this.row.slice()], atMs: this.clock.now() }),
      readiness: () => ({ state: 'ok' }),
      databaseReason: () => '',
      hotKeys: () => new Promise(() => undefined),
    });
    this.dashboard.start();
  }

  /** Counts so many increments, and lets a second pass. */
  async second(increments: number): Promise<void> {
    this.row[STAT.accepted] = (this.row[STAT.accepted] ?? 0) + increments;
    this.clock.advance(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }

  async update(since: number): Promise<{ readonly increments: readonly number[]; readonly through: number }> {
    const { text, through } = await this.dashboard.update(since);
    const { points } = JSON.parse(text) as DashboardDocument;
    return { increments: points.map((point) => point.increments), through };
  }
}

test('each second is a point, whether somebody looks or not, and a stream gets each of them once', async () => {
  const scene = new Scene();
  for (const increments of [0, 5, 7]) await scene.second(increments);
  const first = await scene.update(0);
  assert.deepEqual(first.increments, [5, 7]);
  await scene.second(11);
  assert.deepEqual((await scene.update(first.through)).increments, [11]);
  assert.deepEqual((await scene.update(first.through + 1)).increments, []);
  assert.deepEqual(scene.errors, []);
});

test('five minutes are kept', async () => {
  const scene = new Scene();
  for (let second = 0; second <= 400; second += 1) await scene.second(second);
  const { increments, through } = await scene.update(0);
  assert.deepEqual(
    increments,
    Array.from({ length: 300 }, (_, index) => index + 101),
  );
  assert.equal(through, 400);
});

test('after the clock of the machine was set back, points go on and those before are gone', async () => {
  const scene = new Scene();
  for (const increments of [0, 1, 2, 3]) await scene.second(increments);
  const { through } = await scene.update(0);
  scene.clock.set(-600_000);
  await scene.second(4);
  assert.deepEqual((await scene.update(through)).increments, [4]);
  assert.deepEqual((await scene.update(0)).increments, [4]);
});

test('a shard that does not answer for its hottest keys holds up nothing', async () => {
  const scene = new Scene();
  await scene.second(0);
  const { through } = await scene.update(0);
  for (const increments of [2, 3]) await scene.second(increments);
  assert.deepEqual((await scene.update(through)).increments, [2, 3]);
});
