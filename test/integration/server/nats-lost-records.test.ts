/** A server with the journal in NATS whose broker has lost what it acknowledged, and what is left of streams in the end. */
import assert from 'node:assert/strict';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, problemCode } from '../../support/http.js';
import { scrape } from '../../support/metrics.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { own } from '../../support/own.js';
import { rowsOf } from '../../support/journal-servers.js';

const STREAM = 'summing-counters';
const LOST =
  'Acknowledged increments are lost: NATS has lost their records, or the database has gone back to an earlier state';

describe('what is left in NATS', { skip: natsServerMissing() }, () => {
  let database: TestDatabase;
  let broker: NatsServer;
  beforeEach(async () => {
    database = await createTestDatabase();
    broker = await NatsServer.start();
  });
  afterEach(async () => {
    await broker.dispose();
    await database.drop();
  });

  function start(env: Readonly<Record<string, string>> = {}): Promise<TestServer> {
    const settings = { DATABASE_URL: database.url, JOURNAL: broker.journal, SHARDS: '1', JOURNAL_KEEP_SECONDS: '0' };
    return startServer({ env: { ...settings, ...env } });
  }

  async function sumsOf(...keys: readonly string[]): Promise<readonly number[]> {
    const rows = await rowsOf<{ key: string; sum: string }>(database.url, 'select key, sum::text from counters');
    return keys.map((key) => Number(rows.find((row) => row.key === key)?.sum ?? 0));
  }

  async function managed<T>(work: (manager: JetStreamManager) => Promise<T>): Promise<T> {
    const session = await connect({ servers: broker.address });
    try {
      return await work(await jetstreamManager(session));
    } finally {
      await session.close();
    }
  }

  /** Increments until one is taken. One that got 500 may be counted or not, and has a key of its own. */
  async function countAgain(server: TestServer, key: string): Promise<void> {
    await eventually('an increment that is taken', async () => {
      const attempt = await increment(server.url, { [key]: 1 });
      if (attempt.status === 500) assert.match(attempt.body, /outcome-unknown/);
      return attempt.status === 202;
    });
  }

  /** The broker loses the last message that it has acknowledged, and starts without it: 2.9 remembers that there was one. */
  async function loseLast(): Promise<void> {
    await managed(async (manager) => {
      const { state } = await manager.streams.info(STREAM);
      await manager.streams.deleteMessage(STREAM, state.last_seq);
    });
    await broker.stop();
    await broker.start();
  }

  test('what a broker has lost and its server has in memory is counted, and nothing is said to be lost', async (t) => {
    const server = own(t, await start({ FLUSH_INTERVAL_MS: '60000' }));
    assertCreated(await increment(server.url, { flushed: 5 }));
    await flushAll(server.url);
    assertCreated(await increment(server.url, { pending: 7 }));
    await loseLast();
    await countAgain(server, 'later');
    await server.waitFor('No longer writing the stream, because NATS has lost records of it');
    assert.equal((await server.stop()).code, 0);
    assert.ok(!server.output.includes('are lost'), server.output);
    assert.deepEqual(await sumsOf('flushed', 'pending', 'later'), [5, 7, 1]);
  });

  test('what a broker has lost before anybody read it is lost, and log, metrics and exit code say how much', async (t) => {
    const server = own(t, await start({ ROLE: 'ingest' }));
    const first = own(t, await start({ ROLE: 'roll-up' }));
    assertCreated(await increment(server.url, { flushed: 5 }));
    await eventually('a flush', async () => (await sumsOf('flushed'))[0] === 5);
    assert.equal((await first.stop()).code, 0);
    assertCreated(await increment(server.url, { lost: 7 }));
    await loseLast();
    await countAgain(server, 'later');
    own(t, await start({ ROLE: 'roll-up' }));
    await server.waitFor(LOST);
    const [line] = server.log.filter(({ msg }) => msg === LOST);
    assert.equal(line?.['level'], 'error');
    assert.equal(line['lost'], 1);
    await eventually('the loss in the metrics', async () => {
      return (await scrape(server.url)).total('increments_lost_total') === 1;
    });
    await eventually('a flush', async () => (await sumsOf('later'))[0] === 1);
    // As after every loss of what was acknowledged.
    assert.equal((await server.stop()).code, 1);
    assert.match(server.output, /1 acknowledged increments are lost, because NATS has lost their records, or/);
    assert.match(server.output, /Everything else that was acknowledged is in the journal/);
    assert.deepEqual(await sumsOf('flushed', 'lost', 'later'), [5, 0, 1]);
  });

  test('after a broker returns with an older copy of its store memory still has what it took since', async (t) => {
    const server = own(t, await start({ FLUSH_INTERVAL_MS: '60000' }));
    const [store, copy] = ['store', 'copy'].map((name) => join(broker.directory, name)) as [string, string];
    assertCreated(await increment(server.url, { kept: 3 }));
    await broker.stop();
    await cp(store, copy, { recursive: true });
    await broker.start();
    await countAgain(server, 'since');
    assertCreated(await increment(server.url, { since: 1 }));
    await broker.stop();
    await rm(store, { recursive: true });
    await cp(copy, store, { recursive: true });
    await broker.start();
    await countAgain(server, 'later');
    assertCreated(await increment(server.url, { later: 1 }));
    assert.equal((await server.stop()).code, 0);
    assert.ok(!server.output.includes('are lost'), server.output);
    assert.deepEqual(await sumsOf('kept', 'since', 'later'), [3, 2, 2]);
  });

  test('after a broker loses its store increments are refused until a start makes the stream again, and flushed ones are counted', async (t) => {
    const server = own(t, await start({ FLUSH_INTERVAL_MS: '100' }));
    assertCreated(await increment(server.url, { 'in the database': 5 }));
    await eventually('a flush', async () => (await sumsOf('in the database'))[0] === 5);
    await broker.stop();
    await rm(join(broker.directory, 'store'), { recursive: true });
    await broker.start();
    assert.equal(problemCode(await increment(server.url, { refused: 1 })), 'journal-unavailable');
    await server.waitFor('Journal in NATS unavailable; refusing increments');
    const next = own(t, await start());
    await countAgain(server, 'after the store');
    // On a busy machine it may still begin its stream.
    await countAgain(next, 'at the next');
    assert.equal((await next.stop()).code, 0);
    assert.equal((await server.stop()).code, 0);
    assert.deepEqual(await sumsOf('in the database', 'refused', 'after the store', 'at the next'), [5, 0, 1, 1]);
  });

  test('the row of a finished stream goes fifteen days after its window, and not before', async (t) => {
    const first = await start();
    assertCreated(await increment(first.url, { finished: 3 }));
    assert.equal((await first.stop()).code, 0);
    await first.dispose();
    const [row] = await rowsOf<{ stream: string }>(
      database.url,
      `select stream::text from journal_checkpoints where journal = 'nats' and retired_at is not null
       order by retired_at desc limit 1`,
    );
    const stream = row?.stream ?? assert.fail('a finished stream has a row');
    const retire = (ago: string): Promise<unknown> =>
      rowsOf(
        database.url,
        `update journal_checkpoints set retired_at = now() - interval '${ago}' where stream = '${stream}'`,
      );
    const rows = async (): Promise<number> =>
      (await rowsOf(database.url, `select 1 from journal_checkpoints where stream = '${stream}'`)).length;
    const messages = (): Promise<number | undefined> =>
      managed(async (manager) => {
        const { state } = await manager.streams.info(STREAM, { subjects_filter: `${STREAM}.${stream}` });
        return state.subjects?.[`${STREAM}.${stream}`];
      });
    await retire('15 days 23 hours');
    const early = own(t, await start());
    await eventually('nothing but the fence', async () => (await messages()) === 1);
    assert.equal(await rows(), 1);
    assert.equal((await early.stop()).code, 0);
    assert.equal(await rows(), 1);
    await retire('16 days 1 hour');
    const late = own(t, await start());
    await eventually('no row', async () => (await rows()) === 0);
    assert.equal(await messages(), 1);
    assert.ok(!late.output.includes('how much of it is counted is unknown'), late.output);
    assert.equal((await late.stop()).code, 0);
    assert.deepEqual(await sumsOf('finished'), [3]);
  });
});
