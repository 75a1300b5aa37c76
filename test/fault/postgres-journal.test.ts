/**
 * Servers whose journal is PostgreSQL lose their data directories, sleep, and lose PostgreSQL itself. What was acknowledged is
 * counted once all the same, by whoever is there.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CountedNode } from '../support/counted-node.js';
import { createDatabaseOn } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { problemCode } from '../support/http.js';
import { sendTracked } from '../support/load.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { linesOf, STREAM_ENDED, TAKEN_OVER } from './server-pair.js';

/** Longer than a server must have heard from PostgreSQL before it takes anything over. */
const CONTACT_MS = 5_000;
/** Longer than a server may be silent, and shorter than it takes to give a connection up. */
const SILENCE_MS = 6_500;
/** Longer than a request waits for its group while PostgreSQL answers, and shorter than one may be in doubt. */
const HELD_MS = 1_000;
const JOURNAL_BACK = 'The journal in PostgreSQL takes records again';

describe('servers whose journal is PostgreSQL', { concurrency: 2 }, () => {
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
      const next = node.history.writer('direct');
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
          await eventually('requests of unknown outcome', () => Promise.resolve(node.history.unknown > 0));
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
});
