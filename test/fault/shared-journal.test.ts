/**
 * What every shared journal that has writers promises: a server that is gone or asleep is replaced by another one, and what it had
 * acknowledged is counted once.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { eventually } from '../support/eventually.js';
import { sendTracked } from '../support/load.js';
import { NatsServer, natsServerMissing } from '../support/nats-server.js';
import { kill } from '../support/node-test.js';
import { linesOf, othersEnded, startPair, streamsOf, TAKEN_OVER, type ServerPair } from './server-pair.js';
import { TakeoverLog } from './takeover-log.js';

/** Promised for the journal in PostgreSQL; for the other one nothing is measured. */
const TAKEOVER_MAX_MS = 10_000;

for (const { journal, skip } of [
  { journal: 'postgres', skip: false },
  { journal: 'nats', skip: natsServerMissing() },
] as const)
  describe(`of two servers with JOURNAL=${journal}`, { concurrency: 2, skip }, () => {
    async function withPair(label: string, body: (pair: ServerPair) => Promise<void>): Promise<void> {
      const broker = journal === 'nats' ? await NatsServer.start() : undefined;
      const pair = await startPair(`${journal}: ${label}`, { JOURNAL: broker?.journal ?? journal });
      try {
        await body(pair);
      } finally {
        await pair.dispose();
        await broker?.dispose();
      }
    }

    test('one is killed under load and loses its data directory; the other counts all that it had acknowledged', () =>
      withPair('lost directory', async ({ database, first, second, load, servers }) => {
        await load.acknowledgements(500);
        await kill(servers[0]);
        await rm(first.dataDir, { recursive: true });
        await load.acknowledgements(200);
        await load.stop();
        await othersEnded(database.url, [servers[1]]);
        // Also those streams that were left empty.
        assert.equal(linesOf(servers[1], TAKEN_OVER).length, streamsOf(servers[0]).size);
        await second.finish(servers[1]);
      }));

    test('one is suspended, and the other takes its streams over; when it wakes, it continues with new streams', () =>
      withPair('suspended server', async ({ database, first, second, load, servers }) => {
        const before = streamsOf(servers[0]);
        const takeoverLog = await TakeoverLog.start(database.url, () => [servers[1]]);
        try {
          await load.acknowledgements(200);
          servers[0].kill('SIGSTOP');
          await eventually('the takeover', async () => linesOf(servers[1], TAKEN_OVER).length === before.size);
          await othersEnded(database.url, [servers[1]]);
          servers[0].kill('SIGCONT');
          await eventually('the end of the old streams', async () => {
            const now = streamsOf(servers[0]);
            return now.size === before.size && [...now].every((stream) => !before.has(stream));
          });
          await load.acknowledgements(200);
          const direct = await sendTracked(first.url, first.history.writer('direct')());
          assert.equal(direct?.status, 202, direct?.body);
          await load.stop();
          const takeovers = await takeoverLog.finish();
          if (journal === 'postgres') {
            assert.deepEqual(new Set(takeovers.map(({ stream }) => stream)), before);
            for (const { silentMs } of takeovers)
              assert.ok(silentMs <= TAKEOVER_MAX_MS, `a takeover took ${silentMs} ms`);
          }
          await first.flush();
          await second.flush();
          for (const server of servers) assert.equal((await server.stop()).code, 0, server.output);
          await second.compare();
        } finally {
          await takeoverLog.stop();
        }
      }));
  });
