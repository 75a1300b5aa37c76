/** The sequence of epochs after a move of the database that left it behind. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { StartError } from '#product/core/errors.js';
import { raisedEpochs } from '#product/db/schema/epochs.js';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { createTestDatabase } from '../../support/database.js';
import { rowsOf } from '../../support/journal-servers.js';
import { own } from '../../support/own.js';
import { startServer } from '../../support/server.js';

test('a sequence of epochs that a move left behind is raised at a start, with a warning, and never lowered', async (t) => {
  const database = own(t, await createTestDatabase());
  const epoch = 5000n << 20n;
  await own(t, await startServer({ env: { DATABASE_URL: database.url, JOURNAL: 'memory' } })).stop();
  await rowsOf(
    database.url,
    `insert into journal_checkpoints (stream, epoch, lsn, retired_at, covered_from, accepted_through)
     values ('${randomUUID()}', ${epoch}, 7, now(), now(), now())`,
  );
  const last = async (): Promise<number> => {
    const [row] = await rowsOf<{ last: number }>(database.url, 'select last_value::int as last from journal_epochs');
    return row?.last ?? 0;
  };
  const before = await last();
  assert.ok(before < 5000);
  const server = own(t, await startServer({ env: { DATABASE_URL: database.url, JOURNAL: 'memory' } }));
  await server.waitFor(`The sequence journal_epochs was at ${before}, below the epochs of streams; it is at 5000 now`);
  assert.ok((await last()) >= 5000);
  await server.stop();
  await rowsOf(database.url, "select setval('journal_epochs', 9000)");
  const connection = await connect(parseDatabaseUrl(database.url), { applicationName: 'test' });
  try {
    assert.equal(await raisedEpochs(connection), undefined);
    assert.equal(await last(), 9000);
    await rowsOf(database.url, "select setval('journal_epochs', 1)");
    const role = `r${randomUUID().slice(0, 8)}`;
    await rowsOf(database.url, `create role ${role}; grant select on all tables in schema public to ${role}`);
    await connection.query({ text: `set role ${role}` });
    await assert.rejects(
      raisedEpochs(connection),
      (error) => error instanceof StartError && String(error).includes('may not'),
    );
    await connection.query({ text: 'reset role' });
    await rowsOf(database.url, `drop owned by ${role}; drop role ${role}`);
  } finally {
    await connection.close();
  }
});
