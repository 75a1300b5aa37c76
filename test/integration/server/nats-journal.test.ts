import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect, headers } from '@nats-io/transport-node';
import { emptyRecord, encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, problemCode, send } from '../../support/http.js';
import { incrementRecord } from '../../support/journal-fixtures.js';
import {
  assertCounter,
  committedSum,
  databaseId,
  openStreams,
  rowsOf,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { NatsCluster, NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { assertCreated } from '../../support/problem.js';
import { spawnServer, startServer, type TestServer } from '../../support/server.js';
import { own, refusedStart } from '../../support/own.js';

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

  test('an acknowledged increment is in the broker and is read at once; a clean stop leaves fences only', async (t) => {
    const server = own(t, await start('serve', { FLUSH_INTERVAL_MS: '60000' }));
    assertCreated(await increment(server.url, '{"seen":1,"also":-2,"seen":3}'));
    const once = { headers: { 'idempotency-key': 'once' } };
    for (let attempt = 0; attempt < 2; attempt += 1) assertCreated(await increment(server.url, { seen: 10 }, once));
    await assertCounter(server, 'seen', { sum: 14, committed: 0, pending: 14 });
    assert.match(server.output, /Journal in NATS [0-9.]+, stream summing-counters with 1 replica: a loss of power/);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.equal(await committedSum(database.url, 'seen'), 14);
    assert.deepEqual(await openStreams(database.url), []);
    const session = own(t, await connect({ servers: broker.address }));
    const manager = await jetstreamManager(session);
    const { state } = await manager.streams.info('summing-counters', { subjects_filter: '>' });
    const pairing = 'summing-counters.pairing';
    for (const subject of Object.keys(state.subjects ?? {}).filter((name) => name !== pairing)) {
      const last = await manager.streams.getMessage('summing-counters', { last_by_subj: subject });
      assert.equal(last?.data.length, 0, `the last message of ${subject} is a fence`);
    }
  });

  test('a stream that PostgreSQL has never heard of is counted from LSN 1 on; others are left alone', async (t) => {
    const session = own(t, await connect({ servers: broker.address }));
    const server = own(t, await start('serve', { JOURNAL_KEEP_SECONDS: '0' }));
    const client = jetstream(session);
    const origin = { node: randomUUID(), shard: 3 };
    const ofDatabase = headers();
    ofDatabase.set('Summing-Counters-Database', await databaseId(database.url));
    const publish = (to: string, data: Uint8Array): Promise<unknown> =>
      client.publish(to, data, { headers: ofDatabase });
    const [found, left, fenced] = [randomUUID(), randomUUID(), randomUUID()];
    const subject = (stream: string): string => `summing-counters.${stream}`;
    await publish(subject(found), encodeMessage([emptyRecord(1)], 1, 0, origin));
    await publish(subject(found), encodeMessage([incrementRecord('found', 7)], 2, 0, origin));
    await publish(subject(left), encodeMessage([incrementRecord('left', 7)], 5, 0, origin));
    // As a copy of a record of a stream that was finished and forgotten.
    await publish(subject(fenced), new Uint8Array(0));
    await publish(subject(fenced), encodeMessage([incrementRecord('left', 7)], 1, 0, origin));
    await eventually('its sum', async () => (await committedSum(database.url, 'found')) === 7);
    await eventually('the alert', () =>
      Promise.resolve(
        server.output.includes(`Stream ${left} has no row in journal_checkpoints and begins with LSN 5 in NATS`) &&
          server.output.includes(`Stream ${fenced} has no row in journal_checkpoints and begins with a fence in NATS`),
      ),
    );
    const retiredAt = async (lsn: number): Promise<boolean> => {
      const text = `select 1 from journal_checkpoints where stream = '${found}' and lsn = ${lsn} and retired_at is not null`;
      return (await rowsOf(database.url, text)).length === 1;
    };
    await eventually('its end', () => retiredAt(2));
    await publish(subject(found), encodeMessage([incrementRecord('found', 8)], 3, 0, origin));
    await server.waitFor('A retired stream has records above its checkpoint; opened it again');
    await eventually('the late record is counted', async () => (await committedSum(database.url, 'found')) === 15);
    await eventually('its end again', () => retiredAt(3));
    await publish(subject(found), encodeMessage([incrementRecord('left', 7)], 9, 0, origin));
    await server.waitFor('A retired stream has a record behind a gap in NATS');
    assert.equal(await committedSum(database.url, 'left'), 0);
    assert.equal((await server.stop()).code, 0);
  });

  test('a stream that would lose records is refused in one sentence for each reason', async (t) => {
    const session = own(t, await connect({ servers: broker.address }));
    const manager = await jetstreamManager(session);
    await manager.streams.add({
      name: 'unsafe',
      subjects: ['unsafe.>'],
      storage: StorageType.Memory,
      max_age: 3_600_000_000_000,
    });
    const { output } = await refusedStart(settingsOf('serve', { NATS_STREAM: 'unsafe' }), 78);
    for (const reason of ['memory storage', 'discard old', 'a max age'])
      assert.match(output, new RegExp(`NATS_STREAM unsafe has ${reason}`));
  });
});

describe('a cluster of brokers that is starting', { skip: natsServerMissing() }, () => {
  test('a start waits until there are as many as NATS_REPLICAS', async (t) => {
    const database = own(t, await createTestDatabase());
    const cluster = own(t, await NatsCluster.begin());
    const missing = cluster.servers[2];
    await missing?.stop();
    const env = { DATABASE_URL: database.url, JOURNAL: cluster.journal, NATS_REPLICAS: '3', SHARDS: '1' };
    const server = own(t, await spawnServer({ env }));
    await server.waitFor('The start waits for the broker of the journal');
    // A cluster that is still choosing a leader lets the first attempts time out.
    await server.waitFor('NATS has fewer servers at the moment than NATS_REPLICAS: no suitable peers');
    const answer = await send(server.url, '/readyz');
    assert.deepEqual([answer.status, problemCode(answer)], [503, 'starting']);
    await missing?.start();
    await server.waitFor('"msg":"Ready"');
    assertCreated(await increment(server.url, { late: 1 }));
    assert.equal((await server.stop()).code, 0, server.output);
  });
});
