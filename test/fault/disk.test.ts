/**
 * The disk of the journal is full, read-only, or fails a sync while requests arrive.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment, type Fault } from '../support/fault-injection.js';
import { increment, problemCode, send } from '../support/http.js';
import { assertProblem } from '../support/problem.js';
import { temporaryDirectory } from '../support/server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

/** Small segments, so that the journal needs new ones all the time. */
const env = {
  FLUSH_INTERVAL_MS: '50',
  JOURNAL_KEEP_SECONDS: '0',
  MAX_BODY_BYTES: '1024',
  JOURNAL_MAX_BYTES: '262144',
};

/** A node with a database and a directory for the files that arm its faults. */
async function withNode(
  label: string,
  body: (node: CountedNode, directory: string) => Promise<void>,
  dataDir?: string,
): Promise<void> {
  const database = await createTestDatabase();
  const directory = await temporaryDirectory();
  const options = { databaseUrl: database.url, env, ...(dataDir === undefined ? {} : { dataDir }) };
  const node = await CountedNode.make(label, options);
  try {
    await body(node, directory);
  } finally {
    await node.dispose();
    rmSync(directory, { recursive: true });
    await database.drop();
  }
}

/** Waits until an increment is refused, and asserts the code `journal-unavailable`. */
async function untilUnavailable(url: string): Promise<void> {
  await eventually('an increment is refused', async () => {
    const answer = await increment(url, { 'mixed/0': 0 });
    if (answer.status === 202) return false;
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

test(
  'on a full disk increments are 503 and not counted; with space again they are taken',
  {
    timeout: 90_000,
  },
  async () => {
    const tiny = await temporaryDirectory();
    const isTiny = mount('-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', tiny);
    try {
      await withNode(
        'full disk',
        async (node, directory) => {
          // Without permission to mount, the calls themselves return the system's error.
          const ballast = path.join(isTiny ? tiny : directory, 'ballast');
          const fault: Fault = { step: 'zero-fill', at: 1, action: 'fail-call', errno: 'ENOSPC', armedBy: ballast };
          const server = await node.start(isTiny ? {} : faultEnvironment(fault));
          const load = node.load();
          await load.acknowledgements(50);
          fill(ballast);
          await untilUnavailable(node.url);
          await untilReadiness(node.url, 503, 'journal-unavailable');
          await load.refusals(20);
          await server.waitFor('"msg":"Disk full; refusing increments until it takes them again"');
          rmSync(ballast);
          await untilReadiness(node.url, 200);
          await load.acknowledgements(200);
          await node.finish(server);
        },
        path.join(tiny, 'data'),
      );
    } finally {
      if (isTiny) spawnSync('umount', [tiny]);
      rmSync(tiny, { recursive: true, force: true });
    }
  },
);

function fill(ballast: string): void {
  try {
    writeFileSync(ballast, Buffer.alloc(8 * 1024 * 1024));
  } catch {
    // As full as possible.
  }
}

test(
  'a server that was killed on a full disk starts, commits its journal, and takes increments in the freed space',
  {
    timeout: 90_000,
  },
  async (t) => {
    const tiny = await temporaryDirectory();
    if (!mount('-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', tiny)) {
      rmSync(tiny, { recursive: true });
      // Mounting needs root. Without a file system of its own the test would fill the disk that everything else uses.
      t.skip('only who may mount can fill a disk and leave the others alone');
      return;
    }
    try {
      await withNode(
        'start on a full disk',
        async (node) => {
          const NEVER = { FLUSH_INTERVAL_MS: '3600000', JOURNAL_MAX_BYTES: String(1 << 30), SHARDS: '1' };
          const server = await node.start(NEVER);
          const load = node.load();
          await load.acknowledgements(200);
          await eventually('space is reserved', async () => {
            return (await readdir(path.join(node.dataDir, 'journal'))).includes('reserve-0');
          });
          // Most of the way, because load alone would take long.
          fill(path.join(tiny, 'ballast'));
          await untilUnavailable(node.url);
          server.kill('SIGKILL');
          await server.ended;
          fill(path.join(tiny, 'rest'));
          const next = await node.start({ ...NEVER, FLUSH_INTERVAL_MS: '50' });
          await untilReadiness(node.url, 200);
          await load.acknowledgements(100);
          await node.finish(next);
        },
        path.join(tiny, 'data'),
      );
    } finally {
      spawnSync('umount', [tiny]);
      rmSync(tiny, { recursive: true, force: true });
    }
  },
);

test(
  'in a read-only directory increments are 503, and are taken when it is writable again',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('read-only', async (node, directory) => {
      const armedBy = path.join(directory, 'read-only');
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
        await untilUnavailable(node.url);
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
    });
  },
);

test(
  'while one of two shards has no disk space, requests over both are never counted wrongly',
  {
    timeout: 90_000,
  },
  async () => {
    await withNode('one shard', async (node, directory) => {
      const armedBy = path.join(directory, 'full');
      const oneThread = path.join(directory, 'thread');
      const server = await node.start(
        faultEnvironment({ step: 'zero-fill', at: 1, action: 'fail-call', errno: 'ENOSPC', armedBy, oneThread }),
      );
      const load = node.load();
      await load.acknowledgements(50);
      writeFileSync(armedBy, '');
      await load.refusals(20);
      // Requests to both shards: one part is kept, the other refused.
      await eventually('a request is kept in part', async () => node.ledger.unknown > 5);
      // The other shard continues.
      await load.acknowledgements(20);
      rmSync(armedBy);
      await load.acknowledgements(200);
      assert.equal(server.output.includes('A shard ended'), false, 'nothing was restarted');
      await node.finish(server);
    });
  },
);

for (const [step, what] of [
  ['sync', 'sync'],
  ['append', 'write'],
] as const) {
  test(
    `after a failed ${what} of records the answer is outcome-unknown, and the shard continues through recovery`,
    {
      timeout: 60_000,
    },
    async () => {
      await withNode(`failed ${what}`, async (node, directory) => {
        const once = path.join(directory, 'failed');
        const server = await node.start(faultEnvironment({ step, at: 30, action: 'fail-call', errno: 'EIO', once }));
        const load = node.load();
        await server.waitFor('"msg":"A shard ended"');
        await load.acknowledgements(200);
        await eventually('an outcome is unknown', async () => node.ledger.unknown + load.repeated > 0);
        await node.finish(server);
      });
    },
  );
}

const AT_JOURNAL_MAX = /^JOURNAL_MAX_BYTES \(.+ [KMG]iB\) is reached in a shard; retry after its next flush\.$/;

test(
  'at JOURNAL_MAX_BYTES without the database increments are 503 overloaded, and are taken after its return',
  {
    timeout: 60_000,
  },
  async () => {
    const database = await createTestDatabase();
    const proxy = await TcpProxy.start(database.url);
    const node = await CountedNode.make('bound', {
      databaseUrl: database.url,
      serverDatabaseUrl: proxy.urlOf(database.url),
      env,
    });
    try {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(50);
      await proxy.refuse();
      await load.refusals(50);
      await eventually('an increment is refused', async () => {
        const answer = await increment(node.url, { 'mixed/0': 0 });
        if (answer.status === 202) return false;
        assert.match(assertProblem(answer, 'overloaded'), AT_JOURNAL_MAX);
        return true;
      });
      await untilReadiness(node.url, 503, 'overloaded');
      assert.match(assertProblem(await send(node.url, '/readyz'), 'overloaded'), AT_JOURNAL_MAX);
      await proxy.accept();
      await load.acknowledgements(200);
      await node.finish(server);
    } finally {
      await node.dispose();
      await proxy.close();
      await database.drop();
    }
  },
);
