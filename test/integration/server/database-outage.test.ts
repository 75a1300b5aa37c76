import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { connectTo } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, problemCode, send } from '../../support/http.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const OUTAGE_MS = 2000;
const CLIENTS = 4;

async function readyStatus(server: TestServer): Promise<unknown> {
  const answer = await send(server.url, '/readyz');
  assert.equal(answer.status, 200, answer.body);
  return (JSON.parse(answer.body) as { status?: unknown }).status;
}

/** Clients that post one of three keys each until `end`, and the acknowledged sums. */
class Load {
  readonly acknowledged = new Map<string, bigint>();
  readonly #agent = new Agent({ keepAlive: true });
  readonly #clients: Promise<void>[];
  #ended = false;

  constructor(server: TestServer) {
    this.#clients = Array.from({ length: CLIENTS }, (_, client) => this.#run(server, client));
  }

  async end(): Promise<void> {
    this.#ended = true;
    await Promise.all(this.#clients);
    this.#agent.destroy();
  }

  get total(): bigint {
    return [...this.acknowledged.values()].reduce((total, count) => total + count, 0n);
  }

  async #run(server: TestServer, client: number): Promise<void> {
    for (let sent = client; !this.#ended; sent += 1) {
      const key = `outage-${sent % 3}`;
      const answer = await increment(server.url, { [key]: 1 }, { agent: this.#agent });
      if (answer.status === 202) this.acknowledged.set(key, (this.acknowledged.get(key) ?? 0n) + 1n);
      else assert.equal(answer.status, 503, answer.body);
    }
  }
}

const outages = [
  { journal: 'file', ways: ['fast', 'crash'] },
  { journal: 'memory', ways: ['crash'] },
] as const;

for (const { journal, ways } of outages) {
  describe(`the database becomes unavailable and returns, journal ${journal}`, () => {
    let postgres: OutagePostgres;
    let server: TestServer;
    before(async () => {
      postgres = await OutagePostgres.prepare();
      await postgres.start();
      server = await startServer({
        env: { DATABASE_URL: postgres.url, JOURNAL: journal, SHARDS: '2', FLUSH_INTERVAL_MS: '100' },
      });
    });
    after(async () => {
      await server.dispose();
      await postgres.dispose();
    });

    for (const how of ways) {
      test(`${how}: increments are taken, /readyz is degraded, reads and flushes are 503, and nothing is lost`, async () => {
        const load = new Load(server);
        const before = await committedTotal(postgres);
        await eventually('a flush under load', async () => (await committedTotal(postgres)) > before);
        await postgres.stop(how);
        await eventually('degraded', async () => (await readyStatus(server)) === 'degraded');
        const startedAt = performance.now();
        const flush = await send(server.url, '/flush', { method: 'POST' });
        assertProblem(flush, 'database-unavailable');
        assert.ok(performance.now() - startedAt < 1000, 'the refusal of a flush is immediate');
        for (const path of ['/key_sum?name=outage-0', '/counters/outage-0', '/counters?key=never']) {
          assertProblem(await send(server.url, path), 'database-unavailable');
        }
        const during = load.total;
        await new Promise((resolve) => setTimeout(resolve, OUTAGE_MS));
        assert.ok(load.total > during, 'increments are acknowledged while the database is unavailable');
        assert.equal(await readyStatus(server), 'degraded');
        await postgres.start();
        const acknowledged = load.total;
        const early = async (): Promise<boolean> => (await committedTotal(postgres)) - before >= acknowledged;
        await eventually('pending increments are committed within 5 s', early, 5000);
        await eventually('ready again', async () => (await readyStatus(server)) === 'ok');
        await load.end();
        for (const [key, count] of load.acknowledged) totals.set(key, (totals.get(key) ?? 0n) + count);
        await eventually('a flush is taken again', async () => {
          const answer = await send(server.url, '/flush', { method: 'POST' });
          return answer.status === 200 || (assert.equal(problemCode(answer), 'database-unavailable'), false);
        });
        assert.deepEqual(await committedSums(postgres.url), totals);
      });
    }
    const totals = new Map<string, bigint>();

    test('a stop afterwards commits the rest and ends with 0', async () => {
      assertCreated(await increment(server.url, { 'outage-0': 1 }));
      totals.set('outage-0', (totals.get('outage-0') ?? 0n) + 1n);
      await assertCleanStop(server);
      assert.deepEqual(await committedSums(postgres.url), totals);
    });
  });
}

async function committedTotal(postgres: OutagePostgres): Promise<bigint> {
  return [...(await committedSums(postgres.url)).values()].reduce((total, sum) => total + sum, 0n);
}

describe('a database that neither answers nor refuses', () => {
  test('a database that does not respond is detected within seconds: degraded, flushes are 503, and everything is committed when it continues', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    await postgres.start();
    const server = own(t, await startServer({ env: { DATABASE_URL: postgres.url, SHARDS: '1' } }));
    assertCreated(await increment(server.url, { held: 1 }));
    assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
    postgres.hold();
    assertCreated(await increment(server.url, { held: 10 }));
    const askedAt = performance.now();
    assertProblem(await send(server.url, '/flush', { method: 'POST' }), 'database-unavailable');
    assert.ok(performance.now() - askedAt < 15_000);
    await eventually('degraded', async () => (await send(server.url, '/readyz')).body.includes('degraded'));
    assertCreated(await increment(server.url, { held: 100 }));
    postgres.release();
    await eventually('ready', async () => (await send(server.url, '/readyz')).body === '{"status":"ok"}');
    await assertCleanStop(server);
    assert.equal((await committedSums(postgres.url)).get('held'), 111n);
  });
});

describe('a database that answers reads but takes no flush', () => {
  let postgres: OutagePostgres;
  let server: TestServer;
  before(async () => {
    postgres = await OutagePostgres.prepare();
    await postgres.start();
    await administrate(
      `create role counting login password 'counting' nosuperuser; create database counted owner counting`,
    );
    const url = new URL(postgres.url);
    url.username = 'counting';
    url.password = 'counting';
    url.pathname = '/counted';
    server = await startServer({ env: { DATABASE_URL: url.href, SHARDS: '2', FLUSH_INTERVAL_MS: '20' } });
  });
  after(async () => {
    await server.dispose();
    await postgres.dispose();
  });

  async function administrate(statements: string, database = '/postgres'): Promise<void> {
    const url = new URL(postgres.url);
    url.pathname = database;
    const connection = await connectTo(url.href);
    try {
      for (const text of statements.split(';')) await connection.query({ text });
    } finally {
      await connection.close();
    }
  }

  test('without permission to flush the server is degraded, keeps acknowledged increments pending, and commits them when it may', async () => {
    assert.equal(await readyStatus(server), 'ok');
    await administrate('revoke insert on counters from counting', '/counted');
    assertCreated(await increment(server.url, { kept: 5 }));
    await eventually('degraded', async () => (await readyStatus(server)) === 'degraded');
    assertCreated(await increment(server.url, { kept: 6 }));
    assert.equal((await send(server.url, '/key_sum?name=kept')).body, '11');
    assertProblem(await send(server.url, '/flush', { method: 'POST' }), 'database-unavailable');
    await administrate('grant insert on counters to counting', '/counted');
    await eventually('ok', async () => (await readyStatus(server)) === 'ok');
    assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
    assert.equal((await send(server.url, '/key_sum?name=kept')).body, '11');
    await assertCleanStop(server);
  });
});
