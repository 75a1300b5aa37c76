/**
 * The journal in SQS, by a local server that speaks its protocol: see `support/sqs-server.ts` for what that one does and does not.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { emptyRecord } from '#product/shard-worker/journal/shared/message-format.js';
import { encodeQueueMessage, type QueueMessageFacts } from '#product/shard-worker/journal/sqs/sqs-message.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { incrementRecord, rawRecord } from '../../support/journal-fixtures.js';
import { committedSum, rowsOf, type Environment, type Role, databaseId } from '../../support/journal-servers.js';
import { idempotentEntry } from '../../support/record-entries.js';
import { startServer, type TestServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { own, refusedStart } from '../../support/own.js';

describe('the journal in SQS', () => {
  let database: TestDatabase;
  let sqs: SqsServer;
  let journal: string;
  before(async () => {
    database = await createTestDatabase();
    sqs = await SqsServer.start();
    journal = await sqs.makeQueue();
  });
  after(async () => {
    await sqs.dispose();
    await database.drop();
  });

  function settingsOf(ROLE: Role, env: Environment = {}): Environment {
    return {
      ...SQS_ENVIRONMENT,
      DATABASE_URL: database.url,
      JOURNAL: journal,
      ROLE,
      FLUSH_INTERVAL_MS: '100',
      SHARDS: '2',
      ...env,
    };
  }

  function start(ROLE: Role, env: Environment = {}): Promise<TestServer> {
    return startServer({ env: settingsOf(ROLE, env) });
  }

  test('a stream that PostgreSQL has never heard of is counted from LSN 1 on; one that begins later is put aside', async (t) => {
    const rollUp = own(t, await start('roll-up'));
    sqs.databaseId = await databaseId(database.url);
    assert.match(rollUp.output, /Journal in SQS, queue journal\.fifo: messages of 1 MiB, kept for 14 days/);
    const facts: QueueMessageFacts = {
      ...{ node: randomUUID(), shard: 3, time: 0 },
      ...{ firstLsn: 1, previousLsn: 0, isClose: false },
    };
    const [found, aside] = [randomUUID(), randomUUID()];
    const message = (key: string, amount: number, over: Partial<QueueMessageFacts>): Uint8Array =>
      encodeQueueMessage([incrementRecord(key, amount)], { ...facts, ...over });
    await sqs.send(found, `${found}:1`, encodeQueueMessage([emptyRecord(1)], facts));
    // LSN 2 is burnt: nothing of it ever came, and nobody was told that it was kept.
    await sqs.send(found, `${found}:3`, message('found', 7, { firstLsn: 3, previousLsn: 1 }));
    await sqs.send(found, `${found}:4`, message('found', 1, { firstLsn: 4, previousLsn: 3, isClose: true }));
    const entry = idempotentEntry('once', [['aside', 7]], 9);
    const record = rawRecord(RECORD_HEADER_BYTES + entry.length);
    record.set(entry, RECORD_HEADER_BYTES);
    const late = encodeQueueMessage([record], { ...facts, firstLsn: 5, previousLsn: 4 });
    // Another copy of it, and a record without increments.
    for (const id of [`${aside}:5`, `${aside}:5 again`]) await sqs.send(aside, id, late);
    await sqs.send(
      aside,
      `${aside}:6`,
      encodeQueueMessage([emptyRecord(1)], { ...facts, firstLsn: 6, previousLsn: 5 }),
    );
    await eventually('its sum', async () => (await committedSum(database.url, 'found')) === 8);
    await rollUp.waitFor(`Stream ${aside} is in SQS from LSN 5`);
    const retired = `select lsn::int from journal_checkpoints where stream = '${found}' and retired_at is not null`;
    await eventually('its end', async () => (await rowsOf(database.url, retired)).length === 1);
    // A late copy of what was counted, and a record above the end.
    await sqs.send(found, `${found}:3 again`, message('found', 7, { firstLsn: 3, previousLsn: 1 }));
    await sqs.send(found, `${found}:5`, message('found', 10, { firstLsn: 5, previousLsn: 4, isClose: true }));
    await rollUp.waitFor('A retired stream has records above its checkpoint; opened it again');
    await eventually('the late record is counted', async () => (await committedSum(database.url, 'found')) === 18);
    await eventually('an empty queue', async () => (await sqs.messagesIn()) === 0);
    assert.equal(await committedSum(database.url, 'aside'), 0);
    const kept = await rowsOf(
      database.url,
      `select convert_from(key, 'UTF8') as key, amount, lsn::int, token, encode(digest, 'hex') as digest
       from rejected_increments where stream = '${aside}'`,
    );
    assert.deepEqual(kept, [{ key: 'aside', amount: '7', lsn: 5, token: 'once', digest: '09'.repeat(16) }]);
    // Nobody of ours wrote this.
    const foreign = randomUUID();
    await sqs.sendText(foreign, 'not base64!');
    await rollUp.waitFor(`Group ${foreign} of the queue had a damaged message, which is kept in damaged_messages`);
    // What is put aside is not counted, and an operator must hear of it.
    assert.equal((await rollUp.stop()).code, 1, rollUp.output);
  });

  test('the role serve is refused at the start', async () => {
    const sentence = /ROLE is serve, but a server cannot read its own increments back from a queue/;
    await refusedStart(settingsOf('serve'), 78, sentence);
  });

  test('a queue that would lose records is refused in one sentence for each reason', async () => {
    const standard = await sqs.makeQueue('unsafe.fifo', {
      MessageRetentionPeriod: '345600',
      MaximumMessageSize: '65536',
      RedrivePolicy: JSON.stringify({
        deadLetterTargetArn: 'arn:aws:sqs:us-east-1:000000000000:journal.fifo',
        maxReceiveCount: 3,
      }),
    });
    await refusedStart(
      settingsOf('ingest', { JOURNAL: standard }),
      78,
      /the queue has a RedrivePolicy/,
      /the queue keeps messages for 4 days/,
      /a message of the queue may have 64 KiB/,
    );
    const missing = settingsOf('ingest', { JOURNAL: `sqs:${sqs.urlOf('missing.fifo')}` });
    await refusedStart(missing, 78, /SQS refuses the server: The specified queue does not exist/);
  });
});
