/**
 * The journal in SQS, by a local server that speaks its protocol: see `support/sqs-server.ts` for what that one does and does not.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { emptyRecord } from '#product/shard-worker/journal/nats/message-format.js';
import {
  bodyBytesMaxOf,
  encodeQueueMessage,
  type QueueMessageFacts,
} from '#product/shard-worker/journal/sqs/message-format.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, problemCode, send } from '../../support/http.js';
import { incrementRecord, largestBody } from '../../support/journal-fixtures.js';
import {
  assertCounter,
  committedSum,
  openStreams,
  refusedStart,
  rowsOf,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { scrape } from '../../support/metrics.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';

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

  test('a roll-up counts what two ingest servers take, a repeated request once; clean stops leave nothing', async () => {
    const ingest = await start('ingest');
    const other = await start('ingest');
    const rollUp = await start('roll-up');
    try {
      assert.match(ingest.output, /Journal in SQS, queue journal\.fifo: messages of 1 MiB, kept for 14 days/);
      assert.equal((await increment(rollUp.url, { refused: 1 })).status, 405);
      for (let index = 0; index < 40; index += 1)
        assertCreated(await increment(index % 2 === 0 ? ingest.url : other.url, { [`key-${index % 4}`]: 2 }));
      const once = { headers: { 'idempotency-key': 'at-both' } };
      for (const { url } of [ingest, ingest, other]) assertCreated(await increment(url, { once: 5, more: 1 }, once));
      for (const { url } of [ingest, other]) assert.equal((await send(url, '/flush', { method: 'POST' })).status, 200);
      for (let key = 0; key < 4; key += 1) assert.equal(await committedSum(database.url, `key-${key}`), 20);
      assert.equal(await committedSum(database.url, 'once'), 5);
      await assertCounter(ingest, 'key-0', { sum: 20, committed: 20, pending: null });
      await eventually('all counted as adopted', async () => {
        const pages = await Promise.all([scrape(ingest.url), scrape(other.url), scrape(rollUp.url)]);
        const [here, there, adopted] = pages.map((page, index) =>
          page.total(index < 2 ? 'increments_handed_over_total' : 'increments_adopted_total'),
        );
        return (here ?? 0) + (there ?? 0) === adopted;
      });
    } finally {
      for (const server of [ingest, other]) assert.equal((await server.stop()).code, 0, server.output);
      await eventually('an empty queue', async () => (await sqs.messagesIn()) === 0);
      assert.deepEqual(await openStreams(database.url), []);
      assert.equal((await rollUp.stop()).code, 0, rollUp.output);
      for (const server of [ingest, other, rollUp]) await server.dispose();
    }
  });

  test('a stream that PostgreSQL has never heard of is counted from LSN 1 on; one that begins later is put aside', async () => {
    const rollUp = await start('roll-up');
    try {
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
      await sqs.send(aside, `${aside}:5`, message('aside', 7, { firstLsn: 5, previousLsn: 4 }));
      await eventually('its sum', async () => (await committedSum(database.url, 'found')) === 8);
      await rollUp.waitFor(`Stream ${aside} is in SQS from LSN 5`);
      const kept = await rowsOf(
        database.url,
        `select convert_from(key, 'UTF8') as key, amount, lsn::int from rejected_increments where stream = '${aside}'`,
      );
      assert.deepEqual(kept, [{ key: 'aside', amount: '7', lsn: 5 }]);
      const retired = `select lsn::int from journal_checkpoints where stream = '${found}' and retired_at is not null`;
      await eventually('its end', async () => (await rowsOf(database.url, retired)).length === 1);
      // A late copy of what was counted, and a record above the end.
      await sqs.send(found, `${found}:3 again`, message('found', 7, { firstLsn: 3, previousLsn: 1 }));
      await sqs.send(found, `${found}:5`, message('found', 10, { firstLsn: 5, previousLsn: 4, isClose: true }));
      await rollUp.waitFor('A stream that was finished has records above its end; opened it again');
      await eventually('the late record is counted', async () => (await committedSum(database.url, 'found')) === 18);
      await eventually('an empty queue', async () => (await sqs.messagesIn()) === 0);
      assert.equal(await committedSum(database.url, 'aside'), 0);
    } finally {
      // What is put aside is not counted, and an operator must hear of it.
      assert.equal((await rollUp.stop()).code, 1, rollUp.output);
      await rollUp.dispose();
    }
  });

  test('the default of MAX_BODY_BYTES is the body that fits a message', async () => {
    for (const [messageBytes, key] of [
      [256 * 1024, 'a'],
      [1024 ** 2, 'b'],
    ] as const) {
      const name = `bodies-${messageBytes}.fifo`;
      const queue = await sqs.makeQueue(name, { MaximumMessageSize: String(messageBytes) });
      const ingest = await start('ingest', { JOURNAL: queue });
      const rollUp = await start('roll-up', { JOURNAL: queue });
      try {
        const limit = bodyBytesMaxOf(messageBytes);
        const { body, increments } = largestBody(limit, key);
        const headers = { 'idempotency-key': `the-largest-with-${messageBytes}` };
        assertCreated(await increment(ingest.url, body, { headers }));
        assert.equal(problemCode(await increment(ingest.url, `${body} `, { headers })), 'body-too-large');
        assert.equal((await send(ingest.url, '/flush', { method: 'POST' })).status, 200);
        assert.equal(await committedSum(database.url, key), increments);
      } finally {
        for (const process of [ingest, rollUp]) {
          await process.stop();
          await process.dispose();
        }
      }
    }
  });

  test('a body that no message of the queue holds, and the role serve, are refused at the start', async () => {
    const { code, output } = await refusedStart(settingsOf('ingest', { MAX_BODY_BYTES: '1 MiB' }));
    assert.equal(code, 78);
    assert.match(
      output,
      /MAX_BODY_BYTES is 1 MiB, but a message of the queue, 1 MiB, holds the record of a body of \d+/,
    );
    const serve = await refusedStart(settingsOf('serve'));
    assert.equal(serve.code, 78);
    assert.match(serve.output, /ROLE is serve, but a server cannot read its own increments back from a queue/);
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
    const { code, output } = await refusedStart(settingsOf('ingest', { JOURNAL: standard }));
    assert.equal(code, 78, output);
    for (const reason of [
      /the queue has a RedrivePolicy/,
      /the queue keeps messages for 4 days/,
      /a message of the queue may have 64 KiB/,
    ])
      assert.match(output, reason);
    const missing = await refusedStart(settingsOf('ingest', { JOURNAL: `sqs:${sqs.urlOf('missing.fifo')}` }));
    assert.equal(missing.code, 78, missing.output);
    assert.match(missing.output, /SQS refuses the server: The specified queue does not exist/);
  });

  test('a start without the queue server waits for it', async () => {
    const gone = await SqsServer.start();
    const address = await gone.makeQueue();
    await gone.stop();
    const server = await startServer({
      env: settingsOf('ingest', { JOURNAL: address }),
      until: 'The start waits for the queue of the journal',
    });
    try {
      assert.equal(problemCode(await increment(server.url, { early: 1 })), 'starting');
    } finally {
      await server.stop();
      await server.dispose();
      await gone.dispose();
    }
  });
});
