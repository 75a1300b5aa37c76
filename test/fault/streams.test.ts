/**
 * A data directory, volume or database that differs from what the server left: other shards, a copy, an older state,
 * another database. Nothing is lost silently and nothing is counted twice.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { readCountedSums } from '../support/counted-sums.js';
import { runStatements } from '../support/database-connection.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand } from '../support/journal-command.js';
import { copyDirectory, segmentsOf, streamsOf } from '../support/journal-files.js';
import { temporaryDirectory, type TestServer } from '../support/server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const NEVER_MS = '3600000';
/** What a copy has written beside the owner may be older than what the pruner has waited for. */
const COPIED = { mayPutAside: true };
/** A start that cannot succeed before somebody changes something. */
const REFUSED = { code: 78, signal: null };

interface Scene {
  readonly node: CountedNode;
  readonly databaseUrl: string;
  /** For copies; deleted at the end. */
  readonly directory: string;
}

async function withNode(
  label: string,
  env: Readonly<Record<string, string>>,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const database = await createTestDatabase();
  const directory = await temporaryDirectory();
  const node = await CountedNode.make(label, { databaseUrl: database.url, env });
  try {
    await body({ node, databaseUrl: database.url, directory });
  } finally {
    await node.dispose();
    rmSync(directory, { recursive: true });
    await database.drop();
  }
}

interface CheckpointRow {
  readonly stream: string;
  readonly lsn: string;
  readonly retired: boolean;
}

async function checkpoints(url: string): Promise<readonly CheckpointRow[]> {
  const connection = await connectTo(url);
  try {
    return await connection.query<CheckpointRow & Record<string, unknown>>({
      text: 'select stream::text, lsn::text, retired_at is not null as retired from journal_checkpoints',
    });
  } finally {
    await connection.close();
  }
}

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

test('the pending increments of three shards are counted by one, by two and by four', { timeout: 90_000 }, async () => {
  await withNode(
    'shards',
    { FLUSH_INTERVAL_MS: NEVER_MS, JOURNAL_KEEP_SECONDS: '0' },
    async ({ node, databaseUrl }) => {
      const load = node.load();
      for (const shards of ['3', '1', '2']) {
        const server = await node.start({ SHARDS: shards });
        await load.acknowledgements(300);
        server.kill('SIGKILL');
        await server.ended;
      }
      const server = await node.start({ SHARDS: '4', FLUSH_INTERVAL_MS: '50' });
      await load.acknowledgements(300);
      await node.finish(server);
      const next = await node.start({ SHARDS: '1', FLUSH_INTERVAL_MS: '50' });
      await eventually('finished streams are deleted', async () => (await streamsOf(node.dataDir)).length === 1);
      assert.equal((await checkpoints(databaseUrl)).filter(({ retired }) => retired).length, 3);
      await node.finish(next);
    },
  );
});

test(
  'of a data directory and its copy the later start continues, the other stops with an error, and nothing counts twice',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('copy', { FLUSH_INTERVAL_MS: NEVER_MS }, async ({ node, databaseUrl, directory }) => {
      const first = await node.start();
      const load = node.load();
      await load.acknowledgements(300);
      await load.stop();
      first.kill('SIGKILL');
      await first.ended;
      const dataDir = path.join(directory, 'copy');
      await copyDirectory(node.dataDir, dataDir);
      const copy = await CountedNode.make('copy', { databaseUrl, dataDir, ledger: node.ledger, random: node.random });
      try {
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
      } finally {
        await copy.dispose();
      }
    });
  },
);

/** Starts a server that must refuse to start, and runs the command that its error names. */
async function rebindAsTold(node: CountedNode): Promise<void> {
  const refused = await node.spawn();
  assert.deepEqual(await refused.ended, REFUSED, refused.output);
  assert.equal(refused.output.includes('"msg":"Ready"'), false);
  const said =
    /Another copy of this data directory has owned stream (\S+) since (\S+) did, and LSN \d+ to \d+ are here only: `npm run journal -- rebind (--stream \S+ --above \d+ --data-dir \S+)`/;
  const [, stream = '', where = '', told = ''] = said.exec(refused.output) ?? [];
  assert.equal(where, path.join(node.dataDir, 'journal', stream), refused.output);
  assert.match(refused.output, /"code":"journal-copied"/);
  await journalCommand('rebind', ...told.split(' '));
}

/** Kills a node that counts, copies its data directory, and returns a node on the copy. */
async function copyAfterKill(
  node: CountedNode,
  dataDir: string,
  options: { readonly databaseUrl: string; readonly env: Readonly<Record<string, string>> },
): Promise<CountedNode> {
  const first = await node.start();
  const load = node.load();
  await load.acknowledgements(200);
  await load.stop();
  first.kill('SIGKILL');
  await first.ended;
  await copyDirectory(node.dataDir, dataDir);
  return CountedNode.make('copy', { ...options, dataDir, ledger: node.ledger, random: node.random });
}

for (const fencedFirst of ['original', 'copy'] as const) {
  test(
    `the ${fencedFirst} refuses a new start after it was fenced, and after a rebind both are counted once`,
    { timeout: 90_000 },
    async () => {
      const env = { FLUSH_INTERVAL_MS: NEVER_MS, SHARDS: '1' };
      await withNode('fenced', env, async ({ node, databaseUrl, directory }) => {
        const copy = await copyAfterKill(node, path.join(directory, 'copy'), { databaseUrl, env });
        try {
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
          const refused = await fenced.spawn();
          assert.deepEqual(await refused.ended, REFUSED, refused.output);
          await ownerLoad.stop();
          await owner.flush();
          await rebindAsTold(fenced);
          await fenced.finish(await fenced.start(), COPIED);
          await owner.finish(server, COPIED);
        } finally {
          await copy.dispose();
        }
      });
    },
  );
}

test(
  'a fenced directory without records of its own takes the stream back, and then the other one refuses',
  { timeout: 90_000 },
  async () => {
    const env = { FLUSH_INTERVAL_MS: NEVER_MS, SHARDS: '1' };
    await withNode('no records of its own', env, async ({ node, databaseUrl, directory }) => {
      const copy = await copyAfterKill(node, path.join(directory, 'copy'), { databaseUrl, env });
      try {
        const copied = await copy.start();
        const copyLoad = copy.load(4, 'copy', 0);
        await copyLoad.acknowledgements(100);
        const second = await node.start();
        assert.match(second.output, /The journal is an older state of a stream that went on elsewhere/);
        await send(copy.url, '/flush', { method: 'POST' }).catch(() => undefined);
        assert.notEqual((await copied.ended).code, 0);
        await copyLoad.stop();
        await node.flush();
        await rebindAsTold(copy);
        await copy.finish(await copy.start(), COPIED);
        await node.finish(second, COPIED);
      } finally {
        await copy.dispose();
      }
    });
  },
);

test(
  'a restored older copy of the journal is reported with both numbers, and later increments are counted',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('volume', { FLUSH_INTERVAL_MS: '50', JOURNAL_KEEP_SECONDS: '0' }, async ({ node, directory }) => {
      const load = node.load();
      const first = await node.start();
      await load.acknowledgements(300);
      first.kill('SIGKILL');
      await first.ended;
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
      third.kill('SIGKILL');
      await third.ended;
      await node.finish(await node.start());
    });
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

test(
  'with an older database under a pruned journal the server refuses to start until an operator accepts the loss',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('restored database', quickPruning, async ({ node, databaseUrl }) => {
      const load = node.load();
      const first = await node.start();
      await load.acknowledgements(50);
      await runStatements(databaseUrl, BACK_UP);
      const oldest = await segmentsOf(node.dataDir);
      await eventually('every segment of that time is deleted', async () => {
        const now = new Set(await segmentsOf(node.dataDir));
        return oldest.every((segment) => !now.has(segment));
      });
      await load.stop();
      await node.finish(first);
      await runStatements(databaseUrl, GO_BACK);
      let commands = new Set<string>();
      for (let starts = 0; starts < 2; starts += 1) {
        const refused = await node.spawn();
        assert.deepEqual(await refused.ended, REFUSED, refused.output);
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
      assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
      assert.equal((await readCountedSums(databaseUrl)).sums.get('after the loss'), 3n);
    });
  },
);

for (const how of ['while the server runs', 'between two runs of the server'] as const) {
  test(`commits that a failover takes back, ${how}, are repeated from the journal`, { timeout: 90_000 }, async () => {
    const env = { FLUSH_INTERVAL_MS: '50', JOURNAL_KEEP_SECONDS: '600' };
    await withNode('failover', env, async ({ node, databaseUrl }) => {
      const load = node.load();
      let server = await node.start();
      await load.acknowledgements(200);
      await runStatements(databaseUrl, BACK_UP);
      await load.acknowledgements(500);
      if (how === 'while the server runs') {
        await runStatements(databaseUrl, GO_BACK);
      } else {
        server.kill('SIGKILL');
        await server.ended;
        await runStatements(databaseUrl, GO_BACK);
        server = await node.start();
      }
      // A read between the two states of the database sees the older one.
      load.wrongAnswers.length = 0;
      await load.acknowledgements(200);
      await node.finish(server);
    });
  });
}

test(
  'a failover that takes back commits that the journal no longer holds stops the server with the range',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('gap', quickPruning, async ({ node, databaseUrl }) => {
      const load = node.load();
      const server = await node.start();
      await load.acknowledgements(50);
      await runStatements(databaseUrl, BACK_UP);
      const oldest = await segmentsOf(node.dataDir);
      await eventually('every segment of that time is deleted', async () => {
        const now = new Set(await segmentsOf(node.dataDir));
        return oldest.every((segment) => !now.has(segment));
      });
      await runStatements(databaseUrl, GO_BACK);
      assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
      assert.match(server.output, /The database has this stream up to LSN \d+, but \S+ no longer holds LSN \d+ to \d+/);
    });
  },
);

test(
  'with another database in DATABASE_URL the server refuses to start in one sentence, and continues with the right one',
  {
    timeout: 90_000,
  },
  async () => {
    const other = await createTestDatabase();
    try {
      await withNode('other database', { FLUSH_INTERVAL_MS: NEVER_MS }, async ({ node }) => {
        const load = node.load();
        const first = await node.start();
        await load.acknowledgements(100);
        first.kill('SIGKILL');
        await first.ended;
        const refused = await node.spawn({ DATABASE_URL: other.url });
        assert.deepEqual(await refused.ended, REFUSED, refused.output);
        assert.match(refused.output, /summing-counters: .*belongs to the database \S+, but the database in use is \S+/);
        const connection = await connectTo(other.url);
        const rows = await connection.query({ text: 'select 1 from counters' });
        await connection.close();
        assert.deepEqual(rows, []);
        const server = await node.start();
        await load.acknowledgements(50);
        await node.finish(server);
      });
    } finally {
      await other.drop();
    }
  },
);

test(
  'commits that a failover takes back during an outage are repeated, and the node is ready again afterwards',
  {
    timeout: 90_000,
  },
  async () => {
    const database = await createTestDatabase();
    const proxy = await TcpProxy.start(database.url);
    const node = await CountedNode.make('failover during an outage', {
      databaseUrl: database.url,
      serverDatabaseUrl: proxy.urlOf(database.url),
      env: { FLUSH_INTERVAL_MS: '50', JOURNAL_KEEP_SECONDS: '600' },
    });
    try {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(200);
      await runStatements(database.url, BACK_UP);
      await load.acknowledgements(200);
      await node.flush();
      await proxy.refuse();
      await server.waitFor('"msg":"PostgreSQL unavailable');
      await runStatements(database.url, GO_BACK);
      await proxy.accept();
      await server.waitFor('"code":"journal-fenced"');
      await eventually('ready', async () => (await send(node.url, '/readyz')).body === '{"status":"ok"}');
      // A read between the two states of the database sees the older one.
      load.wrongAnswers.length = 0;
      await load.acknowledgements(200);
      await node.finish(server);
    } finally {
      await node.dispose();
      await proxy.close();
      await database.drop();
    }
  },
);
