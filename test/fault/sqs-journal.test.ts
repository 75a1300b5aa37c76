/**
 * Servers whose journal is SQS are killed, and lose the queue or PostgreSQL. What was acknowledged is counted once all the same. The
 * queue is that of a local server (see `support/sqs-server.ts`): its messages are in memory, so an outage of the queue is a proxy
 * that refuses, loses answers or lets nothing through, or a stopped process.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CountedNode, type CountedNodeOptions } from '../support/counted-node.js';
import { createTestDatabase } from '../support/database.js';
import { createDatabaseOn } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { increment, problemCode } from '../support/http.js';
import { sendTracked } from '../support/load.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { SQS_ENVIRONMENT, SqsServer } from '../support/sqs-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { linesOf } from './server-pair.js';

const JOURNAL_BACK = 'The journal in SQS takes records again';
/** A killed consumer's messages are received again within this time. */
const TAKEOVER_MS = 15_000;

interface Fleet {
  readonly sqs: SqsServer;
  /** In front of the queue, for servers that are told so. */
  readonly proxy: TcpProxy;
  readonly databaseUrl: string;
  /** Without `isDirect` the server reaches the queue through the proxy. */
  readonly make: (
    role: 'ingest' | 'roll-up',
    env?: Readonly<Record<string, string>>,
    isDirect?: boolean,
  ) => Promise<CountedNode>;
  readonly dispose: () => Promise<void>;
}

/** A queue, a database, and servers that count into one history. */
async function makeFleet(label: string, givenUrl?: string): Promise<Fleet> {
  const sqs = await SqsServer.start();
  const journal = await sqs.makeQueue();
  const proxy = await TcpProxy.start(sqs.address);
  const database = givenUrl === undefined ? await createTestDatabase() : undefined;
  const databaseUrl = givenUrl ?? database?.url ?? '';
  const nodes: CountedNode[] = [];
  return {
    sqs,
    proxy,
    databaseUrl,
    make: async (ROLE, env = {}, isDirect = true) => {
      const [first] = nodes;
      const JOURNAL = isDirect ? journal : `sqs:${proxy.urlOf(journal.slice('sqs:'.length))}`;
      const options: CountedNodeOptions = {
        databaseUrl,
        env: { ...SQS_ENVIRONMENT, JOURNAL, ROLE, SHARDS: '2', FLUSH_INTERVAL_MS: '200', ...env },
        ...(first !== undefined && { history: first.history, random: first.random }),
      };
      const node = await CountedNode.make(label, options);
      nodes.push(node);
      return node;
    },
    dispose: async () => {
      sqs.signal('SIGCONT');
      for (const node of nodes) await node.dispose();
      await proxy.close();
      await sqs.dispose();
      await database?.drop();
    },
  };
}

/** Waits for as long as messages become fewer: the local server hands out one message of a stream at a time. */
async function emptied(sqs: SqsServer): Promise<void> {
  for (let left = await sqs.messagesIn(); left > 0;) {
    const before = left;
    left = await eventually(`fewer than ${before} messages`, async () => {
      const now = await sqs.messagesIn();
      return now < before ? { now } : undefined;
    }).then(({ now }) => now);
  }
}

describe('servers whose journal is SQS', { concurrency: 3 }, () => {
  test('an ingest server that is killed under load and loses its data directory loses no acknowledged increment', async () => {
    const fleet = await makeFleet('sqs: lost directory');
    try {
      const ingest = await fleet.make('ingest');
      const rollUp = await fleet.make('roll-up');
      const [killed, flushing] = [await ingest.start(), await rollUp.start()];
      const load = ingest.load(16, 'w', 0);
      await load.acknowledgements(300);
      killed.kill('SIGKILL');
      await killed.ended;
      await rm(ingest.dataDir, { recursive: true });
      await load.stop();
      await emptied(fleet.sqs);
      assert.equal((await flushing.stop()).code, 0, flushing.output);
      await ingest.compare();
    } finally {
      await fleet.dispose();
    }
  });

  test('a roll-up that is killed or suspended is replaced within 15 s; what both held is counted once', async () => {
    const fleet = await makeFleet('sqs: killed roll-up');
    try {
      const ingest = await fleet.make('ingest');
      const [first, second] = [
        await fleet.make('roll-up', { FLUSH_INTERVAL_MS: '60000' }),
        await fleet.make('roll-up'),
      ];
      const writing = await ingest.start();
      const killed = await first.start();
      const load = ingest.load(4, 'w', 0);
      await load.acknowledgements(50);
      await load.stop();
      const asleep = await second.start();
      // Longer than a message is held without being extended: the first roll-up keeps what it has.
      await sleep(16_000);
      const held = await fleet.sqs.messagesIn();
      assert.ok(held > 0);
      killed.kill('SIGKILL');
      await killed.ended;
      const killedAt = performance.now();
      await ingest.flush();
      const ms = performance.now() - killedAt;
      assert.ok(ms < TAKEOVER_MS, `${held} messages are counted ${Math.round(ms)} ms after the kill`);
      const more = ingest.load(4, 'more', 0);
      await more.acknowledgements(100);
      asleep.kill('SIGSTOP');
      const third = await first.start({ FLUSH_INTERVAL_MS: '200' });
      await more.acknowledgements(100);
      await more.stop();
      await emptied(fleet.sqs);
      await ingest.flush();
      asleep.kill('SIGCONT');
      assert.equal((await writing.stop()).code, 0, writing.output);
      await emptied(fleet.sqs);
      for (const server of [asleep, third]) assert.equal((await server.stop()).code, 0, server.output);
      await ingest.compare();
    } finally {
      await fleet.dispose();
    }
  });

  test('a roll-up that is killed between its commit and the deletion of the messages has counted them once', async () => {
    const fleet = await makeFleet('sqs: killed before the deletion');
    try {
      const ingest = await fleet.make('ingest');
      const rollUp = await fleet.make('roll-up', {}, false);
      const replacement = await fleet.make('roll-up');
      fleet.proxy.setRule((bytes) => (bytes.includes('AmazonSQS.DeleteMessage') ? 'swallow' : 'forward'));
      const writing = await ingest.start();
      const killed = await rollUp.start();
      const load = ingest.load(4, 'w', 0);
      await load.acknowledgements(50);
      await load.stop();
      await eventually('a commit without a deletion', () => Promise.resolve(fleet.proxy.faults >= 2));
      assert.ok((await fleet.sqs.messagesIn()) > 0);
      killed.kill('SIGKILL');
      await killed.ended;
      const flushing = await replacement.start();
      await ingest.flush();
      assert.equal((await writing.stop()).code, 0, writing.output);
      await emptied(fleet.sqs);
      assert.equal((await flushing.stop()).code, 0, flushing.output);
      await ingest.compare();
    } finally {
      await fleet.dispose();
    }
  });

  test('while the queue is away or loses answers, requests are refused or unknown; it heals by itself, and the counts stay exact', async () => {
    const fleet = await makeFleet('sqs: queue away');
    const codes = new Set<unknown>();
    let isOver = false;
    try {
      const { proxy, sqs } = fleet;
      const ingest = await fleet.make('ingest', { ACK_TIMEOUT_MS: '3000' }, false);
      const rollUp = await fleet.make('roll-up', {}, false);
      const [writing, flushing] = [await ingest.start(), await rollUp.start()];
      const load = ingest.load(8, 'w', 0);
      const next = ingest.history.writer('direct');
      const watching = (async () => {
        while (!isOver) {
          const answer = await sendTracked(ingest.url, next());
          codes.add(answer === undefined || answer.status === 202 ? answer?.status : problemCode(answer));
        }
      })();
      await load.acknowledgements(200);
      // Every third answer is lost: the message is sent again, and the queue swallows it.
      let sends = 0;
      proxy.setRule((bytes) => {
        if (!bytes.includes('AmazonSQS.SendMessage')) return 'forward';
        sends += 1;
        return sends % 3 === 0 ? 'lose-answer' : 'forward';
      });
      await load.acknowledgements(200);
      proxy.setRule();
      await proxy.refuse();
      await eventually('refused requests', () => Promise.resolve(codes.has('journal-unavailable')));
      await sleep(2000);
      await proxy.accept();
      await load.acknowledgements(100);
      // Nothing is answered: LSNs are burnt, and their messages may come or not.
      sqs.signal('SIGSTOP');
      await eventually('unknown outcomes', () => Promise.resolve(codes.has('outcome-unknown')));
      await sleep(5000);
      sqs.signal('SIGCONT');
      await load.acknowledgements(200);
      isOver = true;
      await watching;
      // A request that waits behind one in doubt is refused before it is sent.
      codes.delete('overloaded');
      assert.deepEqual([...codes].sort(), [202, 'journal-unavailable', 'outcome-unknown']);
      assert.ok(linesOf(writing, JOURNAL_BACK).length > 0, writing.output);
      assert.equal(linesOf(writing, 'No longer writing the stream').length, 0, writing.output);
      await load.stop();
      await emptied(sqs);
      await ingest.flush();
      assert.equal((await writing.stop()).code, 0, writing.output);
      await emptied(sqs);
      assert.equal((await flushing.stop()).code, 0, flushing.output);
      await ingest.compare();
    } finally {
      isOver = true;
      await fleet.dispose();
    }
  });

  test('while PostgreSQL is down increments are taken, and a server that starts then is found when it is back', async () => {
    const postgres = await OutagePostgres.prepare();
    await postgres.start();
    const fleet = await makeFleet('sqs: PostgreSQL down', await createDatabaseOn(postgres.url));
    try {
      const env = { SHARDS: '1' };
      const ingest = await fleet.make('ingest', env);
      const late = await fleet.make('ingest', env);
      const rollUp = await fleet.make('roll-up', env);
      const [started, flushing] = [await ingest.start(), await rollUp.start()];
      const load = ingest.load(8, 'w', 0);
      await load.acknowledgements(200);
      await postgres.stop('crash');
      await load.acknowledgements(300);
      const lateStarted = await late.start();
      const lateLoad = late.load(8, 'late', 0);
      const refused = await increment(late.url, { late: 1 }, { headers: { 'idempotency-key': 'too-early' } });
      assert.deepEqual([refused.status, problemCode(refused)], [503, 'starting']);
      await lateLoad.acknowledgements(100);
      await postgres.start();
      const next = late.history.writer('direct');
      await eventually(
        'idempotent requests',
        async () => {
          const request = next();
          const answer = await sendTracked(late.url, request);
          return request.idempotencyKey !== undefined && answer?.status === 202;
        },
        40_000,
      );
      assert.ok(linesOf(flushing, 'Found a stream in SQS without a row in PostgreSQL').length > 0);
      assert.equal(linesOf(lateStarted, 'No longer writing the stream').length, 0, lateStarted.output);
      await load.stop();
      await lateLoad.stop();
      await emptied(fleet.sqs);
      for (const node of [ingest, late]) await node.flush();
      for (const server of [started, lateStarted]) assert.equal((await server.stop()).code, 0, server.output);
      await emptied(fleet.sqs);
      assert.equal((await flushing.stop()).code, 0, flushing.output);
      await ingest.compare();
    } finally {
      await fleet.dispose();
      await postgres.dispose();
    }
  });
});
