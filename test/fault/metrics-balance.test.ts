/**
 * The balance in the metrics, scraped all the time while shards count, flush, die and recover.
 */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { faultEnvironment, type Fault } from '../support/fault-injection.js';
import { imbalances, scrape } from '../support/metrics.js';
import { testNode } from '../support/node-test.js';

/** Scrapes of one case; for a longer proof, `SCRAPES=10000 node dist-test/test/run.js fault metrics-balance`. */
const SCRAPES = Number(process.env['SCRAPES'] ?? 400);
/** At most five in a minute, or the process ends. */
const RESTARTS = 4;

const faults: readonly (readonly [string, Pick<Fault, 'step' | 'action' | 'at'>, Readonly<Record<string, string>>])[] =
  [
    ['end between a sync and its acknowledgements', { step: 'acknowledge', action: 'exit-thread', at: 200 }, {}],
    [
      'end behind a flush that is committed',
      { step: 'flush-committed', action: 'exit-thread', at: 5 },
      { HTTP_THREADS: '2' },
    ],
    ['end in memory', { step: 'acknowledge', action: 'exit-thread', at: 200 }, { JOURNAL: 'memory' }],
  ];

for (const [how, fault, env] of faults) {
  testNode(
    `the increments of each shard add up in every one of ${SCRAPES} scrapes while shard threads ${how}`,
    { FLUSH_INTERVAL_MS: '50', ...env },
    async ({ node, directory, armedBy }) => {
      const oneThread = path.join(directory, 'thread');
      await node.start(faultEnvironment({ ...fault, armedBy, oneThread }));
      const load = node.load(16, 'w-', 0);
      const wrong: string[] = [];
      let restarts = 0;
      // On a busy machine a restart takes longer than the scrapes.
      for (let count = 0; count < SCRAPES || (restarts < 2 && count < 20 * SCRAPES); count += 1) {
        const page = await scrape(node.url);
        for (const [shard, difference] of imbalances(page))
          if (difference !== 0) wrong.push(`scrape ${count}, shard ${shard}: ${difference}`);
        restarts = page.total('shard_restarts_total');
        assert.deepEqual(wrong, []);
        // A thread is chosen among those that run; each restart needs another choice.
        if (count % Math.floor(SCRAPES / 4) === Math.floor(SCRAPES / 8) && restarts < RESTARTS) {
          rmSync(oneThread, { force: true });
          writeFileSync(armedBy, '');
        }
        await turn();
      }
      assert.ok(restarts >= 2, `${restarts} restarts`);
      await load.stop();
      if (env['JOURNAL'] === 'memory') return;
      await node.flush();
      const page = await scrape(node.url);
      assert.deepEqual([...imbalances(page).values(), page.total('increments_pending')], [0, 0, 0]);
      await node.compare();
    },
  );
}
