/**
 * The product as a contender: the process that `npm start` starts, with its embedded PostgreSQL, on a free port.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { EventReader } from '../../test/support/event-reader.js';
import { send } from '../../test/support/http.js';
import type { Committed, Contender, RunningContender } from './contender.js';
import { ownedDirectory, removeOwned, startOwned } from '../processes/owned-process.js';
import { cpuTime, mainThreadMs } from '../processes/process-cost.js';
import { projectRoot, serverMain } from '../processes/project-paths.js';

const SCRAPE_MS = 1_000;

/** The journals by name, and the environment that chooses them. */
export const journals = {
  memory: { JOURNAL: 'memory' },
  'file-always': { JOURNAL: 'file', JOURNAL_SYNC: 'always' },
  'file-everysec': { JOURNAL: 'file', JOURNAL_SYNC: 'everysec' },
} as const satisfies Record<string, Readonly<Record<string, string>>>;

/** The name of a journal. */
export type JournalName = keyof typeof journals;

/** The names of all journals. */
// Object.keys of the table above, which has no other members.
export const journalNames = Object.keys(journals) as readonly JournalName[];

/** The server with a journal. `env` overrides the defaults. */
export function ourServer(journal: JournalName, env: Readonly<Record<string, string>> = {}): Contender {
  return { name: journal, start: () => startOurServer(journal, journal, env) };
}

/** The server without idempotency keys, and with a new one on each request. */
export function idempotent(journal: JournalName): Contender {
  return {
    name: `${journal}, idempotent`,
    idempotent: true,
    counterpart: journal,
    start: () => startOurServer(`${journal}, idempotent`, journal, {}),
  };
}

/** The server with two open dashboards and a scrape each second. */
export function watched(journal: JournalName): Contender {
  const name = `${journal}, watched`;
  return { name, counterpart: journal, start: async () => watch(await startOurServer(name, journal, {})) };
}

async function watch(running: RunningContender): Promise<RunningContender> {
  const dashboards = await Promise.all([1, 2].map(() => EventReader.open(running.url, '/dashboard/events')));
  const scraping = setInterval(() => void send(running.url, '/metrics'), SCRAPE_MS);
  return {
    ...running,
    async stop() {
      clearInterval(scraping);
      for (const dashboard of dashboards) dashboard.close();
      await running.stop();
    },
  };
}

/** The floor, see floor.ts. */
export const floor: Contender = { name: 'floor', start: startFloor };

async function startFloor(): Promise<RunningContender> {
  const server = await startOwned({
    name: 'floor',
    command: process.execPath,
    args: [join(projectRoot, 'dist-test', 'bench', 'peers', 'floor.js')],
    ready: /^Listening on .*\n/m,
  });
  return {
    name: 'floor',
    url: `${firstMatch(server.output, /Listening on (\S+)/)}/increment`,
    pid: server.pid,
    build: firstMatch(server.output, /^(.*)\n/),
    cost: () => ({ serverMs: cpuTime(server.pid).ownMs, mainThreadMs: mainThreadMs(server.pid), databaseMs: 0 }),
    settle: () => Promise.resolve(undefined),
    stop: () => server.stop(),
  };
}

async function startOurServer(
  name: string,
  journal: JournalName,
  env: Readonly<Record<string, string>>,
): Promise<RunningContender> {
  const dataDir = await ownedDirectory();
  const server = await startOwned({
    name,
    command: process.execPath,
    args: [serverMain],
    // An empty value means unset: the environment of the benchmark must not choose another database.
    env: { DATABASE_URL: '', ...journals[journal], ...env, PORT: '0', DATA_DIR: dataDir, LOG_LEVEL: 'info' },
    ready: /"msg":"Ready"/,
  });
  const address = firstMatch(server.output, /"msg":"Listening on ([^"]+)"/);
  const database = await connectToEmbedded(dataDir);
  return {
    name,
    url: `${address}/increment`,
    pid: server.pid,
    build: /uWebSockets\.js [^"]*/.exec(server.output)?.[0],
    cost: () => {
      const { ownMs, descendantsMs } = cpuTime(server.pid);
      return { serverMs: ownMs, mainThreadMs: mainThreadMs(server.pid), databaseMs: descendantsMs };
    },
    async settle() {
      const answer = await fetch(`${address}/flush`, { method: 'POST' });
      if (answer.status !== 200)
        throw new Error(
          `${name}: POST /flush answered ${answer.status} ${await answer.text()}\n${server.output.slice(-2000)}`,
        );
      return committedCounters(database);
    },
    async committedIdempotencyKeys() {
      const { rows } = await database.query<{ idempotencyKeys: string }>(
        'select count(*)::text as "idempotencyKeys" from idempotency_keys',
      );
      return BigInt(rows[0]?.idempotencyKeys ?? 0);
    },
    async stop() {
      await database.end();
      await server.stop();
      await removeOwned(dataDir);
    },
  };
}

/** A connection of the benchmark's own, to read what is committed. */
async function connectToEmbedded(dataDir: string): Promise<pg.Client> {
  const password = (await readFile(join(dataDir, 'postgres-password'), 'utf8')).trim();
  // The fourth line of the file is the port.
  const port = (await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3];
  const client = new pg.Client({
    host: '127.0.0.1',
    port: Number(port),
    user: 'postgres',
    password,
    database: 'postgres',
  });
  // If the server is killed, the next query reports it.
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

async function committedCounters(database: pg.Client): Promise<Committed> {
  const { rows } = await database.query<{ sum: string; keys: string }>(
    'select coalesce(sum(sum), 0)::text as sum, count(*)::text as keys from counters',
  );
  return { sum: BigInt(rows[0]?.sum ?? 0), keys: Number(rows[0]?.keys) };
}

function firstMatch(text: string, pattern: RegExp): string {
  const found = pattern.exec(text)?.[1];
  if (found === undefined) throw new Error(`no ${String(pattern)} in:\n${text}`);
  return found;
}
