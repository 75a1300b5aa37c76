/**
 * Failovers to a real standby under load: the primary is killed, the standby promoted, and the server finds it through the
 * list of hosts in DATABASE_URL. The figures that are printed are in docs/operating.md.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { eventually } from '../support/eventually.js';
import { increment, problemCode } from '../support/http.js';
import { imbalances, scrape } from '../support/metrics.js';
import { NEVER_MS } from '../support/node-test.js';
import { NatsServer, natsServerMissing } from '../support/nats-server.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { PgBouncer, pgbouncerMissing } from '../support/pgbouncer.js';
import { PostgresPair, type Replication } from '../support/postgres-pair.js';
import { assertCreated } from '../support/problem.js';
import { SQS_ENVIRONMENT, SqsServer } from '../support/sqs-server.js';
import type { TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';

const LOST = 'Acknowledged increments are lost: the database has gone back to an earlier state';
const TIMEOUT = { timeout: 240_000 };

describe('failover', () => {
  let unused: OutagePostgres;

  before(async () => {
    unused = await OutagePostgres.prepare();
  });

  after(() => unused.dispose());

  interface Fixture {
    readonly pair: PostgresPair;
    readonly node: CountedNode;
  }

  async function withNode(
    label: string,
    replication: Replication,
    env: Readonly<Record<string, string>>,
    body: (fixture: Fixture) => Promise<void>,
    urlOf: (pair: PostgresPair) => string = ({ url }) => url,
  ): Promise<void> {
    const pair = await PostgresPair.start(unused, replication);
    const options = { databaseUrl: pair.standbyUrl, serverDatabaseUrl: urlOf(pair), env };
    const node = await CountedNode.make(label, options);
    try {
      await body({ pair, node });
    } finally {
      await node.dispose();
      await pair.dispose();
    }
  }

  /** Fails over to a standby that lacks the last flushes: what the journal keeps of them is flushed again. */
  async function repeatFromJournal(label: string, env: Readonly<Record<string, string>>): Promise<void> {
    await withNode(label, 'asynchronous', { FLUSH_INTERVAL_MS: '200', ...env }, async ({ pair, node }) => {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(200);
      await node.flush();
      await pair.caughtUp();
      await pair.cutOff();
      await load.acknowledgements(200);
      await node.flush();
      const committed = await pair.positions(pair.primaryUrl);
      const failover = await pair.failOver();
      const takenBack = committed - failover.positions;
      assert.ok(takenBack > 0n, `${committed} and ${failover.positions}`);
      console.log(`# ${label}: ${takenBack} records taken back, first flush ${await pair.firstFlush(failover)}`);
      // A read between the two states of the database sees the older one.
      node.history.forgetReads();
      await load.acknowledgements(200);
      await node.finish(server);
    });
  }

  test('to a synchronous standby under load takes nothing back, and the sums are exact', TIMEOUT, async () => {
    await withNode('synchronous standby', 'synchronous', {}, async ({ pair, node }) => {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(200);
      const first = pair.firstFlush(await pair.failOver());
      await load.acknowledgements(200);
      console.log(`# synchronous standby: first flush ${await first}`);
      await node.finish(server);
      assert.doesNotMatch(server.output, /journal-fenced/);
    });
  });

  test('to an asynchronous standby that lags repeats what it lacks from the journal', TIMEOUT, () =>
    repeatFromJournal('lagging standby', {}),
  );

  test(
    'with JOURNAL=nats to an asynchronous standby that lags repeats what it lacks from the broker',
    { ...TIMEOUT, skip: natsServerMissing() },
    async () => {
      const broker = await NatsServer.start();
      try {
        await repeatFromJournal('JOURNAL=nats, lagging standby', { JOURNAL: broker.journal });
      } finally {
        await broker.dispose();
      }
    },
  );

  test('with JOURNAL=sqs to a synchronous standby loses nothing, and nothing is counted twice', TIMEOUT, async () => {
    const sqs = await SqsServer.start();
    try {
      const env = { ...SQS_ENVIRONMENT, JOURNAL: await sqs.makeQueue(), FLUSH_INTERVAL_MS: '200' };
      await withNode('queue', 'synchronous', { ...env, ROLE: 'ingest' }, async ({ pair, node }) => {
        const options = { databaseUrl: pair.standbyUrl, serverDatabaseUrl: pair.url, env: { ...env, ROLE: 'roll-up' } };
        const rollUp = await CountedNode.make('queue: roll-up', options);
        try {
          const [writing, flushing] = [await node.start(), await rollUp.start()];
          const load = node.load(16, 'w', 0);
          await load.acknowledgements(200);
          const first = pair.firstFlush(await pair.failOver());
          await load.acknowledgements(200);
          console.log(`# JOURNAL=sqs, synchronous standby: first flush ${await first}`);
          await load.stop();
          await node.flush();
          for (const server of [writing, flushing]) assert.equal((await server.stop()).code, 0, server.output);
          await node.compare();
        } finally {
          await rollUp.dispose();
        }
      });
    } finally {
      await sqs.dispose();
    }
  });

  test(
    'from a PgBouncer in session mode to the standby that follows it in the list keeps the sums exact',
    { ...TIMEOUT, skip: pgbouncerMissing() },
    async () => {
      let pgbouncer: PgBouncer | undefined;
      const pair = await PostgresPair.start(unused, 'synchronous');
      try {
        pgbouncer = await PgBouncer.start(pair.primaryUrl, 'session');
        const serverDatabaseUrl = pair.listOf(pgbouncer.url, pair.standbyUrl);
        const node = await CountedNode.make('PgBouncer', { databaseUrl: pair.standbyUrl, serverDatabaseUrl });
        try {
          const server = await node.start();
          const load = node.load();
          await load.acknowledgements(200);
          const first = pair.firstFlush(await pair.failOver());
          await load.acknowledgements(200);
          console.log(`# PgBouncer, then the standby: first flush ${await first}`);
          await node.finish(server);
        } finally {
          await node.dispose();
        }
      } finally {
        await pgbouncer?.dispose();
        await pair.dispose();
      }
    },
  );

  test('with JOURNAL=postgres to a synchronous standby loses nothing', TIMEOUT, async () => {
    await withNode('shared journal', 'synchronous', { JOURNAL: 'postgres' }, async ({ pair, node }) => {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(200);
      const first = pair.firstFlush(await pair.failOver());
      await load.acknowledgements(200);
      console.log(`# JOURNAL=postgres, synchronous standby: first flush ${await first}`);
      await node.finish(server);
      assert.ok(!server.output.includes(LOST), server.output);
    });
  });

  test('with JOURNAL=postgres a record whose wait for the standby was ended is not acknowledged', TIMEOUT, async () => {
    await withNode('ended wait', 'synchronous', { JOURNAL: 'postgres', SHARDS: '1' }, async ({ pair, node }) => {
      await node.start();
      assertCreated(await increment(node.url, { key: 1 }));
      await pair.cutOff();
      const cut = increment(node.url, { key: 1 });
      await eventually('the append waits for the standby', () => pair.endWaits());
      // The record is in the log of the primary, where the writer finds it, and nowhere else.
      assert.equal(problemCode(await cut), 'outcome-unknown');
      const { status } = await increment(node.url, { key: 1 });
      assert.equal(status, 503);
    });
  });

  interface Lagging extends Fixture {
    /** Increments `key`. */
    readonly post: (times: number) => Promise<void>;
    /** A further server with the same settings. */
    readonly makeRollUp: () => Promise<CountedNode>;
  }

  /** A server in front of a pair whose standby will lag. Only requests to flush flush. */
  async function withLag(label: string, role: string, body: (fixture: Lagging) => Promise<void>): Promise<void> {
    const env = { JOURNAL: 'postgres', ROLE: role, SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };
    const others: CountedNode[] = [];
    await withNode(label, 'asynchronous', env, async ({ pair, node }) => {
      const post = async (times: number): Promise<void> => {
        for (let time = 0; time < times; time += 1) assertCreated(await increment(node.url, { key: 1 }));
      };
      const makeRollUp = async (): Promise<CountedNode> => {
        const options = { databaseUrl: pair.standbyUrl, serverDatabaseUrl: pair.url };
        const other = await CountedNode.make(label, { ...options, env: { ...env, ROLE: 'roll-up' } });
        others.push(other);
        return other;
      };
      try {
        await body({ pair, node, post, makeRollUp });
      } finally {
        for (const other of others) await other.dispose();
      }
    });
  }

  async function failOverAndGoOn({ pair, node, post }: Lagging): Promise<void> {
    await pair.failOver();
    await eventually('the server takes increments again', async () => {
      return (await increment(node.url, { other: 1 })).status === 202;
    });
    await post(5);
  }

  async function hasRead(rollUp: CountedNode, increments: number): Promise<void> {
    await eventually(`${increments} increments are read`, async () => {
      return (await scrape(rollUp.url)).total('increments_pending') === increments;
    });
  }

  /** The log, the metrics, the last words and the exit code of a server that has stopped say the same. */
  async function assertSaid(node: CountedNode, server: TestServer, lost: number): Promise<void> {
    await eventually('the loss in the metrics', async () => {
      return (await scrape(node.url)).total('increments_lost_total') === lost;
    });
    assert.deepEqual(new Set(imbalances(await scrape(node.url)).values()), new Set([0]));
    const { code } = await server.stop();
    const lines = server.log.filter(({ msg }) => msg === LOST);
    const said = lines.map((line) => line['lost']);
    assert.deepEqual({ code, said }, { code: lost > 0 ? 1 : 0, said: lost > 0 ? [lost] : [] }, server.output);
    for (const { afterLsn, throughLsn } of lines) assert.ok(Number(throughLsn) > Number(afterLsn));
    const words = new RegExp(`${lost} acknowledged increments are lost, because the database has gone back`);
    if (lost > 0) assert.match(server.output, words);
    const rest = lost > 0 ? 'Everything else that was acknowledged' : 'Everything that was acknowledged';
    assert.ok(server.output.includes(rest), server.output);
  }

  /** `isFlushed`: what the standby lacks was flushed at the primary, and memory has it no more. */
  async function serveOverLag(label: string, isFlushed: boolean): Promise<void> {
    await withLag(label, 'serve', async (fixture) => {
      const { pair, node, post } = fixture;
      const server = await node.start();
      await post(30);
      await node.flush();
      await pair.caughtUp();
      await pair.cutOff();
      await post(20);
      if (isFlushed) await node.flush();
      await failOverAndGoOn(fixture);
      await node.flush();
      assert.equal((await committedSums(pair.standbyUrl)).get('key'), isFlushed ? 35n : 55n);
      await assertSaid(node, server, isFlushed ? 20 : 0);
    });
  }

  /** Increments `key` on several connections until the function returned is called. That returns the outcomes. */
  function postAll({ url }: CountedNode): () => Promise<{ readonly acknowledged: number; readonly unknown: number }> {
    const outcomes = { acknowledged: 0, unknown: 0 };
    let isOver = false;
    const post = async (): Promise<void> => {
      while (!isOver) {
        const status = await increment(url, { key: 1 }).then(
          (answer) => answer.status,
          () => 0,
        );
        if (status === 202) outcomes.acknowledged += 1;
        else if (status !== 503) outcomes.unknown += 1;
        await sleep(5);
      }
    };
    const posting = Promise.all(Array.from({ length: 16 }, post));
    return async () => {
      isOver = true;
      await posting;
      return outcomes;
    };
  }

  test('with JOURNAL=postgres under load what a standby lacks is counted, or said to be lost', TIMEOUT, async () => {
    await withNode('lagging standby under load', 'asynchronous', { JOURNAL: 'postgres' }, async ({ pair, node }) => {
      const server = await node.start();
      const stop = postAll(node);
      await sleep(1000);
      await pair.caughtUp();
      await pair.cutOff();
      // Some of it is flushed, and memory has it no more.
      await sleep(2500);
      await pair.failOver();
      await eventually('the server takes increments again', async () => {
        return (await increment(node.url, { other: 1 })).status === 202;
      });
      await sleep(1000);
      const { acknowledged, unknown } = await stop();
      await node.flush();
      const counted = Number((await committedSums(pair.standbyUrl)).get('key'));
      let lost = 0;
      await eventually('a loss is said', async () => {
        lost = (await scrape(node.url)).total('increments_lost_total');
        return lost > 0;
      });
      console.log(`# ${acknowledged} acknowledged, ${unknown} unknown, ${counted} counted, ${lost} said to be lost`);
      assert.ok(acknowledged <= counted + lost && counted + lost <= acknowledged + unknown, server.output);
      await assertSaid(node, server, lost);
    });
  });

  test('with JOURNAL=postgres what a standby lacks and memory has is counted', TIMEOUT, () =>
    serveOverLag('sums in memory', false),
  );

  test('with JOURNAL=postgres what a standby lacks and memory has no more is lost, and said once', TIMEOUT, () =>
    serveOverLag('flushed sums', true),
  );

  /** `isRead`: a roll-up has read what the standby lacks. */
  async function ingestOverLag(label: string, isRead: boolean): Promise<void> {
    await withLag(label, 'ingest', async (fixture) => {
      const { pair, node, post, makeRollUp } = fixture;
      const server = await node.start();
      const rollUp = await makeRollUp();
      const first = await rollUp.start();
      await post(30);
      await hasRead(rollUp, 30);
      await rollUp.flush();
      await pair.caughtUp();
      await pair.cutOff();
      if (!isRead) assert.equal((await first.stop()).code, 0);
      await post(20);
      if (isRead) await hasRead(rollUp, 20);
      await failOverAndGoOn(fixture);
      const flushing = isRead ? first : await rollUp.start();
      await eventually('all of it is committed', async () => {
        await rollUp.flush();
        return (await committedSums(pair.standbyUrl)).get('key') === (isRead ? 55n : 35n);
      });
      await assertSaid(node, server, isRead ? 0 : 20);
      await rollUp.flush();
      assert.equal((await flushing.stop()).code, 0);
    });
  }

  test('with ROLE=ingest what a standby lacks and a roll-up has read is counted', TIMEOUT, () =>
    ingestOverLag('read records', true),
  );

  test('with ROLE=ingest what a standby lacks and nobody has read is lost, and said once', TIMEOUT, () =>
    ingestOverLag('unread records', false),
  );
});
