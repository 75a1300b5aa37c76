/**
 * `npm run bench:stops -- --runs 5`: how long each kind of stop takes, from the signal to the end of the process, as a
 * table. Mounting small and read-only file systems takes root; without it those kinds are left out.
 */
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:http';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { connectTo, runStatements } from '../../test/support/database-connection.js';
import { increment, send } from '../../test/support/http.js';
import { OutagePostgres } from '../../test/support/outage-postgres.js';
import { spawnServer, temporaryDirectory, type TestServer } from '../../test/support/server.js';

interface Scene {
  readonly server: TestServer;
  readonly postgres: OutagePostgres;
  /** A file system of 16 MiB, where the data directory is. */
  readonly disk: string;
  readonly dataDir: string;
}

/** One kind of stop: brings the server there. The signal comes when it has settled. */
interface Kind {
  readonly name: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly arrange?: (scene: Scene) => Promise<void>;
  /** The server is stopped before it is ready, without a database. */
  readonly duringStart?: true;
  /** The time is that of a second signal. */
  readonly second?: true;
  readonly mounts?: true;
}

const NEVER = { FLUSH_INTERVAL_MS: '3600000' };

const kinds: readonly Kind[] = [
  { name: 'idle' },
  { name: 'under load of 32 connections', arrange: startLoad },
  { name: 'database refuses connections, 1 increment pending', arrange: (scene) => withoutDatabase(scene, 'refused') },
  {
    name: 'database neither answers nor refuses, 1 increment pending',
    arrange: (scene) => withoutDatabase(scene, 'held'),
  },
  { name: 'full disk, 1 increment pending', env: NEVER, mounts: true, arrange: (scene) => onBadDisk(scene, fill) },
  {
    name: 'read-only disk, 1 increment pending',
    env: NEVER,
    mounts: true,
    arrange: (scene) => onBadDisk(scene, readOnly),
  },
  { name: 'full disk, a shard cannot start', env: NEVER, mounts: true, arrange: (scene) => withoutShard(scene, fill) },
  {
    name: 'read-only disk, a shard cannot start',
    env: NEVER,
    mounts: true,
    arrange: (scene) => withoutShard(scene, readOnly),
  },
  { name: 'during a start that waits for its database', duringStart: true },
  { name: 'second signal, within DRAIN_DELAY_MS', env: { DRAIN_DELAY_MS: '20000' }, second: true },
];

const { values } = parseArgs({ options: { runs: { type: 'string', default: '5' } } });
const runs = Number(values.runs);
const postgres = await OutagePostgres.prepare();
await postgres.start();
console.log('| stop | runs | median | longest | exit code |\n| --- | --- | --- | --- | --- |');
try {
  for (const kind of kinds) await measure(kind);
} finally {
  await postgres.dispose();
}

async function measure(kind: Kind): Promise<void> {
  const times: number[] = [];
  const codes = new Set<number | null>();
  for (let run = 0; run < runs; run += 1) {
    const disk = await temporaryDirectory();
    const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', disk]).status === 0;
    try {
      if (kind.mounts === true && !isMounted) {
        console.log(`| ${kind.name} | 0: mounting is not allowed | | | |`);
        return;
      }
      const { ms, code } = await stopOnce(kind, disk);
      times.push(ms);
      codes.add(code);
    } finally {
      spawnSync('umount', [path.join(disk, 'data', 'journal')]);
      if (isMounted) spawnSync('umount', [disk]);
      rmSync(disk, { recursive: true, force: true });
    }
  }
  times.sort((a, b) => a - b);
  const seconds = (ms: number | undefined): string => `${((ms ?? 0) / 1000).toFixed(2)} s`;
  const median = seconds(times[Math.floor(times.length / 2)]);
  console.log(`| ${kind.name} | ${runs} | ${median} | ${seconds(times.at(-1))} | ${[...codes].join(', ')} |`);
}

async function stopOnce(kind: Kind, disk: string): Promise<{ readonly ms: number; readonly code: number | null }> {
  const dataDir = path.join(disk, 'data');
  const url = kind.duringStart === true ? 'postgres://u:p@127.0.0.1:1/d' : postgres.url;
  const server = await spawnServer({ dataDir, env: { DATABASE_URL: url, SHARDS: '2', ...kind.env } });
  try {
    await server.waitFor(kind.duringStart === true ? '"msg":"Listening on ' : '"msg":"Ready"');
    await kind.arrange?.({ server, postgres, disk, dataDir });
    let signalledAt = performance.now();
    server.kill('SIGTERM');
    if (kind.second === true) {
      // A second signal within a second counts as the first one.
      await new Promise((resolve) => setTimeout(resolve, 1200));
      signalledAt = performance.now();
      server.kill('SIGTERM');
    }
    const { code } = await server.ended;
    return { ms: performance.now() - signalledAt, code };
  } finally {
    if (server.isRunning) server.kill('SIGKILL');
    await server.ended;
    postgres.release();
    if (!(await answers())) await postgres.start();
    await runStatements(postgres.url, 'truncate counters, journal_checkpoints, journal_claims').catch(() => undefined);
  }
}

async function answers(): Promise<boolean> {
  try {
    await (await connectTo(postgres.url)).close();
    return true;
  } catch {
    return false;
  }
}

/** Settles once the clients are at work; they end with the server. */
async function startLoad({ server }: Scene): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  let acknowledged = 0;
  const client = async (): Promise<void> => {
    for (;;) {
      const answer = await increment(server.url, { load: 1 }, { agent }).catch(() => undefined);
      if (answer?.status !== 202) {
        agent.destroy();
        return;
      }
      acknowledged += 1;
    }
  };
  for (let clients = 0; clients < 32; clients += 1) void client();
  while (acknowledged < 2000) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function withoutDatabase({ server }: Scene, how: 'refused' | 'held'): Promise<void> {
  if (how === 'refused') await postgres.stop('crash');
  else postgres.hold();
  await increment(server.url, { pending: 1 });
  if (how === 'refused') await server.waitFor('PostgreSQL unavailable');
}

async function onBadDisk(scene: Scene, spoil: (scene: Scene) => void): Promise<void> {
  await increment(scene.server.url, { pending: 1 });
  spoil(scene);
}

/** As after a failover: the row of the stream has an earlier epoch, so the shard must recover. */
async function withoutShard(scene: Scene, spoil: (scene: Scene) => void): Promise<void> {
  await increment(scene.server.url, { pending: 1 });
  spoil(scene);
  await runStatements(postgres.url, 'update journal_checkpoints set epoch = epoch - 1');
  await send(scene.server.url, '/flush', { method: 'POST' });
  await scene.server.waitFor('Journal unavailable; retrying the start of the shard');
}

/** Takes the reserve, too. */
function fill({ disk, dataDir }: Scene): void {
  for (const shard of [0, 1]) rmSync(path.join(dataDir, 'journal', `reserve-${shard}`), { force: true });
  try {
    writeFileSync(path.join(disk, 'ballast'), Buffer.alloc(32 * 1024 * 1024));
  } catch {
    // As full as possible.
  }
}

function readOnly({ dataDir }: Scene): void {
  const journal = path.join(dataDir, 'journal');
  spawnSync('mount', ['--bind', journal, journal]);
  spawnSync('mount', ['-o', 'remount,bind,ro', journal]);
}
