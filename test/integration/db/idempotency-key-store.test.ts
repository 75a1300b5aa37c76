import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, afterEach, before, test } from 'node:test';
import { parseDatabaseUrl, type DatabaseConnection } from '#product/db/connection.js';
import { OnDemandConnection } from '#product/db/on-demand-connection.js';
import { IdempotencyKeyStore } from '#product/db/idempotency-key-store.js';
import { runStatements } from '../../support/database-connection.js';
import { connectTo, silentLogger, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { createMigratedDatabase } from '../../support/flushes.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

let database: TestDatabase;
let observer: DatabaseConnection;

before(async () => {
  database = await createMigratedDatabase();
  observer = await connectTo(database.url, 'observer');
});

afterEach(async () => {
  // In a session of its own: when a session has ended, PostgreSQL has its statistics. They cannot arrive during another test.
  await runStatements(database.url, 'truncate journal_checkpoints, journal_claims, counter_resets, idempotency_keys');
});

after(async () => {
  await observer.close();
  await database.drop();
});

/** Runs `body` with a store whose first round is over. */
async function withStore(
  options: {
    readonly node?: string;
    readonly memoryShards?: number;
    readonly url?: string;
    readonly rowsMax?: number;
    readonly recorded?: () => number;
  },
  body: (store: IdempotencyKeyStore) => Promise<void>,
): Promise<void> {
  const connection = new OnDemandConnection(parseDatabaseUrl(options.url ?? database.url), {
    applicationName: 'idempotency keys',
  });
  const store = new IdempotencyKeyStore(connection, {
    node: randomUUID(),
    memoryShards: 0,
    windowHours: 24,
    rowsMax: 1000,
    recorded: () => 0,
    pending: () => 0,
    logger: { ...silentLogger, debug: () => undefined },
    ...options,
  });
  try {
    await store.start();
    await body(store);
  } finally {
    await store.close();
    await connection.close();
  }
}

interface StreamOptions {
  readonly node?: string;
  readonly shard?: number;
  readonly journal?: string;
  /** An interval of PostgreSQL. */
  readonly retiredAgo?: string;
}

async function makeStream({
  node = randomUUID(),
  shard = 0,
  journal = 'memory',
  retiredAgo,
}: StreamOptions): Promise<string> {
  const stream = randomUUID();
  await observer.query({
    text: `insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, accepted_through, retired_at)
           values ($1, 0, 0, $2, $3, $4, now(), now() - $5::interval)`,
    values: [stream, node, shard, journal, retiredAgo ?? null],
  });
  await observer.query({
    text: 'insert into journal_claims (stream, epoch, claim, lsn) values ($1, 0, $1, 0)',
    values: [stream],
  });
  return stream;
}

async function streamsWhere(condition: string): Promise<ReadonlySet<string>> {
  const rows = await observer.query<{ stream: string }>({
    text: `select stream::text from journal_checkpoints where ${condition}`,
  });
  return new Set(rows.map(({ stream }) => stream));
}

test("memory-journal streams of this node's earlier processes are retired, those of its own shards are not", async () => {
  const node = randomUUID();
  const gone = [await makeStream({ node, shard: 2 }), await makeStream({ node, shard: 3 })];
  for (const stream of [{ node, shard: 1 }, { node, shard: 5, journal: 'file' }, { shard: 5 }])
    await makeStream(stream);
  await withStore({ node, memoryShards: 2 }, async () => {
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set(gone));
  });
});

test('a node that has no memory journal any more retires the memory-journal streams of all its shards', async () => {
  const node = randomUUID();
  const gone = [await makeStream({ node, shard: 0 }), await makeStream({ node, shard: 1 })];
  await withStore({ node }, async () => {
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set(gone));
  });
});

test('streams that could not be retired at the start are retired once the database is available', async () => {
  const node = randomUUID();
  const gone = await makeStream({ node });
  const proxy = await TcpProxy.start(database.url);
  await proxy.refuse();
  try {
    await withStore({ node, url: proxy.urlOf(database.url) }, async () => {
      assert.equal((await streamsWhere('retired_at is not null')).size, 0);
      await proxy.accept();
      await eventually('it is retired', async () => (await streamsWhere('retired_at is not null')).has(gone));
    });
  } finally {
    await proxy.close();
  }
});

test('tombstones are pruned 15 days after the window, with their claims; those of file journals stay', async () => {
  const old = '16 days 1 second';
  const gone = [await makeStream({ retiredAgo: old }), await makeStream({ retiredAgo: old, journal: 'nats' })];
  const kept = [
    await makeStream({ retiredAgo: '15 days 23 hours' }),
    await makeStream({ retiredAgo: old, journal: 'file' }),
    await makeStream({}),
  ];
  await withStore({}, async () => {
    assert.deepEqual(await streamsWhere('true'), new Set(kept));
    const claims = await observer.query<{ stream: string }>({ text: 'select stream::text from journal_claims' });
    assert.deepEqual(new Set(claims.map(({ stream }) => stream)), new Set(kept));
    assert.ok(gone.every((stream) => !kept.includes(stream)));
  });
});

test('deletes of counters that did not exist are pruned after the window, closing sums are not', async () => {
  await observer.query({
    text: `insert into counter_resets (id, key, sum, at) values
             ('nothing, old', 'k', null, now() - interval '24 hours 6 minutes'),
             ('nothing', 'k', null, now() - interval '24 hours'),
             ('something, old', 'k', 7, now() - interval '1 year')`,
  });
  await withStore({}, async () => {
    const rows = await observer.query<{ id: string }>({ text: 'select id from counter_resets order by id' });
    assert.deepEqual(
      rows.map(({ id }) => id),
      ['nothing', 'something, old'],
    );
  });
});

test('idempotency keys are pruned after the window, unless a stream that is not retired may still flush a retry', async () => {
  const record = (key: string, ago: string): Promise<unknown> =>
    observer.query({
      text: `insert into idempotency_keys (token, digest, claimed_at) values ($1, '', now() - $2::interval)`,
      values: [key, ago],
    });
  const keys = async (): Promise<readonly string[]> =>
    (await observer.query<{ token: string }>({ text: 'select token from idempotency_keys order by token' })).map(
      ({ token }) => token,
    );
  await record('new', '24 hours');
  await record('old', '24 hours 6 minutes');
  const dead = await makeStream({ journal: 'file' });
  await observer.query({ text: `update journal_checkpoints set accepted_through = now() - interval '1 hour'` });
  await withStore({}, async () => {
    assert.deepEqual(await keys(), ['new', 'old']);
  });
  await observer.query({ text: 'update journal_checkpoints set retired_at = now() where stream = $1', values: [dead] });
  await withStore({}, async () => {
    assert.deepEqual(await keys(), ['new']);
  });
});

test('beyond a million the count is that of the statistics, whatever was analyzed when, plus what was recorded lately', async () => {
  // Statistics are complete when a session has ended.
  const run = (text: string): Promise<void> => runStatements(database.url, text);
  const insert = (count: number): Promise<void> =>
    run(`insert into idempotency_keys (token, digest, claimed_at)
         select gen_random_uuid()::text, '', now() from generate_series(1, ${count})`);
  const forgetStatistics = (): Promise<void> =>
    run(`select pg_stat_reset_single_table_counters('idempotency_keys'::regclass)`);
  const rowsMax = 2_000_000;
  const reach = async (rows: number): Promise<void> => {
    await eventually(`${rows} rows`, async () => {
      let room = 0;
      await withStore({ rowsMax, recorded: () => 7 }, (store) => {
        room = store.room;
        return Promise.resolve();
      });
      return room === rowsMax - rows;
    });
  };
  await run('truncate idempotency_keys');
  await forgetStatistics();
  await insert(1000);
  await reach(1000);
  await run('analyze idempotency_keys');
  await reach(1000);
  await insert(200);
  await reach(1200);
  await run('analyze idempotency_keys');
  await forgetStatistics();
  await insert(30);
  await reach(1230);
});
