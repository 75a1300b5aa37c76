import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { bodyBytesMaxOf, emptyRecord, encodeMessage } from '#product/shard-worker/journal/nats/message-format.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, onConnections, problemCode, send } from '../../support/http.js';
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
import { NatsCluster, NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { assertCreated } from '../../support/problem.js';
import { spawnServer, startServer, type TestServer } from '../../support/server.js';

describe('the journal in NATS', { skip: natsServerMissing() }, () => {
  let database: TestDatabase;
  let broker: NatsServer;
  before(async () => {
    database = await createTestDatabase();
    broker = await NatsServer.start();
  });
  after(async () => {
    await broker.dispose();
    await database.drop();
  });

  function settingsOf(ROLE: Role, env: Environment = {}): Environment {
    return { DATABASE_URL: database.url, JOURNAL: broker.journal, ROLE, FLUSH_INTERVAL_MS: '100', ...env };
  }

  function start(ROLE: Role, env: Environment = {}): Promise<TestServer> {
    return startServer({ env: settingsOf(ROLE, env) });
  }

  test('an acknowledged increment is in the broker and is read at once; a clean stop leaves fences only', async () => {
    const server = await start('serve', { FLUSH_INTERVAL_MS: '60000' });
    try {
      assertCreated(await increment(server.url, '{"seen":1,"also":-2,"seen":3}'));
      const once = { headers: { 'idempotency-key': 'once' } };
      for (let attempt = 0; attempt < 2; attempt += 1) assertCreated(await increment(server.url, { seen: 10 }, once));
      await assertCounter(server, 'seen', { sum: 14, committed: 0, pending: 14 });
      assert.match(server.output, /Journal in NATS [0-9.]+, stream summing-counters with 1 replica: a loss of power/);
    } finally {
      assert.deepEqual(await server.stop(), { code: 0, signal: null });
      await server.dispose();
    }
    assert.equal(await committedSum(database.url, 'seen'), 14);
    assert.deepEqual(await openStreams(database.url), []);
    const session = await connect({ servers: broker.address });
    try {
      const manager = await jetstreamManager(session);
      const { state } = await manager.streams.info('summing-counters', { subjects_filter: '>' });
      for (const subject of Object.keys(state.subjects ?? {})) {
        const last = await manager.streams.getMessage('summing-counters', { last_by_subj: subject });
        assert.equal(last?.data.length, 0, `the last message of ${subject} is a fence`);
      }
    } finally {
      await session.close();
    }
  });

  test('after kill -9 the next start finishes what was pending', async () => {
    const killed = await start('serve', { FLUSH_INTERVAL_MS: '60000' });
    assertCreated(await increment(killed.url, { killed: 6 }));
    killed.kill('SIGKILL');
    await killed.ended;
    const next = await startServer({ env: settingsOf('serve'), dataDir: killed.dataDir });
    try {
      assertCreated(await increment(next.url, { killed: 1 }));
      const answer = await eventually('an answer', async () => {
        const read = await send(next.url, '/key_sum?name=killed');
        return read.status === 503 ? undefined : read;
      });
      assert.equal(answer.body, '7');
    } finally {
      assert.deepEqual(await next.stop(), { code: 0, signal: null });
      await next.dispose();
    }
    assert.equal(await committedSum(database.url, 'killed'), 7);
  });

  test('a roll-up flushes what an ingest server takes; committed records are removed from the broker', async () => {
    const ingest = await start('ingest', { SHARDS: '2' });
    const rollUp = await start('roll-up', { JOURNAL_KEEP_SECONDS: '0' });
    try {
      assert.equal((await increment(rollUp.url, { refused: 1 })).status, 405);
      for (let index = 0; index < 20; index += 1)
        assertCreated(await increment(ingest.url, { [`key-${index % 4}`]: 2 }));
      const once = { headers: { 'idempotency-key': 'at-ingest' } };
      for (let attempt = 0; attempt < 2; attempt += 1) assertCreated(await increment(ingest.url, { once: 5 }, once));
      assert.equal((await send(ingest.url, '/flush', { method: 'POST' })).status, 200);
      await assertCounter(ingest, 'key-0', { sum: 10, committed: 10, pending: null });
      assert.equal(await committedSum(database.url, 'once'), 5);
      const handedOver = (await scrape(ingest.url)).total('increments_handed_over_total');
      await eventually('the same number adopted', async () => {
        const page = await scrape(rollUp.url);
        return page.total('increments_adopted_total') >= handedOver;
      });
      const session = await connect({ servers: broker.address });
      try {
        const manager = await jetstreamManager(session);
        await eventually('fewer messages', async () => {
          const { state } = await manager.streams.info('summing-counters', { subjects_filter: '>' });
          return Object.values(state.subjects ?? {}).every((messages) => messages <= 2);
        });
      } finally {
        await session.close();
      }
    } finally {
      assert.equal((await ingest.stop()).code, 0);
      assert.equal((await rollUp.stop()).code, 0);
      await ingest.dispose();
      await rollUp.dispose();
    }
  });

  test('a stream that PostgreSQL has never heard of is counted from LSN 1 on; others are left alone', async () => {
    const session = await connect({ servers: broker.address });
    const server = await start('serve', { JOURNAL_KEEP_SECONDS: '0' });
    try {
      const client = jetstream(session);
      const origin = { node: randomUUID(), shard: 3 };
      const [found, left, fenced] = [randomUUID(), randomUUID(), randomUUID()];
      const subject = (stream: string): string => `summing-counters.${stream}`;
      await client.publish(subject(found), encodeMessage([emptyRecord(1)], 1, 0, origin));
      await client.publish(subject(found), encodeMessage([incrementRecord('found', 7)], 2, 0, origin));
      await client.publish(subject(left), encodeMessage([incrementRecord('left', 7)], 5, 0, origin));
      // As a copy of a record of a stream that was finished and forgotten.
      await client.publish(subject(fenced), new Uint8Array(0));
      await client.publish(subject(fenced), encodeMessage([incrementRecord('left', 7)], 1, 0, origin));
      await eventually('its sum', async () => (await committedSum(database.url, 'found')) === 7);
      await eventually('the alert', () =>
        Promise.resolve(
          server.output.includes(`Stream ${left} is in NATS from LSN 5`) &&
            server.output.includes(`Stream ${fenced} is in NATS from a fence`),
        ),
      );
      await eventually('its end', async () => {
        const rows = await rowsOf(
          database.url,
          `select 1 from journal_checkpoints where stream = '${found}' and retired_at is not null`,
        );
        return rows.length === 1;
      });
      await client.publish(subject(found), encodeMessage([incrementRecord('found', 8)], 3, 0, origin));
      await server.waitFor('A stream that was finished has records above its end; opened it again');
      await eventually('the late record is counted', async () => (await committedSum(database.url, 'found')) === 15);
      await eventually('its end again', async () => {
        const rows = await rowsOf(
          database.url,
          `select 1 from journal_checkpoints where stream = '${found}' and lsn = 3 and retired_at is not null`,
        );
        return rows.length === 1;
      });
      await client.publish(subject(found), encodeMessage([incrementRecord('left', 7)], 9, 0, origin));
      await server.waitFor('A stream that was finished has a record behind a gap in NATS');
      assert.equal(await committedSum(database.url, 'left'), 0);
    } finally {
      await session.close();
      assert.equal((await server.stop()).code, 0);
      await server.dispose();
    }
  });

  test('a body that no message of the broker holds is refused at the start', async () => {
    const { code, output } = await refusedStart(settingsOf('serve', { MAX_BODY_BYTES: '1 MiB' }));
    assert.equal(code, 78);
    assert.match(
      output,
      /MAX_BODY_BYTES is 1 MiB, but a message of the broker, 1 MiB, holds the record of a body of \d+/,
    );
  });

  test('the default of MAX_BODY_BYTES is the body that fits a message, and at most 1 MiB', async () => {
    for (const [payload, limit, key] of [
      [256 * 1024, bodyBytesMaxOf(256 * 1024), 'a'],
      [1024 ** 2, bodyBytesMaxOf(1024 ** 2), 'b'],
      [4 * 1024 ** 2, 1024 ** 2, 'c'],
    ] as const) {
      const own = await NatsServer.start(`max_payload: ${payload}`);
      const server = await start('serve', { JOURNAL: own.journal, SHARDS: '1', HTTP_THREADS: '2' });
      try {
        const { body, increments } = largestBody(limit, key);
        const headers = { 'idempotency-key': `the-largest-with-${payload}` };
        assertCreated(await increment(server.url, body, { headers }));
        // With so many connections the chance that one of two HTTP threads gets none is below 10^-8.
        await onConnections(30, async (agent) => {
          assert.equal(problemCode(await increment(server.url, `${body} `, { agent })), 'body-too-large');
          const { body: document } = await send(server.url, '/openapi.json', { agent });
          assert.match(document, new RegExp(`At most ${limit} bytes of JSON`));
        });
        assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
        assert.equal(await committedSum(database.url, key), increments);
      } finally {
        await server.stop();
        await server.dispose();
        await own.dispose();
      }
    }
  });

  test('a stream that would lose records is refused in one sentence for each reason', async () => {
    const session = await connect({ servers: broker.address });
    try {
      const manager = await jetstreamManager(session);
      await manager.streams.add({
        name: 'unsafe',
        subjects: ['unsafe.>'],
        storage: StorageType.Memory,
        max_age: 3_600_000_000_000,
      });
      const { code, output } = await refusedStart(settingsOf('serve', { NATS_STREAM: 'unsafe' }));
      assert.equal(code, 78);
      for (const reason of ['memory storage', 'discard old', 'a max age'])
        assert.match(output, new RegExp(`NATS_STREAM unsafe has ${reason}`));
    } finally {
      await session.close();
    }
  });
});

describe('a cluster of brokers that is starting', { skip: natsServerMissing() }, () => {
  test('a start waits until there are as many as NATS_REPLICAS', async () => {
    const database = await createTestDatabase();
    const cluster = await NatsCluster.start();
    const missing = cluster.servers[2];
    await missing?.stop();
    const env = { DATABASE_URL: database.url, JOURNAL: cluster.journal, NATS_REPLICAS: '3', SHARDS: '1' };
    const server = await spawnServer({ env });
    try {
      await server.waitFor('The start waits for the broker of the journal');
      // A cluster that is still choosing a leader lets the first attempts time out.
      await server.waitFor('NATS has fewer servers at the moment than NATS_REPLICAS: no suitable peers');
      const answer = await send(server.url, '/readyz');
      assert.deepEqual([answer.status, problemCode(answer)], [503, 'starting']);
      await missing?.start();
      await server.waitFor('"msg":"Ready"');
      assertCreated(await increment(server.url, { late: 1 }));
      assert.equal((await server.stop()).code, 0, server.output);
    } finally {
      await server.dispose();
      await cluster.dispose();
      await database.drop();
    }
  });
});
