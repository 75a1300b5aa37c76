/**
 * An ingest server whose stream began while PostgreSQL was unavailable, and never sees a row of it. In a file of its own: each test
 * waits 15 s for a limit of the product, and other files run meanwhile.
 */
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, incrementTaken, problemCode } from '../../support/http.js';
import { committedSum, openStreams, rowsOf, type Environment, type Role } from '../../support/journal-servers.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { own } from '../../support/own.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

const WITHOUT_ROW = 'PostgreSQL has no row of the stream, which began while it was unavailable';

/** What keeps the records. */
interface Keeper {
  readonly env: Environment;
  /** Whether the first record of a stream is gone. */
  isFirstGone(stream: string): Promise<boolean>;
}

async function nats(context: TestContext): Promise<Keeper> {
  const broker = own(context, await NatsServer.start());
  return {
    env: { JOURNAL: broker.journal, JOURNAL_KEEP_SECONDS: '0' },
    async isFirstGone(stream) {
      const session = await connect({ servers: broker.address });
      try {
        const manager = await jetstreamManager(session);
        const query = { seq: 1, next_by_subj: `summing-counters.${stream}` };
        const first = await manager.streams.getMessage('summing-counters', query);
        // The pairing and the opening record have the first two sequences.
        return first !== null && first.seq > 2;
      } finally {
        await session.close();
      }
    },
  };
}

async function sqs(context: TestContext): Promise<Keeper> {
  const server = own(context, await SqsServer.start());
  return {
    env: { ...SQS_ENVIRONMENT, JOURNAL: await server.makeQueue() },
    isFirstGone: async () => (await server.messagesIn()) === 0,
  };
}

const journals = [
  { name: 'nats', keeper: nats, skip: natsServerMissing(), unknown: 'how much of it is counted is unknown' },
  { name: 'sqs', keeper: sqs, skip: false, unknown: 'in SQS from LSN' },
] as const;

describe('an ingest server that began without PostgreSQL', { concurrency: 2 }, () => {
  for (const { name, keeper: makeKeeper, skip, unknown } of journals) {
    describe(name, { skip, concurrency: 2 }, () => {
      /** A roll-up, and an ingest server behind a proxy that refuses it the database, to be started. */
      async function begin(context: TestContext): Promise<{
        readonly keeper: Keeper;
        readonly database: TestDatabase;
        readonly proxy: TcpProxy;
        readonly rollUp: TestServer;
        readonly startIngest: () => Promise<TestServer>;
        readonly startRollUp: () => Promise<TestServer>;
      }> {
        const database = own(context, await createTestDatabase());
        const keeper = await makeKeeper(context);
        const proxy = own(context, await TcpProxy.start(database.url));
        const start = async (ROLE: Role, DATABASE_URL: string): Promise<TestServer> => {
          const env = { ...keeper.env, DATABASE_URL, ROLE, FLUSH_INTERVAL_MS: '100', SHARDS: '1' };
          return own(context, await startServer({ env }));
        };
        const startRollUp = (): Promise<TestServer> => start('roll-up', database.url);
        // The first start names the database in the broker or the queue.
        const rollUp = await startRollUp();
        await proxy.refuse();
        const startIngest = (): Promise<TestServer> => start('ingest', proxy.urlOf(database.url));
        return { keeper, database, proxy, rollUp, startIngest, startRollUp };
      }

      async function refuseIdempotent(url: string): Promise<void> {
        const answer = await increment(url, { early: 1 }, { headers: { 'idempotency-key': 'early' } });
        assert.deepEqual([answer.status, problemCode(answer)], [503, 'starting']);
      }

      async function takesIdempotent(url: string): Promise<void> {
        await eventually('an idempotent request', async () => {
          const answer = await increment(url, { once: 1 }, { headers: { 'idempotency-key': 'once' } });
          return answer.status === 202;
        });
      }

      test('goes on in another stream if a failover has taken back the row that a roll-up made', async (t) => {
        const { keeper, database, proxy, rollUp, startIngest, startRollUp } = await begin(t);
        const ingest = await startIngest();
        assertCreated(await incrementTaken(ingest.url, { before: 3 }));
        await refuseIdempotent(ingest.url);
        await eventually('its sum', async () => (await committedSum(database.url, 'before')) === 3);
        const [open] = await openStreams(database.url);
        const stream = String(open?.['stream']);
        await eventually('no first record', () => keeper.isFirstGone(stream));
        assert.equal((await rollUp.stop()).code, 0);
        for (const table of ['journal_checkpoints', 'journal_streams', 'counters'])
          await rowsOf(database.url, `delete from ${table}`);
        const next = await startRollUp();
        assertCreated(await incrementTaken(ingest.url, { unknown: 1 }));
        await next.waitFor(unknown);
        await proxy.accept();
        await takesIdempotent(ingest.url);
        assert.ok(ingest.output.includes(WITHOUT_ROW), ingest.output);
        await eventually('what it takes now', async () => (await committedSum(database.url, 'once')) === 1);
        const rows = await rowsOf(database.url, `select from journal_checkpoints where stream = '${stream}'`);
        assert.deepEqual(rows, []);
      });

      test('goes on in another stream if no roll-up makes the row, and a later one counts and ends the first', async (t) => {
        const { database, proxy, rollUp, startIngest, startRollUp } = await begin(t);
        assert.equal((await rollUp.stop()).code, 0);
        const ingest = await startIngest();
        assertCreated(await incrementTaken(ingest.url, { before: 3 }));
        await proxy.accept();
        await refuseIdempotent(ingest.url);
        await takesIdempotent(ingest.url);
        assert.ok(ingest.output.includes(WITHOUT_ROW), ingest.output);
        await startRollUp();
        for (const [key, sum] of Object.entries({ before: 3, once: 1, early: 0 }))
          await eventually(key, async () => (await committedSum(database.url, key)) === sum);
        await eventually('the end of the first stream', async () => {
          const ended = 'select from journal_checkpoints where retired_at is not null';
          return (await rowsOf(database.url, ended)).length === 1;
        });
        assert.equal((await openStreams(database.url)).length, 1);
      });
    });
  }
});
