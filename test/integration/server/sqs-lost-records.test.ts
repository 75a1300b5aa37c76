/**
 * A stream of the journal in SQS that lacks acknowledged records. In a file of its own: the test waits about 40 s for limits of
 * time of the product, and other files run meanwhile.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { encodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { incrementRecord, rawRecord } from '../../support/journal-fixtures.js';
import { committedSum, databaseId, rowsOf } from '../../support/journal-servers.js';
import { idempotentEntry } from '../../support/record-entries.js';
import { startServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { own } from '../../support/own.js';

test('a stream that lacks records is set aside behind the gap, and an operator counts that', async (t) => {
  const database = own(t, await createTestDatabase());
  const sqs = own(t, await SqsServer.start());
  const JOURNAL = await sqs.makeQueue();
  const env = { ...SQS_ENVIRONMENT, DATABASE_URL: database.url, JOURNAL, ROLE: 'roll-up', FLUSH_INTERVAL_MS: '100' };
  const rollUp = own(t, await startServer({ env: { ...env, SHARDS: '2' } }));
  sqs.databaseId = await databaseId(database.url);
  const stream = randomUUID();
  const origin = { node: randomUUID(), shard: 0, time: 0, isClose: false };
  const write = (firstLsn: number, previousLsn: number, idempotencyKey?: string): Promise<void> => {
    let record = incrementRecord('waits', 5);
    if (idempotencyKey !== undefined) {
      const entry = idempotentEntry(idempotencyKey, [['waits', 5]], 9);
      record = rawRecord(RECORD_HEADER_BYTES + entry.length);
      record.set(entry, RECORD_HEADER_BYTES);
    }
    const group = [record];
    return sqs.send(stream, `${stream}:${firstLsn}`, encodeQueueMessage(group, { ...origin, firstLsn, previousLsn }));
  };
  await write(1, 0);
  await eventually('its sum', async () => (await committedSum(database.url, 'waits')) === 5);
  // LSN 3 was acknowledged, and is not there.
  await write(4, 3);
  await write(5, 4, 'once');
  await rollUp.waitFor(`Stream ${stream} lacks records in SQS`, 120_000);
  assert.equal(await committedSum(database.url, 'waits'), 5);
  const line = rollUp.log.find(({ msg }) => String(msg).includes('lacks records'));
  assert.deepEqual([line?.['afterLsn'], line?.['missingLsn']], [1, 3]);
  const retired = `select 1 from journal_checkpoints where stream = '${stream}' and retired_at is not null`;
  await eventually('its end for its writer', async () => (await rowsOf(database.url, retired)).length === 1);
  await write(6, 5);
  await eventually('an empty queue', async () => (await sqs.messagesIn()) === 0);
  const asideRows = (): Promise<readonly unknown[]> =>
    rowsOf(database.url, 'select lsn::int, token, amount, reason from rejected_increments order by lsn');
  const reason = 'earlier records of its stream are missing';
  assert.deepEqual(await asideRows(), [
    { lsn: 4, token: null, amount: '5', reason },
    { lsn: 5, token: 'once', amount: '5', reason },
    { lsn: 6, token: null, amount: '5', reason },
  ]);
  const skip = ['skip', '--stream', stream, '--above', '3'];
  const asked = await runJournalCommand(skip, env);
  assert.equal(asked.code, 1, asked.output);
  assert.match(asked.output, /is counted to LSN 1\. LSNs 2 to 3 stay uncounted\./);
  assert.match(asked.output, /LSNs 4 to 6 are set aside in rejected_increments: 3 increments, which would be counted/);
  const done = await runJournalCommand([...skip, '--yes'], env);
  assert.equal(done.code, 0, done.output);
  assert.match(done.output, /Counted 3 increments\./);
  assert.deepEqual([await committedSum(database.url, 'waits'), await asideRows()], [20, []]);
  assert.match((await runJournalCommand([...skip, '--yes'], env)).output, /is counted to LSN 6 already/);
  // A copy of what was counted, then a new record.
  await sqs.send(
    stream,
    'copy',
    encodeQueueMessage([incrementRecord('waits', 5)], { ...origin, firstLsn: 4, previousLsn: 3 }),
  );
  await write(7, 6);
  await eventually('a late record', async () => (await committedSum(database.url, 'waits')) === 25);
  await eventually('an empty queue', async () => (await sqs.messagesIn()) === 0);
  assert.equal(await committedSum(database.url, 'waits'), 25);
  await rowsOf(
    database.url,
    `update journal_checkpoints set heard_at = now() - interval '6 minutes' where stream = '${stream}'`,
  );
  const { code, output } = await runJournalCommand(['retire', '--stream', stream], { DATABASE_URL: database.url });
  assert.equal(code, 0, output);
  assert.match(output, /Records above LSN 7 that the queue still has, or gets, open it again/);
});

test('a damaged message is kept as it is and deleted, and one of a newer version waits for a newer server', async (t) => {
  const database = own(t, await createTestDatabase());
  const sqs = own(t, await SqsServer.start());
  const JOURNAL = await sqs.makeQueue();
  const env = { ...SQS_ENVIRONMENT, DATABASE_URL: database.url, JOURNAL, ROLE: 'roll-up', FLUSH_INTERVAL_MS: '100' };
  const rollUp = own(t, await startServer({ env: { ...env, SHARDS: '1' } }));
  sqs.databaseId = await databaseId(database.url);
  const origin = { node: randomUUID(), shard: 0, time: 0, isClose: false };
  const message = (key: string, firstLsn: number): Uint8Array =>
    encodeQueueMessage([incrementRecord(key, 5)], { ...origin, firstLsn, previousLsn: firstLsn - 1 });
  const [damaged, newer] = [randomUUID(), randomUUID()];
  const flipped = message('damaged', 2);
  flipped[flipped.length - 1] = 0xff;
  const later = message('newer', 2);
  later[4] = 2;
  for (const [stream, second] of [
    [damaged, flipped],
    [newer, later],
  ] as const) {
    const key = stream === damaged ? 'damaged' : 'newer';
    await sqs.send(stream, `${stream}:1`, message(key, 1));
    await sqs.send(stream, `${stream}:2`, second);
    await sqs.send(stream, `${stream}:3`, message(key, 3));
  }
  await rollUp.waitFor(`Group ${damaged} of the queue had a damaged message, which is kept in damaged_messages`);
  await rollUp.waitFor(`Group ${newer} of the queue has a message that is left there; later ones are not counted`);
  const kept = await rowsOf<{ stream: string; body: string; problem: string }>(
    database.url,
    'select stream, body, problem from damaged_messages',
  );
  const body = Buffer.from(flipped).toString('base64');
  assert.deepEqual(kept, [{ stream: damaged, body, problem: 'A message cannot be read: its CRC is wrong.' }]);
  await rollUp.waitFor(`Stream ${damaged} lacks records in SQS`, 120_000);
  await eventually('only the group of the newer version', async () => (await sqs.messagesIn()) === 2);
  assert.deepEqual([await committedSum(database.url, 'damaged'), await committedSum(database.url, 'newer')], [5, 5]);
  const asideOf = `select 1 from rejected_increments where stream = '${newer}'`;
  assert.deepEqual(await rowsOf(database.url, asideOf), [], 'a newer server counts it');
});
