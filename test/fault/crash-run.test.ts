/**
 * Short runs of the crash test; `npm run crash-test` runs longer ones.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom } from '../support/random.js';
import { ofTier } from '../support/tier.js';
import { runCrashes, type CrashRunOptions } from './crash-run.js';

const runs: readonly (readonly [string, Omit<CrashRunOptions, 'random' | 'durationMs'>])[] = [
  [
    'after kill -9 of server and PostgreSQL at random instants every acknowledged increment is counted once',
    { database: 'given', serverKillsLeast: 2, databaseKillsLeast: 1 },
  ],
  [
    'after kill -9 of a server and its embedded PostgreSQL every acknowledged increment is counted once',
    { database: 'embedded', serverKillsLeast: 2, databaseKillsLeast: 1 },
  ],
  [
    'two nodes on one database, killed and started again, count exactly and never deadlock',
    { database: 'given', nodes: 2, serverKillsLeast: 2, databaseKillsLeast: 1 },
  ],
  [
    'nothing is lost or counted twice when PostgreSQL is killed under a running server',
    { database: 'given', killServers: false, databaseKillsLeast: 1 },
  ],
];

for (const [name, options] of ofTier(runs)) {
  test(name, { timeout: 300_000 }, async () => {
    const result = await runCrashes({ ...options, random: seededRandom(name), durationMs: 6_000, restMs: 5 });
    assert.deepEqual(result.violations, []);
    assert.ok(result.acknowledged > 0, 'something was acknowledged');
    assert.ok(result.databaseKills > 0, 'PostgreSQL was killed');
    assert.ok(options.killServers === false || result.serverKills > 0, 'the server was killed');
  });
}
