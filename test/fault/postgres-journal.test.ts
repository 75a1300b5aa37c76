/**
 * Servers whose journal is PostgreSQL lose their data directories, sleep, and lose PostgreSQL itself. What was acknowledged is
 * counted once all the same, by whoever is there.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CountedNode } from '../support/counted-node.js';
import { createDatabaseOn } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { problemCode } from '../support/http.js';
import { sendTracked } from '../support/load.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { linesOf, othersEnded, startPair, STREAM_ENDED, streamsOf, TAKEN_OVER } from './server-pair.js';
import { TakeoverLog } from './takeover-log.js';

const TAKEOVER_MAX_MS = 10_000;
/** Longer than a server must have heard from PostgreSQL before it takes anything over. */
const CONTACT_MS = 5_000;
/** Longer than a server may be silent, and shorter than it takes to give a connection up. */
const SILENCE_MS = 6_500;
/** Longer than a request waits for its group while PostgreSQL answers, and shorter than one may be in doubt. */
const HELD_MS = 1_000;
const JOURNAL_BACK = 'The journal in PostgreSQL takes records again';

test('a server that is killed under load and loses its data directory loses no acknowledged increment', async () => {
  const { database, first, second, load, servers, dispose } = await startPair('lost directory', {
    JOURNAL: 'postgres',
  });
  try {
    await load.acknowledgements(500);
    servers[0].kill('SIGKILL');
    await servers[0].ended;
    await rm(first.dataDir, { recursive: true });
    await load.acknowledgements(200);
    await load.stop();
    await othersEnded(database.url, [servers[1]]);
    // Also those streams that were left empty.
    assert.equal(linesOf(servers[1], TAKEN_OVER).length, streamsOf(servers[0]).size);
    assert.deepEqual(load.wrongAnswers, []);
    await second.finish(servers[1]);
  } finally {
    await dispose();
  }
});

test('a suspended server is replaced within 10 s; when it wakes, it goes on under a new stream', async () => {
  const { database, first, second, load, servers, dispose } = await startPair('suspended server', {
    JOURNAL: 'postgres',
  });
  let takeoverLog: TakeoverLog | undefined;
  try {
    const before = streamsOf(servers[0]);
    takeoverLog = await TakeoverLog.start(database.url, () => [servers[1]]);
    await load.acknowledgements(200);
    servers[0].kill('SIGSTOP');
    await eventually('the takeover', () => Promise.resolve(linesOf(servers[1], TAKEN_OVER).length === before.size));
    await othersEnded(database.url, [servers[1]]);
    servers[0].kill('SIGCONT');

    await eventually('the end of the old streams', () =>
      Promise.resolve(
        [...streamsOf(servers[0])].every((stream) => !before.has(stream)) && streamsOf(servers[0]).size === before.size,
      ),
    );
    await load.acknowledgements(200);
    const direct = await sendTracked(first.url, first.ledger.writer('direct')());
    assert.equal(direct?.status, 202, direct?.body);
    await load.stop();
    assert.deepEqual(load.wrongAnswers, []);
    const takeovers = await takeoverLog.finish();
    assert.deepEqual(new Set(takeovers.map(({ stream }) => stream)), before);
    for (const { silentMs } of takeovers) assert.ok(silentMs <= TAKEOVER_MAX_MS, `a takeover took ${silentMs} ms`);
    await first.flush();
    await second.flush();
    for (const server of servers) assert.equal((await server.stop()).code, 0, server.output);
    await second.compare();
  } finally {
    await takeoverLog?.stop();
    await dispose();
  }
});

test('while PostgreSQL is down, requests are refused or unknown; it heals by itself, and the counts stay exact', async () => {
  const postgres = await OutagePostgres.prepare();
  await postgres.start();
  const databaseUrl = await createDatabaseOn(postgres.url);
  const node = await CountedNode.make('PostgreSQL down', { databaseUrl, env: { JOURNAL: 'postgres' } });
  const codes = new Set<unknown>();
  let isOver = false;
  try {
    const server = await node.start();
    const load = node.load(8, 'w', 0);
    const next = node.ledger.writer('direct');
    const watching = (async () => {
      while (!isOver) {
        const answer = await sendTracked(node.url, next());
        codes.add(answer === undefined || answer.status === 202 ? answer?.status : problemCode(answer));
      }
    })();
    // Back before a group is in doubt for too long, and after that.
    for (const isBackSoon of [true, false, true]) {
      await load.acknowledgements(200);
      if (isBackSoon) await postgres.stop('crash');
      else {
        // Held first, so that groups are under way when it ends: what comes later is refused, and nothing is in doubt.
        postgres.hold();
        await sleep(HELD_MS);
        await postgres.kill();
        await eventually('requests of unknown outcome', () => Promise.resolve(node.ledger.unknown > 0));
        await eventually('refused requests', () => Promise.resolve(codes.has('journal-unavailable')));
      }
      await postgres.start();
      await load.acknowledgements(200);
    }
    isOver = true;
    await watching;
    codes.delete('outcome-unknown');
    assert.deepEqual([...codes].sort(), [202, 'journal-unavailable']);
    assert.ok(linesOf(server, JOURNAL_BACK).length > 0, server.output);
    await node.finish(server);
  } finally {
    isOver = true;
    await node.dispose();
    await postgres.dispose();
  }
});

test('servers that PostgreSQL has not answered for a while do not take each other for dead', async () => {
  const postgres = await OutagePostgres.prepare();
  await postgres.start();
  const databaseUrl = await createDatabaseOn(postgres.url);
  const options = { databaseUrl, env: { JOURNAL: 'postgres', SHARDS: '1' } };
  const nodes = [await CountedNode.make('silence', options), await CountedNode.make('silence', options)];
  try {
    const servers = await Promise.all(nodes.map((node) => node.start()));
    // Long enough for each to be able to take over, and then to be silent for too long.
    await sleep(CONTACT_MS);
    postgres.hold();
    await sleep(SILENCE_MS);
    postgres.release();
    await sleep(CONTACT_MS);
    for (const server of servers) {
      assert.deepEqual(linesOf(server, TAKEN_OVER), []);
      assert.deepEqual(linesOf(server, STREAM_ENDED), []);
    }
  } finally {
    for (const node of nodes) await node.dispose();
    await postgres.dispose();
  }
});
