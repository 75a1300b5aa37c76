/**
 * Rows that PostgreSQL refuses although the server accepted them: they are set aside and do not delay others.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { readCountedSums } from '../support/counted-sums.js';
import { runStatements } from '../support/database-connection.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { increment } from '../support/http.js';

interface RejectedRow {
  readonly key: string;
  readonly amount: string;
  readonly sqlstate: string;
}

const CHECK = `alter table counters add constraint not_poison check (key not like 'poison%')`;
const TRIGGER = `
  create function refuse_poison() returns trigger language plpgsql as $$
  begin
    if new.key like 'poison%' then raise exception 'numeric value out of range' using errcode = '22003'; end if;
    return new;
  end $$;
  create trigger refuse_poison before insert or update on counters for each row execute function refuse_poison()`;

/** As most triggers do it: without an SQLSTATE, which is then P0001. */
const PLAIN_TRIGGER = TRIGGER.replace(` using errcode = '22003'`, '');

/** PostgreSQL asks it at the commit only, where no row is left to blame. */
const DEFERRED_TRIGGER = PLAIN_TRIGGER.replace(
  'create trigger refuse_poison before insert or update on counters',
  'create constraint trigger refuse_poison after insert or update on counters deferrable initially deferred',
);

for (const [how, statements, sqlState] of [
  ['a constraint', CHECK, '23514'],
  ['a trigger', TRIGGER, '22003'],
  ['a trigger without an SQLSTATE', PLAIN_TRIGGER, 'P0001'],
  ['a deferred trigger', DEFERRED_TRIGGER, 'P0001'],
] as const) {
  test(
    `rows that ${how} refuses are stored with the reason, and all others are counted`,
    {
      timeout: 60_000,
    },
    async () => {
      const database = await createTestDatabase();
      const node = await CountedNode.make(how, { databaseUrl: database.url, env: { FLUSH_INTERVAL_MS: '50' } });
      try {
        const server = await node.start();
        const load = node.load();
        await load.acknowledgements(100);
        await runStatements(database.url, statements);
        for (let index = 0; index < 3; index += 1) {
          assert.equal(
            (await increment(node.url, { [`poison ${index}`]: 7, [`also poison ${index}`]: 0 })).status,
            202,
          );
          await load.acknowledgements(50);
        }
        await load.stop();
        await node.flush();
        assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
        assert.match(server.output, /"rejected":3/, 'the balance at the end counts them');
        const { sums } = await readCountedSums(database.url);
        const others = new Map([...sums].filter(([key]) => !key.startsWith('also poison')));
        assert.equal(others.size, sums.size - 3);
        assert.deepEqual(node.ledger.violations(others), []);
        assert.deepEqual(await rejectedRows(database.url), [
          { key: 'poison 0', amount: '7', sqlstate: sqlState },
          { key: 'poison 1', amount: '7', sqlstate: sqlState },
          { key: 'poison 2', amount: '7', sqlstate: sqlState },
        ]);
      } finally {
        await node.dispose();
        await database.drop();
      }
    },
  );
}

async function rejectedRows(url: string): Promise<readonly RejectedRow[]> {
  const connection = await connectTo(url);
  try {
    return await connection.query<RejectedRow & Record<string, unknown>>({
      text: `select convert_from(key, 'UTF8') as key, amount, sqlstate from rejected_increments order by key`,
    });
  } finally {
    await connection.close();
  }
}
