/**
 * The peers as contenders: what a user would build or choose instead. They are in `bench/peers`, with packages of their
 * own, and start the databases that they need. PostgreSQL is the one that the product embeds, with the same settings.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres, type DatabaseLogger } from '#product/db/embedded/embedded-postgres.js';
import typia from 'typia';
import type { Contender, ContenderCost, RunningContender } from './contender.js';
import { ownedDirectory, removeOwned, startOwned } from '../processes/owned-process.js';
import { cpuTime, mainThreadMs } from '../processes/process-cost.js';
import { projectRoot } from '../processes/project-paths.js';

/** The database of a peer: how the peer reaches it, and its process. */
interface PeerDatabase {
  readonly env: Readonly<Record<string, string>>;
  pid(): number;
  stop(): Promise<void>;
}

interface Total {
  readonly sum: string;
  readonly keys: string;
}

const folder = join(projectRoot, 'bench', 'peers');
const silent: DatabaseLogger = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** All peers. */
export const peers: readonly Contender[] = [
  peer('fastify-pg', 'fastify-pg.js', startPostgres, 'one upsert a request; 202 after the commit'),
  peer(
    'fastify-redis-always',
    'fastify-redis.js',
    () => startRedis('always'),
    'INCRBY, synced before 202; the sums are in Redis, in no SQL table',
  ),
  peer(
    'fastify-redis-everysec',
    'fastify-redis.js',
    () => startRedis('everysec'),
    'INCRBY; a crash of the machine loses up to a second, or two',
  ),
  peer(
    'fastify-map',
    'fastify-map.js',
    startPostgres,
    'a map, upserted every second; not crash safe: a crash of the process loses what was acknowledged since',
  ),
];

/** What must be installed for the peers, in one line; undefined if nothing is missing. */
export function missingForPeers(): string | undefined {
  const missing: string[] = [];
  if (!existsSync(join(folder, 'node_modules', 'fastify'))) missing.push('npm ci --prefix bench/peers');
  if (spawnSync('redis-server', ['--version'], { stdio: 'ignore' }).error !== undefined) {
    missing.push('apt-get install redis-server (package redis-server on Debian and Ubuntu)');
  }
  return missing.length === 0 ? undefined : `The peers need: ${missing.join('; ')}.`;
}

function peer(name: string, file: string, startDatabase: () => Promise<PeerDatabase>, note: string): Contender {
  return { name, note, start: () => startPeer(name, file, startDatabase) };
}

async function startPeer(
  name: string,
  file: string,
  startDatabase: () => Promise<PeerDatabase>,
): Promise<RunningContender> {
  const database = await startDatabase();
  try {
    const server = await startOwned({
      name,
      command: process.execPath,
      args: [join(folder, file)],
      env: { NODE_ENV: 'production', ...database.env },
      ready: /^Listening on .*\n/m,
    });
    const address = /^Listening on (\S+)/m.exec(server.output)?.[1] ?? '';
    return {
      name,
      url: `${address}/increment`,
      pid: server.pid,
      build: undefined,
      cost: (): ContenderCost => {
        const { ownMs, descendantsMs } = cpuTime(database.pid());
        return {
          serverMs: cpuTime(server.pid).ownMs,
          mainThreadMs: mainThreadMs(server.pid),
          databaseMs: ownMs + descendantsMs,
        };
      },
      async settle() {
        const answer = await fetch(`${address}/total`);
        if (!answer.ok) throw new Error(`${name}: GET /total answered ${answer.status}`);
        const { sum, keys } = typia.assert<Total>(await answer.json());
        return { sum: BigInt(sum), keys: Number(keys) };
      },
      async stop() {
        await server.stop();
        await database.stop();
      },
    };
  } catch (error) {
    await database.stop();
    throw error;
  }
}

async function startPostgres(): Promise<PeerDatabase> {
  const dataDir = await ownedDirectory();
  // Its process ends with this one, however this one ends.
  const postgres = await startEmbeddedPostgres({ dataDir, logger: silent, maxConnections: 20 });
  return {
    env: { DATABASE_URL: postgres.url },
    pid: () => postgres.pid,
    async stop() {
      await postgres.stop();
      await removeOwned(dataDir);
    },
  };
}

async function startRedis(sync: 'always' | 'everysec'): Promise<PeerDatabase> {
  const dataDir = await ownedDirectory();
  const socket = join(dataDir, 'redis.sock');
  const redis = await startOwned({
    name: `redis-server (${sync})`,
    command: 'redis-server',
    args: [
      ...['--port', '0', '--unixsocket', socket, '--dir', dataDir, '--save', ''],
      ...['--appendonly', 'yes', '--appendfsync', sync],
    ],
    ready: /Ready to accept connections|ready to accept connections/,
  });
  return {
    env: { REDIS_SOCKET: socket },
    pid: () => redis.pid,
    async stop() {
      await redis.stop();
      await removeOwned(dataDir);
    },
  };
}
