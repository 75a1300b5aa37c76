/**
 * Servers whose journal is NATS lose their data directories, sleep, and lose the broker or PostgreSQL. What was acknowledged is
 * counted once all the same, by whoever is there.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { jetstreamManager, type ClusterInfo, type JetStreamManager } from '@nats-io/jetstream';
import { CountedNode } from '../support/counted-node.js';
import { createTestDatabase } from '../support/database.js';
import { createDatabaseOn } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { increment, problemCode } from '../support/http.js';
import { sendTracked } from '../support/load.js';
import { NatsCluster, NatsServer, natsServerMissing } from '../support/nats-server.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { linesOf, othersEnded, startPair, STREAM_ENDED, type ServerPair } from './server-pair.js';

const JOURNAL_BACK = 'The journal in NATS takes records again';
/** A replica that was away catches up within some seconds, if it does. */
const CATCH_UP_MS = 15_000;
/** How often a replica that does not catch up is started anew. */
const RESTARTS_MAX = 3;

describe('one nats-server', { concurrency: 2, skip: natsServerMissing() }, () => {
  test('while the broker is down, requests are refused or unknown; it heals by itself, and the counts stay exact', async () => {
    const broker = await NatsServer.start();
    const database = await createTestDatabase();
    const node = await CountedNode.make('nats: broker down', {
      databaseUrl: database.url,
      env: { JOURNAL: broker.journal },
    });
    const codes = new Set<unknown>();
    let isOver = false;
    try {
      const server = await node.start();
      const load = node.load(8, 'w', 0);
      const next = node.history.writer('direct');
      const watching = (async () => {
        while (!isOver) {
          const answer = await sendTracked(node.url, next());
          codes.add(answer === undefined || answer.status === 202 ? answer?.status : problemCode(answer));
        }
      })();
      for (const signal of ['SIGKILL', 'SIGKILL', 'SIGTERM'] as const) {
        await load.acknowledgements(200);
        await broker.stop(signal);
        if (signal === 'SIGTERM') {
          codes.delete('journal-unavailable');
          await eventually('refused requests', () => Promise.resolve(codes.has('journal-unavailable')));
          await sleep(6000);
        }
        await broker.start();
        await load.acknowledgements(200);
      }
      // A broker that answers nothing is worse than one that is gone.
      broker.signal('SIGSTOP');
      await sleep(8000);
      broker.signal('SIGCONT');
      await load.acknowledgements(200);
      isOver = true;
      await watching;
      codes.delete('outcome-unknown');
      assert.deepEqual([...codes].sort(), [202, 'journal-unavailable']);
      assert.ok(linesOf(server, JOURNAL_BACK).length > 0, server.output);
      await load.stop();
      await othersEnded(database.url, [server]);
      await node.finish(server);
    } finally {
      isOver = true;
      await node.dispose();
      await broker.dispose();
      await database.drop();
    }
  });

  test('while PostgreSQL is down increments are taken, and a server that starts then is found when it is back', async () => {
    const [broker, postgres] = [await NatsServer.start(), await OutagePostgres.prepare()];
    await postgres.start();
    const databaseUrl = await createDatabaseOn(postgres.url);
    const env = { JOURNAL: broker.journal, SHARDS: '1' };
    const ingest = await CountedNode.make('nats: PostgreSQL down', { databaseUrl, env: { ...env, ROLE: 'ingest' } });
    const shared = { databaseUrl, history: ingest.history, random: ingest.random };
    const late = await CountedNode.make('nats: PostgreSQL down', { ...shared, env: { ...env, ROLE: 'ingest' } });
    const rollUp = await CountedNode.make('nats: PostgreSQL down', { ...shared, env: { ...env, ROLE: 'roll-up' } });
    const nodes = [ingest, late, rollUp];
    try {
      const started = await ingest.start();
      const flushing = await rollUp.start();
      const load = ingest.load(8, 'w', 0);
      await load.acknowledgements(200);
      await postgres.stop('crash');
      await load.acknowledgements(500);
      const lateStarted = await late.start();
      const lateLoad = late.load(8, 'late', 0);
      const refused = await increment(late.url, { late: 1 }, { headers: { 'idempotency-key': 'too-early' } });
      assert.deepEqual([refused.status, problemCode(refused)], [503, 'starting']);
      await lateLoad.acknowledgements(200);
      await postgres.start();
      const next = late.history.writer('direct');
      await eventually('idempotent requests', async () => {
        const request = next();
        const answer = await sendTracked(late.url, request);
        return request.idempotencyKey !== undefined && answer?.status === 202;
      });
      await lateLoad.acknowledgements(100);
      assert.ok(linesOf(flushing, 'Found a stream in NATS without a row in PostgreSQL; made its row').length > 0);
      assert.equal(linesOf(lateStarted, STREAM_ENDED).length, 0, lateStarted.output);
      await load.stop();
      await lateLoad.stop();
      for (const node of [ingest, late]) await node.flush();
      for (const server of [started, lateStarted, flushing]) assert.equal((await server.stop()).code, 0, server.output);
      await ingest.compare();
    } finally {
      for (const node of nodes) await node.dispose();
      await postgres.dispose();
      await broker.dispose();
    }
  });

  test('a stream at its limit refuses increments, and takes them again when there is room', async () => {
    const broker = await NatsServer.start();
    const database = await createTestDatabase();
    const env = { JOURNAL: broker.journal, JOURNAL_KEEP_SECONDS: '0', FLUSH_INTERVAL_MS: '100' };
    const node = await CountedNode.make('nats: stream is full', { databaseUrl: database.url, env });
    const session = await connect({ servers: broker.address });
    try {
      const server = await node.start();
      const manager = await jetstreamManager(session);
      const before = await manager.streams.info('summing-counters');
      await manager.streams.update('summing-counters', { max_bytes: before.state.bytes + 2000 });
      const filling = node.history.writer('filling');
      const full = await eventually('a refusal', async () => {
        const answer = await sendTracked(node.url, filling());
        return answer?.status === 503 ? answer : undefined;
      });
      assert.equal(problemCode(full), 'journal-unavailable');
      await manager.streams.update('summing-counters', { max_bytes: -1 });
      const next = node.history.writer('room');
      await eventually('room', async () => (await sendTracked(node.url, next()))?.status === 202);
      await node.flush();
      await node.finish(server);
    } finally {
      await session.close();
      await node.dispose();
      await broker.dispose();
      await database.drop();
    }
  });
});

/**
 * Waits until no replica lags behind. One that was killed under load does not always catch up: the leader of 2.10 hears nothing from
 * it, though it runs, until it is started once more, as a readiness check would order.
 */
async function replicasAgree(manager: JetStreamManager, killed: NatsServer): Promise<void> {
  for (let restart = 0; ; restart += 1) {
    let state: ClusterInfo | undefined;
    try {
      await eventually(
        'a cluster of three',
        async () => {
          ({ cluster: state } = await manager.streams.info('summing-counters'));
          return state?.replicas?.every(({ current }) => current) === true;
        },
        CATCH_UP_MS,
      );
      return;
    } catch (error) {
      console.error(`A replica does not catch up: ${JSON.stringify(state)}`);
      if (restart === RESTARTS_MAX) throw error;
      await killed.stop('SIGKILL');
      await killed.start();
    }
  }
}

describe('three nats-servers', { skip: natsServerMissing() }, () => {
  test('the leader is killed under load, and comes back; nothing is lost or counted twice', async () => {
    const cluster = await NatsCluster.start();
    let pair: ServerPair | undefined;
    const session = await connect({ servers: cluster.servers.map(({ address }) => address) });
    try {
      pair = await startPair('nats: leader', { JOURNAL: cluster.journal, NATS_REPLICAS: '3' });
      const { database, first, second, load, servers } = pair;
      const manager = await jetstreamManager(session);
      for (let round = 0; round < 2; round += 1) {
        await load.acknowledgements(300);
        const { cluster: state } = await manager.streams.info('summing-counters');
        const leader = cluster.servers[Number(state?.leader?.replace('server-', ''))];
        assert.ok(leader !== undefined);
        await leader.stop('SIGKILL');
        await load.acknowledgements(300);
        await leader.start();
        await replicasAgree(manager, leader);
      }
      await load.stop();
      await othersEnded(database.url, servers);
      await first.flush();
      await second.flush();
      for (const server of servers) assert.equal((await server.stop()).code, 0, server.output);
      await second.compare();
    } finally {
      await session.close();
      await pair?.dispose();
      await cluster.dispose();
    }
  });
});
