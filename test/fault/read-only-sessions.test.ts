/**
 * A failover during which every session of the node is opened again while the database takes no writes: at the demoted
 * server, or at one that is still read-only. Only new sessions can write afterwards.
 */
import assert from 'node:assert/strict';
import { committedSums } from '../support/suite-server.js';
import { runStatements } from '../support/database-connection.js';
import { connectTo } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { assertCreated } from '../support/problem.js';
import { CLEAN, testNode } from '../support/node-test.js';

const env = { SHARDS: '1', FLUSH_INTERVAL_MS: '200' };
/** The first flush after an outage starts within 5 s; the rest is a margin for a slow machine. */
const FLUSH_MS = 8_000;

testNode(
  'sessions opened while the database was read-only are replaced when it takes writes again',
  env,
  async ({ node, databaseUrl }) => {
    const name = new URL(databaseUrl).pathname.slice(1);
    const administrator = await connectTo(databaseUrl, 'administrator');
    try {
      const server = await node.start();
      assertCreated(await increment(node.url, { kept: 1, deleted: 5 }));
      await node.flush();
      await runStatements(databaseUrl, `alter database ${name} set default_transaction_read_only = on`);
      await administrator.query({
        text: `select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name like 'summing-counters %'`,
      });
      assertCreated(await increment(node.url, { kept: 1 }));
      await server.waitFor('"msg":"PostgreSQL unavailable');
      await eventually('all sessions are new', async () => {
        const [row] = await administrator.query<{ count: number }>({
          text: `select count(distinct application_name)::int as count from pg_stat_activity
               where datname = current_database() and application_name like 'summing-counters %'`,
        });
        return row?.count === 3;
      });
      await administrator.query({ text: `alter database ${name} reset default_transaction_read_only` });
      await eventually('the flush', async () => (await committedSums(databaseUrl)).get('kept') === 2n, FLUSH_MS);
      // Only a refusal shows that the session for deletes can no longer write.
      const deleteCounter = (): ReturnType<typeof send> => send(node.url, '/counters/deleted', { method: 'DELETE' });
      const first = await deleteCounter();
      const answer = first.status === 503 ? await deleteCounter() : first;
      assert.equal(answer.body, '{"key":"deleted","sum":5}');
      assert.deepEqual(await server.stop(), CLEAN, server.output);
    } finally {
      await administrator.close();
    }
  },
);
