/** Which database a broker belongs to: databases and brokers that meet by mistake count nothing twice and lose nothing. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test, type TestContext } from 'node:test';
import { DiscardPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { emptyRecord, encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { encodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, incrementTaken, problemCode, send } from '../../support/http.js';
import { incrementRecord } from '../../support/journal-fixtures.js';
import { runJournalCommand } from '../../support/journal-command.js';
import {
  committedSum,
  databaseId,
  openStreams,
  rowsOf,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { own, refusedStart } from '../../support/own.js';
import { assertCreated } from '../../support/problem.js';
import { spawnServer, startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

function settings(database: { readonly url: string }, broker: NatsServer, env: Environment = {}): Environment {
  const common = { JOURNAL: broker.journal, FLUSH_INTERVAL_MS: '100', SHARDS: '1' };
  return { DATABASE_URL: database.url, ...common, ...env };
}

async function start(t: TestContext, env: Environment, role: Role = 'serve'): Promise<TestServer> {
  return own(t, await startServer({ env: { ...env, ROLE: role } }));
}

async function aDatabase(t: TestContext): Promise<TestDatabase> {
  return own(t, await createTestDatabase());
}

async function aBroker(t: TestContext): Promise<NatsServer> {
  return own(t, await NatsServer.start());
}

async function counted(url: string, key: string, sum: number): Promise<void> {
  await eventually(`${key} is ${sum}`, async () => (await committedSum(url, key)) === sum);
}

/** The stream of JetStream, as an operator makes it. */
async function makeStream(session: NatsConnection): Promise<void> {
  const manager = await jetstreamManager(session);
  await manager.streams.add({
    name: 'summing-counters',
    subjects: ['summing-counters.>'],
    discard: DiscardPolicy.New,
  });
}

/** A stream as a server of an earlier version writes it: its messages name no database. */
async function publishOlder(session: NatsConnection): Promise<void> {
  const subject = `summing-counters.${randomUUID()}`;
  const origin = { node: randomUUID(), shard: 0 };
  await jetstream(session).publish(subject, encodeMessage([emptyRecord(1)], 1, 0, origin));
  await jetstream(session).publish(subject, encodeMessage([incrementRecord('older', 7)], 2, 0, origin));
}

describe('a broker and its database', { skip: natsServerMissing() }, () => {
  test('a second database on the broker is refused in one sentence, and the first one counts everything once', async (t) => {
    const [first, second, broker] = [await aDatabase(t), await aDatabase(t), await aBroker(t)];
    const server = await start(t, settings(first, broker));
    assertCreated(await incrementTaken(server.url, { ours: 3 }));
    for (const ROLE of ['serve', 'ingest', 'roll-up']) {
      const { output } = await refusedStart(settings(second, broker, { ROLE }), 78);
      const [one, other] = [await databaseId(first.url), await databaseId(second.url)];
      const sentence = `the stream summing-counters in NATS belongs to the database ${one}, and DATABASE_URL is the database ${other}`;
      assert.ok(output.includes(sentence), output);
    }
    await counted(first.url, 'ours', 3);
    assert.equal(await committedSum(second.url, 'ours'), 0);
    // Another stream of JetStream in the same broker is another store.
    const apart = await start(t, settings(second, broker, { NATS_STREAM: 'staging' }));
    assertCreated(await incrementTaken(apart.url, { theirs: 4 }));
    await counted(second.url, 'theirs', 4);
    assert.equal(await committedSum(first.url, 'theirs'), 0);
  });

  test('a roll-up at another broker leaves the streams of the first alone, and says so; its own roll-up counts them', async (t) => {
    const [database, one, other] = [await aDatabase(t), await aBroker(t), await aBroker(t)];
    const ingest = await start(t, settings(database, one), 'ingest');
    for (let count = 0; count < 5; count += 1) assertCreated(await incrementTaken(ingest.url, { waiting: 20 }));
    // Killed, so that nobody sends heartbeats for its stream.
    ingest.kill('SIGKILL');
    await ingest.ended;
    const [row] = await rowsOf<{ stream: string }>(database.url, 'select stream::text from journal_checkpoints');
    const wrong = await start(t, settings(database, other), 'roll-up');
    await new Promise((resolve) => setTimeout(resolve, 8000));
    assert.deepEqual(await openStreams(database.url), [row]);
    const stores = await runJournalCommand(['stores'], settings(database, other));
    assert.equal(stores.code, 0, stores.output);
    assert.match(stores.output, new RegExp(`at ${one.address} summing-counters: 1 open stream\\n  ${row?.stream}`));
    await wrong.stop();
    const right = await start(t, settings(database, one), 'roll-up');
    await counted(database.url, 'waiting', 100);
    await right.stop();
  });

  test('a broker that was lost for good is forgotten by a command, which first says what that means', async (t) => {
    const [database, broker] = [await aDatabase(t), await aBroker(t)];
    const ingest = await start(t, settings(database, broker), 'ingest');
    assertCreated(await incrementTaken(ingest.url, { lost: 1 }));
    ingest.kill('SIGKILL');
    await ingest.ended;
    const [store] = await rowsOf<{ id: string }>(database.url, 'select id::text from journal_stores');
    assert.ok(store !== undefined);
    const env = settings(database, broker);
    const asked = await runJournalCommand(['forget-store', '--store', store.id], env);
    assert.equal(asked.code, 1, asked.output);
    assert.match(asked.output, /With --yes these streams are retired at these LSNs/);
    assert.equal((await openStreams(database.url)).length, 1);
    const done = await runJournalCommand(['forget-store', '--store', store.id, '--yes'], env);
    assert.equal(done.code, 0, done.output);
    assert.match(done.output, /^1 open stream retired\. Store .+ no longer belongs to this database\.$/m);
    assert.deepEqual(await openStreams(database.url), []);
  });

  test('without the database a new broker takes nothing; one that has a database takes increments for it', async (t) => {
    const [database, broker] = [await aDatabase(t), await aBroker(t)];
    const proxy = own(t, await TcpProxy.start(database.url));
    const env = { ...settings(database, broker), DATABASE_URL: proxy.urlOf(database.url) };
    proxy.setRule(() => 'blackhole');
    const waiting = own(t, await spawnServer({ env: { ...env, ROLE: 'ingest' } }));
    await waiting.waitFor('belongs to no database yet, and the database is unavailable');
    const refused = await increment(waiting.url, { early: 1 });
    assert.deepEqual([refused.status, problemCode(refused)], [503, 'starting']);
    proxy.setRule(() => 'forward');
    await waiting.waitFor('Ready');
    await waiting.stop();
    proxy.setRule(() => 'blackhole');
    const paired = own(t, await startServer({ env: { ...env, ROLE: 'ingest' } }));
    assertCreated(await incrementTaken(paired.url, { taken: 2 }));
    proxy.setRule(() => 'forward');
    await start(t, env, 'roll-up');
    await counted(database.url, 'taken', 2);
  });

  test('a server that started without its database does not count in another one that answers in its place', async (t) => {
    const [right, wrong, broker] = [await aDatabase(t), await aDatabase(t), await aBroker(t)];
    await (await start(t, settings(right, broker))).stop();
    await (await start(t, settings(wrong, broker, { NATS_STREAM: 'other' }))).stop();
    const proxy = own(t, await TcpProxy.start(wrong.url));
    proxy.setRule(() => 'blackhole');
    const server = await start(t, { ...settings(right, broker), DATABASE_URL: proxy.urlOf(wrong.url) });
    assertCreated(await incrementTaken(server.url, { kept: 6 }));
    proxy.setRule(() => 'forward');
    await server.waitFor(`the journal belongs to the database ${await databaseId(right.url)}`);
    assert.equal((await send(server.url, '/readyz')).status, 200);
    assert.equal(await committedSum(wrong.url, 'kept'), 0);
    await server.stop();
    await start(t, settings(right, broker));
    await counted(right.url, 'kept', 6);
  });

  test('a store of before with streams that the database does not know needs a decision, and then counts them', async (t) => {
    const [database, broker] = [await aDatabase(t), await aBroker(t)];
    const env = settings(database, broker);
    await (await start(t, { ...env, NATS_STREAM: 'elsewhere' })).stop();
    // As an earlier version leaves them: the stream of JetStream, without the name of a database.
    const session = own(t, await connect({ servers: broker.address }));
    await makeStream(session);
    await publishOlder(session);
    const { output } = await refusedStart({ ...env, ROLE: 'serve' }, 78);
    assert.ok(output.includes('belongs to no database yet, and has streams that this one does not know: '), output);
    const asked = await runJournalCommand(['pair-store'], env);
    assert.equal(asked.code, 1, asked.output);
    const done = await runJournalCommand(['pair-store', '--yes'], env);
    assert.equal(done.code, 0, done.output);
    await start(t, env);
    await counted(database.url, 'older', 7);
  });

  test('a stream that names no database, in a store that was not given to one, is neither counted nor removed', async (t) => {
    const [database, broker] = [await aDatabase(t), await aBroker(t)];
    const env = settings(database, broker);
    const server = await start(t, env);
    const session = own(t, await connect({ servers: broker.address }));
    await publishOlder(session);
    await server.waitFor('names no database, because a server of an earlier version writes it');
    assert.equal(await committedSum(database.url, 'older'), 0);
    await server.stop();
    assert.equal((await runJournalCommand(['pair-store', '--yes'], env)).code, 0);
    await start(t, env);
    await counted(database.url, 'older', 7);
  });

  test('a broker that is made anew under a running server is another store, and what the server takes then counts', async (t) => {
    const [database, broker] = [await aDatabase(t), await aBroker(t)];
    const server = await start(t, settings(database, broker));
    assertCreated(await incrementTaken(server.url, { before: 1 }));
    await counted(database.url, 'before', 1);
    await broker.stop();
    await broker.wipe();
    await broker.start();
    // A start makes the stream; here an operator does.
    await makeStream(own(t, await connect({ servers: broker.address })));
    // Nothing is written between.
    assertCreated(await incrementTaken(server.url, { after: 2 }));
    await server.waitFor('or is made anew');
    await counted(database.url, 'after', 2);
    const stores = await rowsOf(database.url, 'select distinct store from journal_checkpoints');
    assert.equal(stores.length, 2);
  });
});

describe('a queue and its database', () => {
  let sqs: SqsServer;
  before(async () => {
    sqs = await SqsServer.start();
  });
  after(() => sqs.dispose());

  test('a second database on the queue is refused; messages that name it, or none, are neither counted nor deleted', async (t) => {
    const [first, second] = [await aDatabase(t), await aDatabase(t)];
    const journal = await sqs.makeQueue();
    const env = (database: TestDatabase): Environment => ({
      ...SQS_ENVIRONMENT,
      ...{ DATABASE_URL: database.url, JOURNAL: journal, FLUSH_INTERVAL_MS: '100', SHARDS: '1' },
    });
    const rollUp = await start(t, env(first), 'roll-up');
    const { output } = await refusedStart({ ...env(second), ROLE: 'ingest' }, 78);
    assert.ok(output.includes(`the queue belongs to the database ${await databaseId(first.url)}`), output);
    const origin = { node: randomUUID(), shard: 0, time: 0, isClose: false };
    const send = (stream: string): Promise<void> =>
      sqs.send(
        stream,
        `${stream}:1`,
        encodeQueueMessage([incrementRecord('foreign', 7)], { ...origin, firstLsn: 1, previousLsn: 0 }),
      );
    const [theirs, older] = [randomUUID(), randomUUID()];
    sqs.databaseId = randomUUID();
    await send(theirs);
    sqs.databaseId = undefined;
    await send(older);
    await rollUp.waitFor(`Stream ${theirs} in SQS is neither counted nor removed here: it belongs to the database`);
    await rollUp.waitFor(`Stream ${older} in SQS is neither counted nor removed here: it names no database`);
    const ingest = await start(t, env(first), 'ingest');
    assertCreated(await incrementTaken(ingest.url, { ours: 3 }));
    await counted(first.url, 'ours', 3);
    assert.equal(await committedSum(first.url, 'foreign'), 0);
    await ingest.stop();
    await eventually('the foreign messages alone are left', async () => (await sqs.messagesIn()) === 2);
    await rollUp.stop();
    // The operator says that what names no database belongs to this one.
    assert.equal((await runJournalCommand(['pair-store', '--yes'], env(first))).code, 0);
    await start(t, env(first), 'roll-up');
    await counted(first.url, 'foreign', 7);
    await eventually('the message of the other database is left', async () => (await sqs.messagesIn()) === 1);
  });
});

describe('a database that was copied', () => {
  test('servers do not count in it until an operator says whether it is moved or a copy', async (t) => {
    const original = await aDatabase(t);
    const dataDir = await temporaryDirectory();
    const first = own(t, await startServer({ env: { DATABASE_URL: original.url, SHARDS: '1' }, dataDir }));
    assertCreated(await increment(first.url, { moved: 1 }));
    await first.stop();
    const name = new URL(original.url).pathname.slice(1);
    const copy = own(t, await createTestDatabase(`template ${name}`));
    const env = { DATABASE_URL: copy.url, SHARDS: '1', FLUSH_INTERVAL_MS: '100' };
    const server = own(t, await startServer({ env, dataDir }));
    assertCreated(await increment(server.url, { moved: 2 }));
    await server.waitFor('it was restored from a dump, copied or upgraded');
    const ready = await send(server.url, '/readyz');
    assert.equal(ready.status, 200);
    assert.match(ready.body, /"degraded".*The database is unavailable; increments stay in the journal\./);
    const said = await runJournalCommand(['database'], env);
    assert.equal(said.code, 1, said.output);
    assert.match(said.output, /decide with --moved or --copy/);
    assert.equal((await runJournalCommand(['database', '--moved'], env)).code, 0);
    await counted(copy.url, 'moved', 3);
    assert.equal((await server.stop()).code, 0);
    assert.equal((await runJournalCommand(['database'], env)).code, 0);
  });

  test('as a copy it is another database, and the journals of the original are refused there', async (t) => {
    const original = await aDatabase(t);
    const dataDir = await temporaryDirectory();
    const first = own(t, await startServer({ env: { DATABASE_URL: original.url, SHARDS: '1' }, dataDir }));
    assertCreated(await increment(first.url, { drill: 1 }));
    await first.stop();
    const name = new URL(original.url).pathname.slice(1);
    const copy = own(t, await createTestDatabase(`template ${name}`));
    const env = { DATABASE_URL: copy.url, SHARDS: '1', FLUSH_INTERVAL_MS: '100' };
    const { code, output } = await runJournalCommand(['database', '--copy'], env);
    assert.equal(code, 0, output);
    assert.notEqual(await databaseId(copy.url), await databaseId(original.url));
    const refused = own(t, await spawnServer({ env, dataDir }));
    assert.equal((await refused.ended).code, 78, refused.output);
    const drill = own(t, await startServer({ env }));
    assertCreated(await increment(drill.url, { drill: 5 }));
    await counted(copy.url, 'drill', 6);
    assert.equal(await committedSum(original.url, 'drill'), 1);
  });
});
