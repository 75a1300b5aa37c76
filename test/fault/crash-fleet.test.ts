/**
 * Short runs of the crash test with servers that share a journal; `npm run crash-test` runs longer ones.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { natsServerMissing } from '../support/nats-server.js';
import { seededRandom } from '../support/random.js';
import { runFleet } from './crash-fleet.js';

test(
  'servers of every role on one PostgreSQL, killed, suspended and replaced, count exactly',
  { timeout: 400_000 },
  async () => {
    const { violations, acknowledged } = await runFleet({
      durationMs: 8_000,
      random: seededRandom('fleet'),
      roles: ['ingest', 'ingest', 'roll-up', 'roll-up', 'serve'],
      haste: 8,
      killsLeast: 2,
      freezesLeast: 1,
      databaseFaultsLeast: 1,
      connections: 16,
      restMs: 5,
    });
    assert.deepEqual(violations, []);
    assert.ok(acknowledged > 0, 'something was acknowledged');
  },
);

test(
  'servers of every role on three nats-servers, killed, suspended and replaced, count exactly',
  { timeout: 400_000, skip: natsServerMissing() },
  async () => {
    const { violations, acknowledged } = await runFleet({
      durationMs: 8_000,
      random: seededRandom('fleet on nats-cluster'),
      roles: ['ingest', 'ingest', 'roll-up', 'serve'],
      journal: 'nats-cluster',
      haste: 8,
      killsLeast: 2,
      freezesLeast: 1,
      connections: 16,
      restMs: 5,
    });
    assert.deepEqual(violations, []);
    assert.ok(acknowledged > 0, 'something was acknowledged');
  },
);
