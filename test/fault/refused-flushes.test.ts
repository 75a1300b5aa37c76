/**
 * Flushes that PostgreSQL refuses for a reason in none of their counters. Nothing can be set aside, so the log must
 * tell an operator, and increments stay pending.
 */
import assert from 'node:assert/strict';
import { readCountedSums } from '../support/counted-sums.js';
import { runStatements } from '../support/database-connection.js';
import { increment, send } from '../support/http.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, testNode } from '../support/node-test.js';

const TOKENS = {
  statements: `alter table idempotency_keys add constraint no_tokens check (token not like 'bad%')`,
  undo: 'alter table idempotency_keys drop constraint no_tokens',
  sqlState: '23514',
};
const STATEMENT_TRIGGER = {
  statements: `
    create function refuse_all() returns trigger language plpgsql as $$ begin raise exception 'read only today'; end $$;
    create trigger refuse_all before insert or update on counters for each statement execute function refuse_all()`,
  undo: 'drop trigger refuse_all on counters',
  sqlState: 'P0001',
};

const env = { FLUSH_INTERVAL_MS: '50', SHARDS: '1' };

for (const [what, { statements, undo, sqlState }] of [
  ['a constraint on another table', TOKENS],
  ['a trigger for each statement', STATEMENT_TRIGGER],
] as const)
  testNode(
    `a refusal that no row causes (${what}) is logged with its code, degrades the node, and ends with its cause`,
    env,
    async ({ node, databaseUrl }) => {
      const server = await node.start();
      await runStatements(databaseUrl, statements);
      const headers = { 'idempotency-key': 'bad-key' };
      assert.equal((await increment(node.url, { a: 1 }, { headers })).status, 202);
      await server.waitFor(`SQLSTATE ${sqlState}`);
      assert.match((await send(node.url, '/readyz')).body, /"degraded"/);
      await runStatements(databaseUrl, undo);
      await server.waitFor('"msg":"PostgreSQL available again');
      assert.deepEqual(await server.stop(), CLEAN, server.output);
      assert.deepEqual(await committedSums(databaseUrl), new Map([['a', 1n]]));
      assert.equal((await readCountedSums(databaseUrl)).rejected, 0);
    },
  );
