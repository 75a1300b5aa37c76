import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, test } from 'node:test';
import type { DatabaseConnection } from '#product/db/connection.js';
import { connectTo, createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop } from '../../support/suite-server.js';

interface StreamRow extends Record<string, unknown> {
  readonly stream: string;
  readonly shard: number;
  readonly retired: boolean;
}

let database: TestDatabase;
let connection: DatabaseConnection;
let dataDir: string;
const servers: TestServer[] = [];

beforeEach(async () => {
  database = await createTestDatabase();
  connection = await connectTo(database.url);
  dataDir = await temporaryDirectory();
});

afterEach(async () => {
  for (const server of servers.splice(0)) await server.dispose();
  await connection.close();
  await database.drop();
  await rm(dataDir, { recursive: true, force: true });
});

async function start(shards = 1): Promise<TestServer> {
  const env = { DATABASE_URL: database.url, JOURNAL: 'memory', SHARDS: String(shards), FLUSH_INTERVAL_MS: '200' };
  const server = await startServer({ dataDir, env });
  servers.push(server);
  return server;
}

function streams(): Promise<readonly StreamRow[]> {
  return connection.query<StreamRow>({
    text: `select stream::text, shard, retired_at is not null as retired from journal_checkpoints order by created_at`,
  });
}

async function unretired(): Promise<readonly number[]> {
  return (await streams()).filter(({ retired }) => !retired).map(({ shard }) => shard);
}

async function sumOfA(): Promise<number> {
  const [row] = await connection.query<{ sum: string }>({ text: `select sum::text from counters where key = 'a'` });
  return Number(row?.sum);
}

async function flush(server: TestServer): Promise<void> {
  await flushAll(server.url);
}

test('a row of a memory journal is made with the first record, and a clean stop retires it', async () => {
  const idle = await start();
  assert.deepEqual(await streams(), []);
  await assertCleanStop(idle);
  assert.deepEqual(await streams(), []);
  const server = await start(2);
  assertCreated(await increment(server.url, { a: 1, b: 1, c: 1 }));
  assert.deepEqual([...(await unretired())].sort(), [0, 1]);
  await assertCleanStop(server);
  assert.deepEqual(await unretired(), []);
});

test('the row of a memory journal that was retired while its process lives is taken again, and each increment counts once', async () => {
  const server = await start();
  assertCreated(await increment(server.url, { a: 1 }));
  await flush(server);
  const retire = (): Promise<unknown> =>
    connection.query({
      text: `update journal_checkpoints
             set retired_at = now(), epoch = (nextval('journal_epochs') << 20) + floor(random() * 1048576)::bigint`,
    });
  for (let times = 0; times < 3; times += 1) {
    await retire();
    assertCreated(await increment(server.url, { a: 1 }));
    await eventually('it is open again', async () => (await unretired()).length === 1);
    await eventually('it is counted', async () => (await sumOfA()) === 2 + times);
  }
  assert.equal((await streams()).length, 1, 'the same stream');
  assert.match(server.output, /Took a stream again that had been retired/);
  await assertCleanStop(server);
  assert.equal(await sumOfA(), 4);
});

test('the stream of a memory journal whose thread or process has ended is retired by a node an hour later', async () => {
  const first = await start();
  assertCreated(await increment(first.url, { a: 1 }));
  await flush(first);
  // The shard finds that its checkpoint moved, and is restarted with a new stream.
  await connection.query({ text: 'update journal_checkpoints set lsn = lsn - 1' });
  await eventually('a second stream', async () => {
    await increment(first.url, { a: 1 });
    return (await streams()).length === 2;
  });
  assert.deepEqual(await unretired(), [0, 0]);
  await first.stop();
  assert.deepEqual(
    (await streams()).map(({ retired }) => retired),
    [false, true],
    'a clean stop retires what its threads hold',
  );
  const second = await start(2);
  assertCreated(await increment(second.url, { a: 1, b: 1, c: 1 }));
  second.kill('SIGKILL');
  await second.ended;
  assert.deepEqual([...(await unretired())].sort(), [0, 0, 1]);

  const silent = `update journal_checkpoints set heard_at = now() - interval '59 minutes';
                  update idempotency_pruning set pruned_at = now(), gap_at = now() - interval '2 hours'`;
  await connection.query({ text: silent });
  await (await start()).stop();
  assert.equal((await unretired()).length, 3);
  await connection.query({ text: silent.replace('59', '61') });
  const third = await start();
  await eventually('they are retired', async () => (await unretired()).length === 0);
  assertCreated(await increment(third.url, { a: 1 }));
  assert.deepEqual(await unretired(), [0]);
  await assertCleanStop(third);
  assert.deepEqual(await unretired(), []);
});
