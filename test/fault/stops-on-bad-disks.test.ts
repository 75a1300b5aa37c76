/**
 * A stop while the disk refuses the journal and the database is healthy: what can be flushed is flushed, the rest stays in
 * the journal, and nobody waits for the deadline.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment } from '../support/fault-injection.js';
import { flushAll, increment, send } from '../support/http.js';
import { assertCreated } from '../support/problem.js';
import { temporaryDirectory, type TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';

const CLEAN = { code: 0, signal: null };
/** Far above what a stop may take here. */
const DEADLINE_MS = 60_000;
const STOP_MS_MAX = 15_000;
const env = { SHARDS: '1', FLUSH_INTERVAL_MS: '3600000', SHUTDOWN_TIMEOUT_MS: String(DEADLINE_MS) };

interface Scene {
  readonly node: CountedNode;
  readonly server: TestServer;
  readonly databaseUrl: string;
  /** A file system of 4 MiB, on which the data directory is. */
  readonly disk: string;
}

/** A server on a small file system, with `committed` = 1 flushed and `pending` = 2 in the journal, at LSN 2. */
async function withSmallDisk(
  t: TestContext,
  label: string,
  settings: Readonly<Record<string, string>>,
  use: (scene: Scene) => Promise<void>,
): Promise<void> {
  const disk = await temporaryDirectory();
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk]).status !== 0) {
    rmSync(disk, { recursive: true });
    // Mounting needs root. Without a file system of its own the test would fill the disk that everything else uses.
    t.skip('only who may mount can fill a disk, or make it read-only, and leave the others alone');
    return;
  }
  const database = await createTestDatabase();
  const node = await CountedNode.make(label, { databaseUrl: database.url, env, dataDir: path.join(disk, 'data') });
  try {
    const server = await node.start(settings);
    assertCreated(await increment(node.url, { committed: 1 }));
    await flushAll(node.url);
    assertCreated(await increment(node.url, { pending: 2 }));
    await use({ node, server, databaseUrl: database.url, disk });
  } finally {
    // Below it a test may have mounted something; the server still runs where the test has failed.
    for (const below of [path.join(node.dataDir, 'journal'), node.dataDir]) spawnSync('umount', ['--lazy', below]);
    await node.dispose();
    spawnSync('umount', [disk]);
    rmSync(disk, { recursive: true, force: true });
    await database.drop();
  }
}

/** Stops the server; it must end with 0, and soon. Returns the fields of the line about what stays in the journal. */
async function stopSoon(server: TestServer): Promise<Record<string, unknown> | undefined> {
  const stoppedAt = performance.now();
  assert.deepEqual(await server.stop(), CLEAN, server.output);
  assert.ok(performance.now() - stoppedAt < STOP_MS_MAX, 'the stop does not wait for the deadline');
  return server.log.find(({ msg }) => String(msg).includes('stay in the journal for the next start'));
}

/** Lets the shard's thread end as after a failover: the row of its stream has an earlier epoch. */
async function failOver({ node, server, databaseUrl }: Scene): Promise<void> {
  const connection = await connectTo(databaseUrl);
  await connection.query({ text: 'update journal_checkpoints set epoch = epoch - 1' });
  await connection.close();
  await send(node.url, '/flush', { method: 'POST' });
  await server.waitFor('Journal unavailable; retrying the start of the shard');
}

/** The next start counts what stayed. */
async function finish({ node, databaseUrl }: Scene): Promise<void> {
  await stopSoon(await node.start());
  const sums = new Map([
    ['committed', 1n],
    ['pending', 2n],
  ]);
  assert.deepEqual(await committedSums(databaseUrl), sums);
}

function fill(disk: string): void {
  try {
    writeFileSync(path.join(disk, 'ballast'), Buffer.alloc(8 * 1024 * 1024));
  } catch {
    // As full as possible.
  }
}

test('a stop while a shard cannot start on a read-only disk ends with 0 and names the LSNs that stay', async (t) => {
  await withSmallDisk(t, 'read-only stop', {}, async (scene) => {
    const journal = path.join(scene.node.dataDir, 'journal');
    assert.equal(spawnSync('mount', ['--bind', journal, journal]).status, 0);
    assert.equal(spawnSync('mount', ['-o', 'remount,bind,ro', journal]).status, 0);
    await failOver(scene);
    const left = await stopSoon(scene.server);
    const [stream] = readdirSync(journal).filter((name) => name.length === 36);
    assert.deepEqual(left?.['ranges'], [{ stream, afterLsn: 1, throughLsn: 2 }]);
    assert.equal(left['pending'], 1);
    assert.equal(left['flushed'], 1);
    assert.equal(spawnSync('umount', [journal]).status, 0);
    await finish(scene);
  });
});

test('a stop while a shard cannot start on a full disk without reserve ends with 0', async (t) => {
  await withSmallDisk(t, 'full stop', {}, async (scene) => {
    const reserve = path.join(scene.node.dataDir, 'journal', 'reserve-0');
    // Where it is missing, the shard writes it as long as there is room.
    await eventually('the reserve is gone and the disk full', async () => {
      rmSync(reserve, { force: true });
      fill(scene.disk);
      return !readdirSync(path.dirname(reserve)).includes('reserve-0');
    });
    await failOver(scene);
    const left = await stopSoon(scene.server);
    assert.equal(left?.['pending'], 1);
    rmSync(path.join(scene.disk, 'ballast'));
    await finish(scene);
  });
});

for (const [what, disk] of [
  ['full', (scene: Scene) => fill(scene.disk)],
  [
    'read-only',
    (scene: Scene) => {
      const { dataDir } = scene.node;
      assert.equal(spawnSync('mount', ['--bind', dataDir, dataDir]).status, 0);
      assert.equal(spawnSync('mount', ['-o', 'remount,bind,ro', dataDir]).status, 0);
    },
  ],
] as const) {
  test(`a stop on a ${what} disk flushes everything that is pending and ends with 0`, async (t) => {
    await withSmallDisk(t, `${what} disk`, {}, async (scene) => {
      disk(scene);
      assert.equal(await stopSoon(scene.server), undefined, scene.server.output);
      assert.match(scene.server.output, /Everything that was acknowledged is committed/);
      spawnSync('umount', [scene.node.dataDir]);
      assert.equal((await committedSums(scene.databaseUrl)).get('pending'), 2n);
    });
  });
}

for (const journalSync of ['always', 'everysec']) {
  test(`a stop while no sync of the journal succeeds ends with 0 (JOURNAL_SYNC=${journalSync})`, async (t) => {
    const directory = await temporaryDirectory();
    const armedBy = path.join(directory, 'armed');
    const fault = faultEnvironment({ step: 'sync', at: 1, action: 'fail-call', errno: 'EIO', armedBy });
    await withSmallDisk(t, 'no sync', { ...fault, JOURNAL_SYNC: journalSync }, async (scene) => {
      writeFileSync(armedBy, '');
      // Answered outcome-unknown with `always`; with `everysec` 202, as far as one second of risk goes.
      await increment(scene.node.url, { unsynced: 1 });
      await stopSoon(scene.server);
      rmSync(armedBy);
      const next = await scene.node.start();
      await stopSoon(next);
      assert.equal((await committedSums(scene.databaseUrl)).get('pending'), 2n);
    });
    rmSync(directory, { recursive: true });
  });
}
