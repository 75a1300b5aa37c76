import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { openConnections } from '../support/attack.js';
import { sumOf } from '../support/counters.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment } from '../support/http.js';
import { startServer, type TestServer } from '../support/server.js';
import { assertCleanStop } from '../support/suite-server.js';

const OPEN_FILES_MAX = 150;
const IDLE = 400;

/** CPU time that a process has used, in seconds. */
function cpuSeconds({ child }: TestServer): number {
  const stat = readFileSync(`/proc/${child.pid ?? 0}/stat`, 'utf8');
  // The fields behind the name, which may hold spaces: utime and stime, in hundredths of a second.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function messages(server: TestServer, pattern: RegExp): readonly string[] {
  return server.log.map(({ msg }) => String(msg)).filter((message) => pattern.test(message));
}

describe('more connections than the limit of open files allows', () => {
  for (const [name, env] of [
    ['one HTTP thread', {}],
    ['two HTTP threads', { HTTP_THREADS: '2', MAX_CONNECTIONS: '40' }],
  ] as const) {
    test(`${name}: open connections are served, the CPU is idle, and the others are taken when these end`, async () => {
      const database = await createTestDatabase();
      const server = await startServer({
        env: { DATABASE_URL: database.url, SHARDS: '1', FLUSH_INTERVAL_MS: '100', ...env },
        openFilesMax: OPEN_FILES_MAX,
      });
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      try {
        let counted = 0;
        const count = async (connection: Agent): Promise<number> => {
          const { status, body } = await increment(server.url, { key: 1 }, { agent: connection });
          assert.equal(status, 202, body);
          counted += 1;
          return status;
        };
        await count(agent);
        const idle = await openConnections(server.url, IDLE);
        await server.waitFor('new connections are closed');
        // What the server has not accepted is closed at once; the rest it closes itself after some seconds.
        const refused = await eventually('connections beyond the limit are closed', async () => {
          const closed = idle.filter(({ isClosed }) => isClosed).length;
          return closed >= IDLE - OPEN_FILES_MAX && closed;
        });
        assert.ok(refused < IDLE, 'some are open');
        const [startedAtMs, cpuBefore] = [performance.now(), cpuSeconds(server)];
        for (let n = 0; n < 50; n += 1) await count(agent);
        // uWebSockets.js does, after 10 to 35 s.
        const allClosed = async (): Promise<boolean> => idle.every(({ isClosed }) => isClosed);
        await eventually('the server closes the idle connections', allClosed, 60_000);
        const seconds = (performance.now() - startedAtMs) / 1000;
        const busy = (cpuSeconds(server) - cpuBefore) / seconds;
        console.log(`${refused} of ${IDLE} refused; CPU ${Math.round(busy * 100)} % over ${seconds.toFixed(1)} s`);
        assert.ok(busy < 0.4, `CPU ${Math.round(busy * 100)} % over ${seconds} s`);

        const fresh = new Agent({ keepAlive: false });
        await eventually('a new connection is served', () => count(fresh).catch(() => undefined));
        await server.waitFor('is no longer reached');
        assert.equal(messages(server, /is reached; new connections are closed until others end/).length, 1);
        assert.equal(messages(server, /is no longer reached; new connections are accepted/).length, 1);
        assert.equal(await sumOf(server.url, 'key'), BigInt(counted));
        agent.destroy();
        await assertCleanStop(server);
      } finally {
        agent.destroy();
        await server.dispose();
        await database.drop();
      }
    });
  }
});
