/**
 * A stream of the journal in SQS that lacks acknowledged records. In a file of its own: the test waits about 40 s for limits of
 * time of the product, and other files run meanwhile.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { encodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { incrementRecord } from '../../support/journal-fixtures.js';
import { committedSum, databaseId, rowsOf } from '../../support/journal-servers.js';
import { startServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { own } from '../../support/own.js';

test('a stream that lacks records waits for an operator, who can have it counted behind the gap, and can retire it', async (t) => {
  const database = own(t, await createTestDatabase());
  const sqs = own(t, await SqsServer.start());
  const JOURNAL = await sqs.makeQueue();
  const env = { ...SQS_ENVIRONMENT, DATABASE_URL: database.url, JOURNAL, ROLE: 'roll-up', FLUSH_INTERVAL_MS: '100' };
  const rollUp = own(t, await startServer({ env: { ...env, SHARDS: '2' } }));
  sqs.databaseId = await databaseId(database.url);
  const stream = randomUUID();
  const origin = { node: randomUUID(), shard: 0, time: 0, isClose: false };
  const write = (firstLsn: number, previousLsn: number): Promise<void> => {
    const group = [incrementRecord('waits', 5)];
    return sqs.send(stream, `${stream}:${firstLsn}`, encodeQueueMessage(group, { ...origin, firstLsn, previousLsn }));
  };
  await write(1, 0);
  await eventually('its sum', async () => (await committedSum(database.url, 'waits')) === 5);
  // LSN 3 was acknowledged, and is not there.
  await write(4, 3);
  await rollUp.waitFor(`Stream ${stream} lacks records in SQS`, 120_000);
  assert.equal(await committedSum(database.url, 'waits'), 5);
  const line = rollUp.log.find(({ msg }) => String(msg).includes('lacks records'));
  assert.deepEqual([line?.['afterLsn'], line?.['missingLsn']], [1, 3]);
  const retired = `select 1 from journal_checkpoints where stream = '${stream}' and retired_at is not null`;
  await eventually('its end for its writer', async () => (await rowsOf(database.url, retired)).length === 1);
  const skip = ['skip', '--stream', stream, '--above', '3'];
  const asked = await runJournalCommand(skip, env);
  assert.equal(asked.code, 1, asked.output);
  assert.match(asked.output, /is counted to LSN 1\. LSNs 2 to 3 stay uncounted\./);
  const done = await runJournalCommand([...skip, '--yes'], env);
  assert.equal(done.code, 0, done.output);
  await eventually('what is above', async () => (await committedSum(database.url, 'waits')) === 10, 120_000);
  const retire = (): Promise<{ readonly code: number | null; readonly output: string }> =>
    runJournalCommand(['retire', '--stream', stream], { DATABASE_URL: database.url });
  assert.match((await retire()).output, /was heard of at .* less than five minutes ago/);
  await rowsOf(
    database.url,
    `update journal_checkpoints set heard_at = now() - interval '6 minutes' where stream = '${stream}'`,
  );
  const { code, output } = await retire();
  assert.equal(code, 0, output);
  assert.match(output, /Records above LSN 4 that the queue still has, or gets, open it again/);
  await write(5, 4);
  await eventually('a late record', async () => (await committedSum(database.url, 'waits')) === 15);
});
