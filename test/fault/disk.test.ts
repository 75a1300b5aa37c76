/**
 * The disk of the journal is full, read-only, or fails a sync while requests arrive.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import type { CountedNode } from '../support/counted-node.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment, type Fault } from '../support/fault-injection.js';
import { problemCode, send } from '../support/http.js';
import { assertProblem } from '../support/problem.js';
import { temporaryDirectory } from '../support/server.js';
import { kill, NEVER_MS, testNode, withNode, type NodeScene } from '../support/node-test.js';

/** Small segments, so that the journal needs new ones all the time. */
const env = {
  FLUSH_INTERVAL_MS: '50',
  JOURNAL_KEEP_SECONDS: '0',
  MAX_BODY_BYTES: '1024',
  JOURNAL_MAX_BYTES: '262144',
};

/** Waits until an increment is refused, and asserts the code `journal-unavailable`. */
async function untilUnavailable(node: CountedNode): Promise<void> {
  await eventually('an increment is refused', async () => {
    const answer = await node.addZero();
    if (answer === undefined || answer.status === 202) return false;
    assertProblem(answer, 'journal-unavailable');
    return true;
  });
}

/** Waits until GET /readyz answers with the status, and with the code if the status is 503. */
async function untilReadiness(url: string, status: number, code?: string): Promise<void> {
  await eventually(`/readyz says ${status}`, async () => {
    const answer = await send(url, '/readyz');
    return answer.status === status && (code === undefined || problemCode(answer) === code);
  });
}

function mount(...args: readonly string[]): boolean {
  return spawnSync('mount', args).status === 0;
}

/** A test of a node whose data directory is on a file system of some MiB, where this process may mount one. */
function testOnDisk(
  name: string,
  mebibytes: number,
  body: (scene: NodeScene, disk: string | undefined, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 240_000 }, async (t) => {
    const tiny = await temporaryDirectory();
    const isMounted = mount('-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', tiny);
    try {
      await withNode(name, env, (scene) => body(scene, isMounted ? tiny : undefined, t), path.join(tiny, 'data'));
    } finally {
      if (isMounted) spawnSync('umount', [tiny]);
      rmSync(tiny, { recursive: true, force: true });
    }
  });
}

testOnDisk(
  'on a full disk increments are 503 and not counted; with space again they are taken',
  2,
  async ({ node, directory }, disk) => {
    // Without permission to mount, the calls themselves return the system's error.
    const ballast = path.join(disk ?? directory, 'ballast');
    const fault: Fault = { step: 'zero-fill', at: 1, action: 'fail-call', errno: 'ENOSPC', armedBy: ballast };
    const server = await node.start(disk === undefined ? faultEnvironment(fault) : {});
    const load = node.load();
    await load.acknowledgements(50);
    fill(ballast);
    await untilUnavailable(node);
    await untilReadiness(node.url, 503, 'journal-unavailable');
    await load.refusals(20);
    await server.waitFor('"msg":"Disk full; refusing increments until it takes them again"');
    rmSync(ballast);
    await untilReadiness(node.url, 200);
    await load.acknowledgements(200);
    await node.finish(server);
  },
);

function fill(ballast: string): void {
  try {
    writeFileSync(ballast, Buffer.alloc(8 * 1024 * 1024));
  } catch {
    // As full as possible.
  }
}

testOnDisk(
  'a server that was killed on a full disk starts, commits its journal, and takes increments in the freed space',
  4,
  async ({ node }, disk, t) => {
    if (disk === undefined) {
      // Mounting needs root. Without a file system of its own the test would fill the disk that everything else uses.
      t.skip('only who may mount can fill a disk and leave the others alone');
      return;
    }
    const NEVER = { FLUSH_INTERVAL_MS: NEVER_MS, JOURNAL_MAX_BYTES: String(1 << 30), SHARDS: '1' };
    const server = await node.start(NEVER);
    const load = node.load();
    await load.acknowledgements(200);
    await eventually('space is reserved', async () => {
      return (await readdir(path.join(node.dataDir, 'journal'))).includes('reserve-0');
    });
    // Most of the way, because load alone would take long.
    fill(path.join(disk, 'ballast'));
    await untilUnavailable(node);
    await kill(server);
    fill(path.join(disk, 'rest'));
    const next = await node.start({ ...NEVER, FLUSH_INTERVAL_MS: '50' });
    await untilReadiness(node.url, 200);
    await load.acknowledgements(100);
    await node.finish(next);
  },
);

testNode(
  'in a read-only directory increments are 503, and are taken when it is writable again',
  env,
  async ({ node, armedBy }) => {
    const fault: Fault = { step: 'publish-segment', at: 1, action: 'fail-call', errno: 'EROFS', armedBy };
    const server = await node.start(faultEnvironment(fault));
    const load = node.load();
    await load.acknowledgements(50);
    const journal = path.join(node.dataDir, 'journal');
    // A read-only mount over the directory covers every name in it, but not open files. Without permission to mount,
    // the calls fail in the same way.
    const isMounted = mount('--bind', journal, journal) && mount('-o', 'remount,bind,ro', journal);
    if (!isMounted) writeFileSync(armedBy, '');
    try {
      await untilUnavailable(node);
      await untilReadiness(node.url, 503, 'journal-unavailable');
      // No more requests from here on.
      await load.stop();
      await server.waitFor('"msg":"The disk refuses the journal; refusing increments until it takes them again"');
    } finally {
      if (isMounted) spawnSync('umount', [journal]);
      rmSync(armedBy, { force: true });
    }
    await untilReadiness(node.url, 200);
    await node.load().acknowledgements(200);
    await node.finish(server);
  },
);

testNode(
  'while one of two shards has no disk space, requests over both are never counted wrongly',
  env,
  async ({ node, armedBy, directory }) => {
    const oneThread = path.join(directory, 'thread');
    const server = await node.start(
      faultEnvironment({ step: 'zero-fill', at: 1, action: 'fail-call', errno: 'ENOSPC', armedBy, oneThread }),
    );
    const load = node.load();
    await load.acknowledgements(50);
    writeFileSync(armedBy, '');
    await load.refusals(20);
    // Requests to both shards: one part is kept, the other refused.
    await eventually('a request is kept in part', async () => node.history.unknown > 5);
    // The other shard continues.
    await load.acknowledgements(20);
    rmSync(armedBy);
    await load.acknowledgements(200);
    assert.equal(server.output.includes('A shard ended'), false, 'nothing was restarted');
    await node.finish(server);
  },
);

for (const [step, what] of [
  ['sync', 'sync'],
  ['append', 'write'],
] as const) {
  testNode(
    `after a failed ${what} of records the answer is outcome-unknown, and the shard continues through recovery`,
    env,
    async ({ node, directory }) => {
      const once = path.join(directory, 'failed');
      const server = await node.start(faultEnvironment({ step, at: 30, action: 'fail-call', errno: 'EIO', once }));
      const load = node.load();
      await server.waitFor('"msg":"A shard ended"');
      await load.acknowledgements(200);
      await eventually('an outcome is unknown', async () => node.history.unknown + load.repeated > 0);
      await node.finish(server);
    },
  );
}

const AT_JOURNAL_MAX = /^JOURNAL_MAX_BYTES \(.+ [KMG]iB\) is reached in a shard; retry after its next flush\.$/;

testNode(
  'at JOURNAL_MAX_BYTES without the database increments are 503 overloaded, and are taken after its return',
  env,
  async ({ node, proxy }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(50);
    await proxy.refuse();
    await load.refusals(50);
    await eventually('an increment is refused', async () => {
      const answer = await node.addZero();
      if (answer === undefined || answer.status === 202) return false;
      assert.match(assertProblem(answer, 'overloaded'), AT_JOURNAL_MAX);
      return true;
    });
    await untilReadiness(node.url, 503, 'overloaded');
    assert.match(assertProblem(await send(node.url, '/readyz'), 'overloaded'), AT_JOURNAL_MAX);
    await proxy.accept();
    await load.acknowledgements(200);
    await node.finish(server);
  },
);
