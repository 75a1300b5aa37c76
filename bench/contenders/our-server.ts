/**
 * The product as a contender: the process that `npm start` starts, with its embedded PostgreSQL, on a free port.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { EventReader } from '../../test/support/event-reader.js';
import { send } from '../../test/support/http.js';
import type { Committed, Contender, RunningContender } from './contender.js';
import { ownedDirectory, removeOwned, startOwned, type OwnedProcess } from '../processes/owned-process.js';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { startBrokerCluster, type BrokerCluster } from './brokers.js';
import { startBenchNats, type BenchNats } from '../processes/bench-nats.js';
import { cpuTime, mainThreadMs } from '../processes/process-cost.js';
import { projectRoot, serverMain } from '../processes/project-paths.js';

const SCRAPE_MS = 1_000;

/** The journals by name, and the environment that chooses them. */
export const journals = {
  memory: { JOURNAL: 'memory' },
  'file-always': { JOURNAL: 'file', JOURNAL_SYNC: 'always' },
  'file-everysec': { JOURNAL: 'file', JOURNAL_SYNC: 'everysec' },
  postgres: { JOURNAL: 'postgres' },
  'postgres-ingest': { JOURNAL: 'postgres', ROLE: 'ingest' },
  // JOURNAL is that of its broker, or brokers.
  nats: {},
  'nats-ingest': { ROLE: 'ingest' },
  // Brokers that sync each message; NATS 2.10 or later.
  'nats-always-ingest': { ROLE: 'ingest' },
} as const satisfies Record<string, Readonly<Record<string, string>>>;

/** The name of a journal. */
export type JournalName = keyof typeof journals;

/** The names of all journals. */
// Object.keys of the table above, which has no other members.
export const journalNames = Object.keys(journals) as readonly JournalName[];

/** Those of one server alone, without a broker. */
export const singleServerJournals = journalNames.filter((name) => !name.endsWith('-ingest') && name !== 'nats');

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
    args: [join(projectRoot, 'dist-test', 'bench', 'contenders', 'floor.js')],
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
  const given = /^(postgres|nats)/.test(journal) ? await startGivenPostgres() : undefined;
  const brokers = await startBrokersOf(journal);
  const start = (settings: Readonly<Record<string, string>>, directory: string): Promise<OwnedProcess> =>
    startOwned({
      name,
      command: process.execPath,
      args: [serverMain],
      // An empty value means unset: the environment of the benchmark must not choose another database.
      env: {
        DATABASE_URL: given?.url ?? '',
        ...brokers?.env,
        ...settings,
        ...env,
        PORT: '0',
        DATA_DIR: directory,
        LOG_LEVEL: 'info',
      },
      ready: /"msg":"Ready"/,
    });
  const server = await start(journals[journal], dataDir);
  const rollUpDir = await ownedDirectory();
  const rollUp = journal.endsWith('-ingest')
    ? await start({ ...journals[journal], ROLE: 'roll-up' }, rollUpDir)
    : undefined;
  const address = firstMatch(server.output, /"msg":"Listening on ([^"]+)"/);
  const database =
    given === undefined ? await connectToEmbedded(dataDir) : await connectTo({ connectionString: given.url });
  return {
    name,
    url: `${address}/increment`,
    pid: server.pid,
    build: /uWebSockets\.js [^"]*/.exec(server.output)?.[0],
    cost: () => {
      const { ownMs, descendantsMs } = cpuTime(server.pid);
      const serverMs = ownMs + (rollUp === undefined ? 0 : cpuTime(rollUp.pid).ownMs) + (brokers?.costMs() ?? 0);
      const databaseMs = given === undefined ? descendantsMs : totalCpuMs(given.pid);
      return { serverMs, mainThreadMs: mainThreadMs(server.pid), databaseMs };
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
      await rollUp?.stop();
      await brokers?.stop();
      await given?.stop();
      for (const directory of [dataDir, rollUpDir]) await removeOwned(directory);
    },
  };
}

/** One broker, or a cluster of them; undefined with a journal that needs none. */
async function startBrokersOf(journal: JournalName): Promise<BenchNats | BrokerCluster | undefined> {
  if (journal === 'nats') return startBenchNats();
  return journal.startsWith('nats') ? startBrokerCluster(journal === 'nats-always-ingest') : undefined;
}

/** A PostgreSQL of the benchmark's own, with the settings of the embedded one. */
async function startGivenPostgres(): Promise<{ readonly url: string; readonly pid: number; stop(): Promise<void> }> {
  const dataDir = await ownedDirectory();
  const logger = { info: () => undefined, warn: console.warn, error: console.error };
  const postgres = await startEmbeddedPostgres({ dataDir, logger, maxConnections: 40 });
  return {
    url: postgres.url,
    pid: postgres.pid,
    async stop() {
      await postgres.stop();
      await removeOwned(dataDir);
    },
  };
}

function totalCpuMs(pid: number): number {
  const { ownMs, descendantsMs } = cpuTime(pid);
  return ownMs + descendantsMs;
}

/** A connection of the benchmark's own, to read what is committed. */
async function connectToEmbedded(dataDir: string): Promise<pg.Client> {
  const password = (await readFile(join(dataDir, 'postgres-password'), 'utf8')).trim();
  // The fourth line of the file is the port.
  const port = (await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3];
  return connectTo({ host: '127.0.0.1', port: Number(port), user: 'postgres', password, database: 'postgres' });
}

async function connectTo(target: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client(target);
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
