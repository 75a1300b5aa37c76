/**
 * Open checkpoint rows whose journal is not here: of a stream that this process finished before the database failed over to
 * an older state, and of streams about which it knows nothing. Idempotency keys are not pruned while such a row is open.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe } from 'node:test';
import type { CountedNode } from '../support/counted-node.js';
import { runStatements } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { assertCreated } from '../support/problem.js';
import type { TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, kill, NEVER_MS, testNode, type NodeScene } from '../support/node-test.js';
import { openStreams, rowsOf } from '../support/journal-servers.js';

const NEVER = { FLUSH_INTERVAL_MS: NEVER_MS };
/** Looks are 15 s apart. */
const LOOK_MS = 90_000;

const BACK_UP = `
  create table checkpoints_then as table journal_checkpoints;
  create table counters_then as table counters;
  create table claims_then as table journal_claims`;
/** The database as a standby without the last commits has it. */
const FAIL_OVER = `
  begin;
  lock table journal_checkpoints in exclusive mode;
  delete from journal_checkpoints; insert into journal_checkpoints table checkpoints_then;
  delete from counters; insert into counters table counters_then;
  delete from journal_claims; insert into journal_claims table claims_then;
  commit`;

/** The keys of one request are on both of two shards. */
const KEYS = Object.fromEntries(Array.from({ length: 16 }, (_, n) => [`key ${n}`, 1]));

/**
 * Runs with two shards, is killed with something pending in both, and its database is backed up. Returns the stream of the shard
 * that no later start has: LSN 1 is flushed, LSN 2 pending.
 */
async function makeOrphan({ node, databaseUrl }: NodeScene): Promise<string> {
  const first = await node.start();
  assertCreated(await increment(node.url, KEYS));
  await node.flush();
  assertCreated(await increment(node.url, KEYS));
  await kill(first);
  await runStatements(databaseUrl, BACK_UP);
  const [row] = await rowsOf(databaseUrl, 'select stream::text from journal_checkpoints where shard = 1');
  return String(row?.['stream']);
}

/** Starts one shard, which finishes the orphaned stream and removes it. */
async function finishOrphan(node: CountedNode): Promise<TestServer> {
  const server = await node.start({ SHARDS: '1', JOURNAL_KEEP_SECONDS: '1' });
  await node.flush();
  await server.waitFor('Removed an orphaned stream');
  return server;
}

/** What the server says of all keys, with what is pending; nothing while it does not answer. */
async function sums(base: string): Promise<readonly number[]> {
  const names = new URLSearchParams(Object.keys(KEYS).map((key): [string, string] => ['key', key]));
  const { status, body } = await send(base, `/counters?${names.toString()}`);
  if (status !== 200) return [];
  return (JSON.parse(body) as { counters: readonly { sum: number }[] }).counters.map(({ sum }) => sum);
}

describe('a stream without a journal here', { concurrency: 3 }, () => {
  testNode(
    'a finished stream that a failover opens again is reported with the lost LSNs and retired',
    NEVER,
    async (scene) => {
      const { node, databaseUrl } = scene;
      const orphan = await makeOrphan(scene);
      const server = await finishOrphan(node);
      await runStatements(databaseUrl, FAIL_OVER);
      const sentence =
        `Stream ${orphan} is at LSN 1 in the database and was finished at LSN 2 here: increments of LSN 2 to 2 are lost ` +
        "with the database's failover; the stream is retired";
      await server.waitFor(sentence, LOOK_MS);
      await eventually('only the own stream is open', async () => {
        const open = await openStreams(databaseUrl);
        return open.length === 1 && open[0]?.['stream'] !== orphan;
      });
      // The own stream looks at its row at other times. Its records are pending again then, and the stop commits them; of the
      // other, only what the sentence names is missing.
      await eventually('the own stream is read again', async () => (await sums(node.url)).includes(2), LOOK_MS);
      assert.deepEqual(await server.stop(), CLEAN, server.output);
      assert.equal(server.output.split(sentence).length, 2, 'it is said once');
      assert.deepEqual(new Set((await committedSums(databaseUrl)).values()), new Set([1n, 2n]));
    },
  );

  testNode(
    'a finished stream that another directory has claimed since is left open, with a warning once it is silent',
    NEVER,
    async (scene) => {
      const { node, databaseUrl } = scene;
      const orphan = await makeOrphan(scene);
      const server = await finishOrphan(node);
      await runStatements(databaseUrl, FAIL_OVER);
      await runStatements(
        databaseUrl,
        `insert into journal_claims (stream, epoch, claim, lsn) values ('${orphan}', 7, '${randomUUID()}', 1);
       update journal_checkpoints set epoch = 7, heard_at = now() - interval '6 minutes' where stream = '${orphan}'`,
      );
      await server.waitFor(`npm run journal -- retire --stream ${orphan}`, LOOK_MS);
      assert.deepEqual(await server.stop(), CLEAN, server.output);
      assert.ok((await openStreams(databaseUrl)).some(({ stream }) => stream === orphan));
    },
  );

  testNode(
    'an open row of this node without a journal is left, with a warning that names the command',
    NEVER,
    async ({ node, databaseUrl }) => {
      const server = await node.start();
      const nodeId = readFileSync(path.join(node.dataDir, 'node-id'), 'utf8').trim();
      const [silent, young, foreign] = [randomUUID(), randomUUID(), randomUUID()];
      await runStatements(
        databaseUrl,
        `insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, heard_at) values
         ('${silent}', 3, 9, '${nodeId}', 0, 'file', now() - interval '1 hour'),
         ('${young}', 3, 9, '${nodeId}', 0, 'file', now()),
         ('${foreign}', 3, 9, '${randomUUID()}', 0, 'file', now() - interval '1 hour')`,
      );
      await server.waitFor(`run \`npm run journal -- retire --stream ${silent}\``, LOOK_MS);
      for (const other of [young, foreign]) assert.ok(!server.output.includes(other));
      assert.deepEqual(await server.stop(), CLEAN, server.output);
      const open = (await openStreams(databaseUrl)).map(({ stream }) => stream);
      assert.deepEqual(new Set(open), new Set([silent, young, foreign]), 'a start without traffic leaves no open row');
    },
  );
});
