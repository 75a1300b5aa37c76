/** What a journal that servers share must do, whichever of the three keeps it. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { bodyBytesMaxOf as bodyBytesMaxOfNats } from '#product/shard-worker/journal/nats/nats-message.js';
import { bodyBytesMaxOf as bodyBytesMaxOfSqs } from '#product/shard-worker/journal/sqs/sqs-message.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, incrementTaken, onConnections, problemCode, send } from '../../support/http.js';
import { largestBody } from '../../support/journal-fixtures.js';
import {
  assertCounter,
  committedSum,
  openStreams,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { scrape } from '../../support/metrics.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { own, refusedStart } from '../../support/own.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

/** What keeps the records of one journal. */
interface Keeper {
  /** The settings of a server that name it. */
  readonly env: Environment;
  /** The subjects or messages that hold more than they need to once everything is committed. */
  leftovers(): Promise<number>;
  stop(): Promise<void>;
  /** Starts it again. */
  start(): Promise<unknown>;
  dispose(): Promise<void>;
}

async function nats(messageBytes = 1024 ** 2): Promise<Keeper> {
  const broker = await NatsServer.start(`max_payload: ${messageBytes}`);
  return {
    env: { JOURNAL: broker.journal },
    async leftovers() {
      const session = await connect({ servers: broker.address });
      try {
        const manager = await jetstreamManager(session);
        const { state } = await manager.streams.info('summing-counters', { subjects_filter: '>' });
        return Object.values(state.subjects ?? {}).filter((messages) => messages > 2).length;
      } finally {
        await session.close();
      }
    },
    stop: () => broker.stop(),
    start: () => broker.start(),
    dispose: () => broker.dispose(),
  };
}

/** The local server keeps its queues in memory, so an outage is made in front of it. */
async function sqs(messageBytes = 1024 ** 2): Promise<Keeper> {
  const server = await SqsServer.start();
  await server.makeQueue('journal.fifo', { MaximumMessageSize: String(messageBytes) });
  const proxy = await TcpProxy.start(server.address);
  return {
    env: { ...SQS_ENVIRONMENT, JOURNAL: `sqs:${proxy.urlOf(server.urlOf('journal.fifo'))}` },
    leftovers: () => server.messagesIn(),
    stop: () => proxy.refuse(),
    start: () => proxy.accept(),
    dispose: async () => {
      await proxy.close();
      await server.dispose();
    },
  };
}

/** PostgreSQL keeps its journal itself, and what it has committed. */
function postgres(): Promise<Keeper> {
  const nothing = (): Promise<void> => Promise.resolve();
  const leftovers = (): Promise<number> => Promise.resolve(0);
  return Promise.resolve({ env: { JOURNAL: 'postgres' }, leftovers, stop: nothing, start: nothing, dispose: nothing });
}

const journals = [
  { name: 'postgres', keeper: postgres, skip: false, canServe: true, messages: undefined },
  {
    name: 'nats',
    keeper: nats,
    skip: natsServerMissing(),
    canServe: true,
    messages: { what: 'broker', sizes: [256 * 1024, 1024 ** 2, 4 * 1024 ** 2], bodyBytesMaxOf: bodyBytesMaxOfNats },
  },
  {
    name: 'sqs',
    keeper: sqs,
    skip: false,
    // A server cannot read its own increments back from a queue.
    canServe: false,
    messages: { what: 'queue', sizes: [256 * 1024, 1024 ** 2], bodyBytesMaxOf: bodyBytesMaxOfSqs },
  },
] as const;

async function assertStops(server: TestServer): Promise<void> {
  assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
}

describe('a journal that servers share', { concurrency: 3 }, () => {
  for (const { name, keeper: makeKeeper, skip, canServe, messages } of journals) {
    describe(name, { skip, concurrency: 1 }, () => {
      let database: TestDatabase;
      let keeper: Keeper;
      let ingest: TestServer;
      let other: TestServer;
      let rollUp: TestServer;
      before(async () => {
        database = await createTestDatabase();
        keeper = await makeKeeper();
        [ingest, other, rollUp] = await Promise.all([
          start('ingest', { SHARDS: '2' }),
          start('ingest'),
          start('roll-up', { JOURNAL_KEEP_SECONDS: '0' }),
        ]);
      });
      after(async () => {
        for (const server of [ingest, other, rollUp]) await server.dispose();
        await keeper.dispose();
        await database.drop();
      });

      function settings(ROLE: Role, env: Environment = {}): Environment {
        return { DATABASE_URL: database.url, ...keeper.env, ROLE, FLUSH_INTERVAL_MS: '100', SHARDS: '1', ...env };
      }

      function start(ROLE: Role, env: Environment = {}, dataDir?: string): Promise<TestServer> {
        return startServer({ env: settings(ROLE, env), ...(dataDir === undefined ? {} : { dataDir }) });
      }

      test('a roll-up takes no increments, and is ready', async () => {
        const answer = await increment(rollUp.url, { refused: 1 });
        assertProblem(answer, 'method-not-allowed');
        assert.equal(answer.headers.allow, '');
        const ready = await send(rollUp.url, '/readyz');
        assert.deepEqual([ready.status, JSON.parse(ready.body)], [200, { status: 'ok' }]);
      });

      test('a roll-up commits what ingest servers take, whose reads are committed values, and brokers then remove the records', async () => {
        for (let index = 0; index < 40; index += 1) {
          const { url } = index % 2 === 0 ? ingest : other;
          assertCreated(await incrementTaken(url, { [`key-${index % 4}`]: 2 }));
        }
        for (const server of [ingest, other]) await flushAll(server.url);
        for (let key = 0; key < 4; key += 1) {
          assert.equal(await committedSum(database.url, `key-${key}`), 20);
          await assertCounter(ingest, `key-${key}`, { sum: 20, committed: 20, pending: null });
        }
        await eventually('nothing is left', async () => (await keeper.leftovers()) === 0);
      });

      test('a delete on an ingest server returns everything that it acknowledged before', async () => {
        for (let index = 0; index < 7; index += 1) assertCreated(await incrementTaken(ingest.url, { closing: 3 }));
        const answer = await send(ingest.url, '/counters/closing', { method: 'DELETE' });
        assert.deepEqual(JSON.parse(answer.body), { key: 'closing', sum: 21 });
      });

      test('what ingest servers hand over the roll-up adopts, and both add up', async () => {
        const totals = async (): Promise<readonly number[]> => {
          const pages = await Promise.all([ingest, other, rollUp].map(({ url }) => scrape(url)));
          const total = (metric: string): number =>
            pages.reduce((sum, page) => sum + page.total(`increments_${metric}`), 0);
          return ['accepted_total', 'handed_over_total', 'adopted_total', 'flushed_total', 'pending'].map(total);
        };
        const expected = [47, 47, 47, 47, 0];
        await eventually('all is adopted', async () => (await totals()).join() === expected.join());
      });

      test('a request that is repeated at other servers, with other roles, counts once', async (t) => {
        const servers = [ingest, other, ...(canServe ? [own(t, await start('serve'))] : [])];
        const headers = { 'idempotency-key': 'everywhere' };
        for (const { url } of [...servers, ...servers]) {
          assertCreated(await incrementTaken(url, { repeated: 5, more: 1 }, { headers }));
        }
        for (const server of servers) await flushAll(server.url);
        assert.equal(await committedSum(database.url, 'repeated'), 5);
        for (const serving of servers.slice(2)) await assertStops(serving);
      });

      test('an ingest server that stops leaves nothing to wait for: its streams are retired at once', async () => {
        assertCreated(await incrementTaken(other.url, { left: 4 }));
        for (const server of [ingest, other]) await assertStops(server);
        await eventually('the last increments', async () => (await committedSum(database.url, 'left')) === 4);
        await eventually('every stream is retired', async () => (await openStreams(database.url)).length === 0);
        await eventually('nothing is left', async () => (await keeper.leftovers()) === 0);
        await assertStops(rollUp);
      });

      if (canServe) {
        test('after kill -9 the next start finishes what was pending, and its reads are exact as soon as they are answered', async (t) => {
          const killed = own(t, await start('serve', { FLUSH_INTERVAL_MS: '60000' }));
          assertCreated(await incrementTaken(killed.url, { killed: 6 }));
          killed.kill('SIGKILL');
          await killed.ended;
          const next = own(t, await start('serve', { FLUSH_INTERVAL_MS: '60000' }, killed.dataDir));
          assertCreated(await incrementTaken(next.url, { killed: 1 }));
          const answer = await eventually('an answer', async () => {
            const read = await send(next.url, '/key_sum?name=killed');
            return read.status === 503 ? undefined : read;
          });
          assert.equal(answer.body, '7');
          await assertStops(next);
          assert.equal(await committedSum(database.url, 'killed'), 7);
        });
      }

      if (messages === undefined) return;
      const { what, sizes, bodyBytesMaxOf } = messages;
      const role = canServe ? 'serve' : 'ingest';

      test('the default of MAX_BODY_BYTES is the body that fits a message, and at most 1 MiB', async (t) => {
        for (const [index, messageBytes] of sizes.entries()) {
          const key = `body-${index}`;
          const { env } = own(t, await makeKeeper(messageBytes));
          const server = own(t, await start(role, { ...env, HTTP_THREADS: '2' }));
          if (!canServe) own(t, await start('roll-up', env));
          const limit = Math.min(1024 ** 2, bodyBytesMaxOf(messageBytes));
          const { body, increments } = largestBody(limit, key);
          const headers = { 'idempotency-key': `the-largest-with-${messageBytes}` };
          assertCreated(await incrementTaken(server.url, body, { headers }));
          // With so many connections the chance that one of two HTTP threads gets none is below 10^-8.
          await onConnections(30, async (agent) => {
            assertProblem(await increment(server.url, `${body} `, { agent }), 'body-too-large');
            const { body: document } = await send(server.url, '/openapi.json', { agent });
            assert.match(document, new RegExp(`At most ${limit} bytes of JSON`));
          });
          await flushAll(server.url);
          assert.equal(await committedSum(database.url, key), increments);
        }
      });

      test('a body that no message holds is refused at the start', async () => {
        const sentence = new RegExp(
          `MAX_BODY_BYTES is 1 MiB, but a message of the ${what}, 1 MiB, holds the record of a body of \\d+`,
        );
        await refusedStart(settings(role, { MAX_BODY_BYTES: '1 MiB' }), 78, sentence);
      });

      test('a start waits for the broker or the queue of the journal', async (t) => {
        const gone = own(t, await makeKeeper());
        await gone.stop();
        const until = `The start waits for the ${what} of the journal`;
        const server = own(t, await startServer({ env: settings(role, gone.env), until }));
        assert.equal(problemCode(await increment(server.url, { early: 1 })), 'starting');
        await gone.start();
        await eventually('a start', async () => (await increment(server.url, { late: 1 })).status === 202);
      });
    });
  }
});
