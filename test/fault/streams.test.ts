/**
 * A data directory, volume or database that differs from what the server left: other shards, a copy, an older state,
 * another database. Nothing is lost silently and nothing is counted twice.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import type { CountedNode } from '../support/counted-node.js';
import { readCountedSums } from '../support/counted-sums.js';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand } from '../support/journal-command.js';
import { rowsOf } from '../support/journal-servers.js';
import { copyDirectory, segmentsOf, streamsOf } from '../support/journal-files.js';
import { CLEAN, kill, NEVER_MS, testNode, type NodeScene } from '../support/node-test.js';
import type { TestServer } from '../support/server.js';

const ONE_SHARD = { FLUSH_INTERVAL_MS: NEVER_MS, SHARDS: '1' };
/** The journal keeps what is flushed. */
const KEPT = { FLUSH_INTERVAL_MS: '50', JOURNAL_KEEP_SECONDS: '600' };
/** What a copy has written beside the owner may be older than what the pruner has waited for. */
const COPIED = { mayPutAside: true };
/** The streams that a server found, each with the last LSN of its journal. */
function recoveredStreams(server: TestServer): readonly { readonly stream: string; readonly end: number }[] {
  return server.log
    .filter(({ msg }) => msg === 'Recovered a journal')
    .map(({ stream, end }) => ({ stream: String(stream), end: Number(end) }));
}

/** Runs `npm run journal` with these arguments; fails unless it ends with 0. */
async function journalCommand(...args: readonly string[]): Promise<void> {
  const { code, output } = await runJournalCommand(args);
  assert.equal(code, 0, `${args.join(' ')}\n${output}`);
}

testNode(
  'the pending increments of three shards are counted by one, by two and by four',
  { FLUSH_INTERVAL_MS: NEVER_MS, JOURNAL_KEEP_SECONDS: '0' },
  async ({ node, databaseUrl }) => {
    const load = node.load();
    for (const shards of ['3', '1', '2']) {
      const server = await node.start({ SHARDS: shards });
      await load.acknowledgements(300);
      await kill(server);
    }
    const server = await node.start({ SHARDS: '4', FLUSH_INTERVAL_MS: '50' });
    await load.acknowledgements(300);
    await node.finish(server);
    const next = await node.start({ SHARDS: '1', FLUSH_INTERVAL_MS: '50' });
    await eventually('finished streams are deleted', async () => (await streamsOf(node.dataDir)).length === 1);
    const text = 'select stream from journal_checkpoints where retired_at is not null';
    assert.equal((await rowsOf(databaseUrl, text)).length, 3);
    await node.finish(next);
  },
);

/** Kills a node that counts, and returns one on a copy of its data directory. */
async function copyAfterKill({ node, directory, makeNode }: NodeScene): Promise<CountedNode> {
  const first = await node.start();
  const load = node.load();
  await load.acknowledgements(300);
  await load.stop();
  await kill(first);
  const dataDir = path.join(directory, 'copy');
  await copyDirectory(node.dataDir, dataDir);
  return makeNode({ dataDir });
}

testNode(
  'of a data directory and its copy the later start continues, the other stops with an error, and nothing counts twice',
  { FLUSH_INTERVAL_MS: NEVER_MS },
  async (scene) => {
    const { node } = scene;
    const copy = await copyAfterKill(scene);
    const original = await node.start();
    // Without reads: neither node sees what the other has not flushed.
    const lateLoad = node.load(4, 'original', 0);
    await lateLoad.acknowledgements(100);
    const copied = await copy.start({ FLUSH_INTERVAL_MS: '50' });
    await lateLoad.acknowledgements(20);
    // The original detects the copy when it flushes.
    await send(node.url, '/flush', { method: 'POST' }).catch(() => undefined);
    const { code } = await original.ended;
    assert.ok(code !== null && code > 0, original.output);
    assert.match(
      original.output,
      /Journal stream \S+ no longer belongs to this process: the shard had epoch \d+ and LSN \d+, the row has epoch \d+ and LSN \d+\. .*This process ends/,
    );
    await lateLoad.stop();
    const copyLoad = copy.load(4, 'copy', 0);
    await copyLoad.acknowledgements(100);
    await copyLoad.stop();
    await copy.flush();
    // Increments that the original took after the copy stay in its journal, and count under a stream of their own.
    for (const { stream, end } of recoveredStreams(copied)) {
      await journalCommand('rebind', '--data-dir', node.dataDir, '--stream', stream, '--above', String(end));
    }
    await node.finish(await node.start(), COPIED);
    await copy.finish(copied, COPIED);
  },
);

/** Starts a server that must refuse to start, and runs the command that its error names. */
async function rebindAsTold(node: CountedNode): Promise<void> {
  const refused = await node.refusedStart();
  assert.equal(refused.output.includes('"msg":"Ready"'), false);
  const said =
    /Another copy of this data directory has owned stream (\S+) since (\S+) did, and LSN \d+ to \d+ are here only: `npm run journal -- rebind (--stream \S+ --above \d+ --data-dir \S+)`/;
  const [, stream = '', where = '', told = ''] = said.exec(refused.output) ?? [];
  assert.equal(where, path.join(node.dataDir, 'journal', stream), refused.output);
  assert.match(refused.output, /"code":"journal-copied"/);
  await journalCommand('rebind', ...told.split(' '));
}

for (const fencedFirst of ['original', 'copy'] as const) {
  testNode(
    `the ${fencedFirst} refuses a new start after it was fenced, and after a rebind both are counted once`,
    ONE_SHARD,
    async (scene) => {
      const { node } = scene;
      const copy = await copyAfterKill(scene);
      const [fenced, owner] = fencedFirst === 'original' ? [node, copy] : [copy, node];
      const old = await fenced.start();
      // Without reads: neither node sees what the other has not flushed.
      const lateLoad = fenced.load(4, 'fenced', 0);
      await lateLoad.acknowledgements(100);
      const server = await owner.start();
      const ownerLoad = owner.load(4, 'owner', 0);
      // More than the other, so that its LSNs are among those that the owner flushes.
      await ownerLoad.acknowledgements(300);
      await lateLoad.acknowledgements(20);
      await send(fenced.url, '/flush', { method: 'POST' }).catch(() => undefined);
      assert.notEqual((await old.ended).code, 0);
      await lateLoad.stop();
      // First while the owner has unflushed records, then when its checkpoint has passed the LSNs here.
      await fenced.refusedStart();
      await ownerLoad.stop();
      await owner.flush();
      await rebindAsTold(fenced);
      await fenced.finish(await fenced.start(), COPIED);
      await owner.finish(server, COPIED);
    },
  );
}

testNode(
  'a fenced directory without records of its own takes the stream back, and then the other one refuses',
  ONE_SHARD,
  async (scene) => {
    const { node } = scene;
    const copy = await copyAfterKill(scene);
    const copied = await copy.start();
    const copyLoad = copy.load(4, 'copy', 0);
    await copyLoad.acknowledgements(100);
    const second = await node.start();
    assert.match(
      second.output,
      /The journal is an older state \(a restored volume or a copy\) of a stream that continued elsewhere/,
    );
    await send(copy.url, '/flush', { method: 'POST' }).catch(() => undefined);
    assert.notEqual((await copied.ended).code, 0);
    await copyLoad.stop();
    await node.flush();
    await rebindAsTold(copy);
    await copy.finish(await copy.start(), COPIED);
    await node.finish(second, COPIED);
  },
);

testNode(
  'a restored older copy of the journal is reported with both numbers, and later increments are counted',
  { FLUSH_INTERVAL_MS: '50', JOURNAL_KEEP_SECONDS: '0' },
  async ({ node, directory }) => {
    const load = node.load();
    const first = await node.start();
    await load.acknowledgements(300);
    await kill(first);
    const backup = path.join(directory, 'journal');
    await copyDirectory(path.join(node.dataDir, 'journal'), backup);
    const second = await node.start();
    await load.acknowledgements(300);
    await load.stop();
    await node.finish(second);
    await copyDirectory(backup, path.join(node.dataDir, 'journal'));
    const third = await node.start();
    assert.match(third.output, /"beyondEnd":\{"checkpoint":\d+,"journalEnd":\d+\}/);
    await node.load().acknowledgements(300);
    await kill(third);
    await node.finish(await node.start());
  },
);

const BACK_UP = `
  begin isolation level repeatable read;
  create table checkpoints_then as table journal_checkpoints;
  create table counters_then as table counters;
  create table tokens_then as table idempotency_keys;
  create table claims_then as table journal_claims;
  commit`;
/** Puts the database into the state of a restored backup, or of a standby without the last commits. */
const GO_BACK = `
  begin;
  lock table journal_checkpoints in exclusive mode;
  delete from journal_checkpoints; insert into journal_checkpoints table checkpoints_then;
  delete from counters; insert into counters table counters_then;
  delete from idempotency_keys; insert into idempotency_keys table tokens_then;
  delete from journal_claims; insert into journal_claims table claims_then;
  commit`;

/** Small segments that are deleted as soon as they are committed. */
const quickPruning = {
  FLUSH_INTERVAL_MS: '30',
  JOURNAL_KEEP_SECONDS: '0',
  MAX_BODY_BYTES: '1024',
  JOURNAL_MAX_BYTES: '262144',
};

/** Waits until the present segments are deleted. */
async function segmentsDeleted(dataDir: string): Promise<void> {
  const oldest = await segmentsOf(dataDir);
  await eventually('every segment of that time is deleted', async () => {
    const now = new Set(await segmentsOf(dataDir));
    return oldest.every((segment) => !now.has(segment));
  });
}

testNode(
  'with an older database under a pruned journal the server refuses to start until an operator accepts the loss',
  quickPruning,
  async ({ node, databaseUrl }) => {
    const load = node.load();
    const first = await node.start();
    await load.acknowledgements(50);
    await runStatements(databaseUrl, BACK_UP);
    await segmentsDeleted(node.dataDir);
    await load.stop();
    await node.finish(first);
    await runStatements(databaseUrl, GO_BACK);
    let commands = new Set<string>();
    for (let starts = 0; starts < 2; starts += 1) {
      const refused = await node.refusedStart();
      const sentences = refused.output.match(/^summing-counters: .*$/gm) ?? [];
      // One for each of the two shards: one start reports everything to the operator.
      assert.equal(new Set(sentences).size, 2, refused.output);
      assert.match(refused.output, /no longer holds LSN .*Was the database restored\? .*`npm run journal -- accept /);
      commands = new Set(refused.output.match(/(?<=`npm run journal -- )accept [^`]*(?=`)/g));
      assert.equal(refused.output.includes('"msg":"Ready"'), false);
    }
    assert.equal(commands.size, 2);
    for (const command of commands) await journalCommand(...command.split(' '));
    const server = await node.start();
    assert.equal((await increment(node.url, { 'after the loss': 3 })).status, 202);
    await node.flush();
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.equal((await readCountedSums(databaseUrl)).sums.get('after the loss'), 3n);
  },
);

for (const how of ['while the server runs', 'between two runs of the server'] as const) {
  testNode(
    `commits that a failover takes back, ${how}, are repeated from the journal`,
    KEPT,
    async ({ node, databaseUrl }) => {
      const load = node.load();
      let server = await node.start();
      await load.acknowledgements(200);
      await runStatements(databaseUrl, BACK_UP);
      await load.acknowledgements(500);
      if (how === 'while the server runs') {
        await runStatements(databaseUrl, GO_BACK);
      } else {
        await kill(server);
        await runStatements(databaseUrl, GO_BACK);
        server = await node.start();
      }
      // A read between the two states of the database sees the older one.
      node.history.forgetReads();
      await load.acknowledgements(200);
      await node.finish(server);
    },
  );
}

testNode(
  'a failover that takes back commits that the journal no longer holds stops the server with the range',
  quickPruning,
  async ({ node, databaseUrl }) => {
    const load = node.load();
    const server = await node.start();
    await load.acknowledgements(50);
    await runStatements(databaseUrl, BACK_UP);
    await segmentsDeleted(node.dataDir);
    await runStatements(databaseUrl, GO_BACK);
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /The database has this stream up to LSN \d+, but \S+ no longer holds LSN \d+ to \d+/);
  },
);

testNode(
  'with another database in DATABASE_URL the server refuses to start in one sentence, and continues with the right one',
  { FLUSH_INTERVAL_MS: NEVER_MS },
  async ({ node }) => {
    const other = await createTestDatabase();
    try {
      const load = node.load();
      const first = await node.start();
      await load.acknowledgements(100);
      await kill(first);
      const refused = await node.refusedStart({ DATABASE_URL: other.url });
      assert.match(refused.output, /summing-counters: .*belongs to the database \S+, but the database in use is \S+/);
      assert.deepEqual(await rowsOf(other.url, 'select 1 from counters'), []);
      const server = await node.start();
      await load.acknowledgements(50);
      await node.finish(server);
    } finally {
      await other.drop();
    }
  },
);

testNode(
  'commits that a failover takes back during an outage are repeated, and the node is ready again afterwards',
  KEPT,
  async ({ node, databaseUrl, proxy }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(200);
    await runStatements(databaseUrl, BACK_UP);
    await load.acknowledgements(200);
    await node.flush();
    await proxy.refuse();
    await server.waitFor('"msg":"PostgreSQL unavailable');
    await runStatements(databaseUrl, GO_BACK);
    await proxy.accept();
    await server.waitFor('"code":"journal-fenced"');
    await eventually('ready', async () => (await send(node.url, '/readyz')).body === '{"status":"ok"}');
    // A read between the two states of the database sees the older one.
    node.history.forgetReads();
    await load.acknowledgements(200);
    await node.finish(server);
  },
);
