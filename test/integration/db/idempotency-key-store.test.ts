import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { OnDemandConnection } from '#product/db/on-demand-connection.js';
import { TRY_PRUNER_LOCK } from '#product/db/upkeep-statements.js';
import { IdempotencyKeyStore } from '#product/db/idempotency-key-store.js';
import { runStatements } from '../../support/database-connection.js';
import { connectTo, silentLogger } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { SuiteDatabase } from '../../support/migrated-database.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

describe('The store of idempotency keys', () => {
  const database = new SuiteDatabase();

  afterEach(async () => {
    // In a session of its own: when a session has ended, PostgreSQL has its statistics. They cannot arrive during another test.
    await runStatements(database.url, 'truncate journal_checkpoints, journal_claims, counter_resets, idempotency_keys');
  });

  /** Runs `body` with a store whose first round is over. */
  async function withStore(
    options: {
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
      windowHours: 24,
      expiryDays: 7,
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

  async function record(key: string, ago: string): Promise<void> {
    await database.query(
      `insert into idempotency_keys (token, digest, claimed_at) values ($1, '', now() - $2::interval)`,
      key,
      ago,
    );
  }

  async function keys(): Promise<readonly string[]> {
    const rows = await database.query<{ token: string }>('select token from idempotency_keys order by token');
    return rows.map(({ token }) => token);
  }

  test('the first round counts the keys, prunes old ones, and says how far an open stream holds the pruning back', async () => {
    await record('new', '23 hours');
    await record('held', '25 hours');
    await record('old', '30 hours');
    await database.query(`insert into journal_checkpoints (stream, epoch, lsn, journal, accepted_through)
             values (gen_random_uuid(), 1, 0, 'file', now() - interval '2 hours')`);
    await withStore({ rowsMax: 1000 }, async (store) => {
      assert.deepEqual(await keys(), ['held', 'new']);
      assert.deepEqual([store.rows, store.room], [3, 997], 'counted before the pruning');
      assert.ok(Math.abs(store.heldSeconds - 7200) < 60, `${store.heldSeconds} s`);
    });
  });

  test('a store whose database was unavailable at its start prunes once that is available', async () => {
    await record('old', '25 hours');
    const proxy = await TcpProxy.start(database.url);
    await proxy.refuse();
    try {
      await withStore({ url: proxy.urlOf(database.url) }, async () => {
        assert.deepEqual(await keys(), ['old']);
        await proxy.accept();
        await eventually('the key is pruned', async () => (await keys()).length === 0);
      });
    } finally {
      await proxy.close();
    }
  });

  test('while another node prunes the store counts, and prunes nothing', async () => {
    await record('old', '25 hours');
    const other = await connectTo(database.url, 'other node');
    try {
      await other.query({ text: TRY_PRUNER_LOCK });
      await withStore({}, async (store) => {
        assert.deepEqual([await keys(), store.rows, store.heldSeconds], [['old'], 1, 0]);
      });
    } finally {
      await other.close();
    }
  });

  test('beyond a million rows the count is estimated from the statistics and the keys recorded since', async () => {
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
});
