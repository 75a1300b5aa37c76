/**
 * A run of several real servers with one journal, in PostgreSQL, NATS or SQS, under load. Servers are killed, suspended, stopped and
 * replaced, PostgreSQL and NATS are killed and suspended, the queue is cut off and suspended, all at random instants. Afterwards every
 * acknowledged increment must be counted once, every refused one never, every other at most once; no stream may be left that nobody
 * looks after, and no message in the queue. (A killed server's stream in SQS stays open for 15 days: nothing can fence its writer.)
 *
 * ```text
 * load, reads ───────────────────────────────────────────► stop ─► flush ─► streams ended ─► SIGTERM ─► check history
 * server:   start ─ SIGSTOP ─ SIGCONT ─ kill -9 ─ (elsewhere) start ─ … ─┘
 * database:       kill -9 ─ (starts again) ─ SIGSTOP ─ SIGCONT ─ … ──────┘
 * broker:         kill -9 ─ start ─ SIGSTOP ─ SIGCONT ─ … ───────────────┘
 * ```
 *
 * Idempotent requests without an answer are repeated at another server, while the first may still be at work on them.
 */
import { setMaxListeners } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freePort } from '../support/free-port.js';
import { readCountedSums } from '../support/counted-sums.js';
import { connectTo, createDatabaseOn } from '../support/database-connection.js';
import { freezePostgres, GivenPostgres, killOneProcess, killPostgres } from '../support/given-postgres.js';
import { checkHistory } from '../support/history/check-history.js';
import { History } from '../support/history/history.js';
import { readWhile } from '../support/history/reader.js';
import { runJournalCommand } from '../support/journal-command.js';
import { Load } from '../support/load.js';
import { imbalances, scrape } from '../support/metrics.js';
import { NatsCluster, NatsServer } from '../support/nats-server.js';
import type { Random } from '../support/random.js';
import { spawnServer, temporaryDirectory, type TestServer } from '../support/server.js';
import { SQS_ENVIRONMENT, SqsServer } from '../support/sqs-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { flushFailure, pause, refusals, tail } from './crash-run.js';
import { streamsOf } from './server-pair.js';
import { TakeoverLog, type Takeover } from './takeover-log.js';

/** ROLE of a server. */
export type Role = 'serve' | 'ingest' | 'roll-up';

/** Where the journal is. */
export type FleetJournal = 'postgres' | 'nats' | 'nats-cluster' | 'sqs';

/** What to run. */
export interface FleetRunOptions {
  readonly durationMs: number;
  readonly random: Random;
  /** One server each. */
  readonly roles: readonly Role[];
  /** Where the journal is; `nats-cluster`: on three servers. Default: postgres. */
  readonly journal?: FleetJournal;
  /** Divides the times between faults; default 1: a server has about one fault in 15 seconds, PostgreSQL one in 30. */
  readonly haste?: number;
  /** The run lasts longer if a slow machine had fewer faults than these; default 0. */
  readonly killsLeast?: number;
  readonly freezesLeast?: number;
  readonly databaseFaultsLeast?: number;
  /** For how long PostgreSQL does not answer once, after a third of the run; default: never. */
  readonly databaseAwayMs?: number | undefined;
  readonly connections?: number;
  /** Pause of each connection after a request; default 0: as many requests as the machine can do. */
  readonly restMs?: number;
  /** Shards of every process; by default random from 1 to 2. */
  readonly shards?: number;
  /** The server's program; default: the built product. */
  readonly main?: string;
  /** The output of every process is kept here. */
  readonly logDir?: string;
  readonly onProgress?: (line: string) => void;
}

/** The result of a run. */
export interface FleetRunResult {
  readonly seconds: number;
  readonly faults: Readonly<Record<Fault, number>>;
  readonly lives: number;
  readonly acknowledged: number;
  readonly unknown: number;
  readonly refused: number;
  /** Requests with unknown outcome that were repeated with their idempotency key, at another server, until acknowledged. */
  readonly repeated: number;
  /** Acknowledged requests that another server acknowledged again. */
  readonly replayed: number;
  readonly takeovers: readonly Takeover[];
  /** The log was kept, and said in the end what the counters say. */
  readonly isAudited: boolean;
  /** One sentence for each violation. */
  readonly violations: readonly string[];
}

const FAULTS = [
  'killed',
  'replaced',
  'frozen',
  'stopped',
  'databaseKilled',
  'databaseFrozen',
  'brokerKilled',
  'brokerFrozen',
] as const;

/** `replaced`: killed, and started again without its data directory. */
export type Fault = (typeof FAULTS)[number];

/** How long a replica may need to have what it missed. */
const BROKER_CATCHES_UP_MS = 10_000;
/** Longer than a run. */
const KEEP_SECONDS = 86_400;
const PROGRESS_MS = 10_000;
const START_MS = 60_000;
const STOP_MS = 60_000;
const ENDED_STREAMS_MS = 60_000;
const SCRAPE_INTERVAL_MS = 1_000;
/** Longer than an owner may be silent: a stream of a dead one does not pass for one of a living one. */
const SILENCE_MS = 7_000;

const OPEN_STREAMS = `
select c.stream::text, c.lsn::text, c.owner::text, c.node::text,
       coalesce(o.alive_at > now() - interval '6 seconds', false) as is_owned
from journal_checkpoints c left join journal_heartbeats o on o.id = c.owner
where c.journal in ('postgres', 'nats', 'sqs') and c.retired_at is null`;

const RECORDS_LEFT = `
select count(*)::int as records from increment_log l left join journal_checkpoints c on c.stream = l.stream
where c.lsn is null or l.lsn > c.lsn`;

interface OpenStream {
  readonly stream: string;
  readonly lsn: string;
  readonly owner: string | null;
  readonly node: string;
  readonly is_owned: boolean;
}

/** A broker, or a queue, that a run harms. */
type FleetBroker = Pick<NatsServer, 'signal' | 'stop' | 'start' | 'dispose'>;

/** A local server's queue. Its messages are in memory, so an outage is a proxy in front of it. */
class FleetQueue implements FleetBroker {
  readonly #sqs: SqsServer;
  readonly #proxy: TcpProxy;
  readonly journal: string;

  private constructor(sqs: SqsServer, proxy: TcpProxy, journal: string) {
    this.#sqs = sqs;
    this.#proxy = proxy;
    this.journal = `sqs:${proxy.urlOf(journal.slice('sqs:'.length))}`;
  }

  static async make(): Promise<FleetQueue> {
    const sqs = await SqsServer.start();
    return new FleetQueue(sqs, await TcpProxy.start(sqs.address), await sqs.makeQueue());
  }

  messages(): Promise<number> {
    return this.#sqs.messagesIn();
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#sqs.signal(signal);
  }

  stop(): Promise<void> {
    return this.#proxy.refuse();
  }

  start(): Promise<void> {
    return this.#proxy.accept();
  }

  async dispose(): Promise<void> {
    this.#sqs.signal('SIGCONT');
    await this.#proxy.close();
    await this.#sqs.dispose();
  }
}

interface FleetNode {
  readonly name: string;
  readonly role: Role;
  readonly port: number;
  readonly url: string;
  dataDir: string;
  server: TestServer | undefined;
  isFrozen: boolean;
  lives: number;
}

/** Runs to the end. Rejects only if the run itself fails. */
export async function runFleet(options: FleetRunOptions): Promise<FleetRunResult> {
  const run = new FleetRun(options);
  try {
    return await run.run();
  } finally {
    await run.dispose();
  }
}

class FleetRun {
  readonly #options: FleetRunOptions;
  readonly #random: Random;
  readonly #history: History;
  readonly #violations: string[] = [];
  readonly #faults = Object.fromEntries(FAULTS.map((fault) => [fault, 0])) as Record<Fault, number>;
  #postgres: GivenPostgres | undefined;
  #databaseUrl = '';
  #brokers: readonly FleetBroker[] = [];
  #queue: FleetQueue | undefined;
  #nodes: readonly FleetNode[] = [];
  #resumePostgres: (() => void) | undefined;
  #takeoverLog: TakeoverLog | undefined;
  readonly #end = new AbortController();
  /** What was done when, for whoever reads the logs. */
  readonly #events: string[] = [];
  /** Records stay in the log, which is audited in the end; otherwise they are removed soon after their commit. */
  readonly #keepsLog: boolean;
  #timeIsUp = false;
  #lives = 0;
  readonly #startedAt = performance.now();

  constructor(options: FleetRunOptions) {
    this.#options = options;
    this.#random = options.random;
    // What a server holds pending ends with its process.
    this.#history = new History(options.random, (url) => {
      const node = this.#nodes.find((each) => each.url === url);
      return node === undefined ? url : `${node.name}/${node.lives}`;
    });
    this.#keepsLog = options.random.integer(2) === 0 && (options.journal ?? 'postgres') === 'postgres';
    // Each server waits for it several times at once.
    setMaxListeners(0, this.#end.signal);
  }

  async run(): Promise<FleetRunResult> {
    const { durationMs, roles, connections = 32, restMs = 0 } = this.#options;
    this.#postgres = await GivenPostgres.start(40 * roles.length);
    this.#databaseUrl = await createDatabaseOn(this.#postgres.url);
    if (this.#options.journal === 'sqs') this.#queue = await FleetQueue.make();
    this.#brokers = this.#queue === undefined ? await startBrokers(this.#options.journal) : [this.#queue];
    this.#nodes = await Promise.all(roles.map(makeNode));
    // Time starts when everything works for the first time, however slow the machine is.
    await Promise.all(this.#nodes.map(async (node) => this.#ready(await this.#spawn(node))));
    const takenOverFrom = this.#queue === undefined ? 'any' : 'flushers';
    this.#takeoverLog = await TakeoverLog.start(this.#databaseUrl, () => this.#ableToTakeOver(), takenOverFrom);
    const urls = this.#takers.map(({ url }) => url);
    const load = new Load({ urls, connections, restMs, history: this.#history, repeatElsewhere: urls.length > 1 });
    await load.acknowledgements(1, START_MS);
    const progress = setInterval(() => this.#tellProgress(), PROGRESS_MS);
    const timer = setTimeout(() => {
      this.#timeIsUp = true;
      this.#endWhenEnough();
    }, durationMs);
    try {
      const { signal } = this.#end;
      await Promise.all([
        ...this.#nodes.map((node) => this.#live(node, signal)),
        ...this.#nodes.map((node) => this.#watchBalance(node, signal)),
        ...this.#nodes.map(({ url, role }) =>
          readWhile({ history: this.#history, url, random: this.#random, isIngest: role === 'ingest' }, signal),
        ),
        this.#harmDatabase(signal),
        this.#harmBrokers(signal),
      ]);
    } finally {
      clearTimeout(timer);
      clearInterval(progress);
    }
    await load.stop();
    const takeovers = await this.#finish();
    return this.#result(load, takeovers);
  }

  async dispose(): Promise<void> {
    this.#end.abort();
    this.#resumePostgres?.();
    await this.#takeoverLog?.stop();
    for (const node of this.#nodes) {
      node.server?.kill('SIGCONT');
      await node.server?.dispose();
      await rm(node.dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    }
    for (const broker of this.#brokers) await broker.dispose();
    await this.#postgres?.stop();
  }

  /** Nodes that take increments. */
  get #takers(): readonly FleetNode[] {
    return this.#nodes.filter(({ role }) => role !== 'roll-up');
  }

  #ableToTakeOver(): readonly TestServer[] {
    return this.#nodes.flatMap(({ role, server, isFrozen }) =>
      role !== 'ingest' && !isFrozen && server?.isRunning === true && server.output.includes('"msg":"Ready"')
        ? [server]
        : [],
    );
  }

  #endWhenEnough(): void {
    const { killsLeast = 0, freezesLeast = 0, databaseFaultsLeast = 0 } = this.#options;
    const { killed, frozen, databaseKilled, databaseFrozen } = this.#faults;
    const isEnough =
      killed >= killsLeast && frozen >= freezesLeast && databaseKilled + databaseFrozen >= databaseFaultsLeast;
    if (this.#timeIsUp && isEnough) this.#end.abort();
  }

  #note(fault: Fault, where = 'PostgreSQL'): void {
    this.#faults[fault] += 1;
    this.#tell(`${where} ${fault}`);
    this.#endWhenEnough();
  }

  /** Said at once: the run may be cut. */
  #violate(...violations: readonly string[]): void {
    this.#violations.push(...violations);
    for (const violation of violations) this.#options.onProgress?.(`VIOLATED: ${violation}`);
  }

  #tell(event: string): void {
    this.#events.push(`${new Date().toISOString()} ${event}`);
  }

  /** Up to `ms`, less in a hasty run. */
  #rest(ms: number, end: AbortSignal): Promise<void> {
    return pause(this.#random.integer(ms / (this.#options.haste ?? 1)), end);
  }

  /** One node's processes until the run is over; the last one keeps running. */
  async #live(node: FleetNode, end: AbortSignal): Promise<void> {
    for (;;) {
      const server = await this.#spawn(node);
      // Some processes end while they start or take over; a process's time starts when it serves.
      if (end.aborted || this.#random.integer(4) > 0) await this.#ready(server);
      if (end.aborted) return;
      await this.#rest(30_000, end);
      if (end.aborted) continue;
      if (!server.isRunning) {
        this.#violate(`a server (${node.name}) ended by itself:\n${tail(server.output)}`);
        return;
      }
      const dice = this.#random.integer(10);
      if (dice < 4) await this.#freeze(node, server, end);
      else if (dice < 5) await this.#stop(node, server, end);
      else await this.#kill(node, server, end);
    }
  }

  async #freeze(node: FleetNode, server: TestServer, end: AbortSignal): Promise<void> {
    node.isFrozen = true;
    server.kill('SIGSTOP');
    this.#note('frozen', node.name);
    await pause(1_000 + this.#random.integer(19_000), end);
    // Some never wake.
    if (this.#random.integer(6) === 0) await this.#kill(node, server, end);
    else server.kill('SIGCONT');
    this.#tell(`${node.name} resumed`);
    node.isFrozen = false;
  }

  async #kill(node: FleetNode, server: TestServer, end: AbortSignal): Promise<void> {
    server.kill('SIGKILL');
    await server.ended;
    await this.#inspect(node, server);
    this.#note('killed', node.name);
    if (this.#random.integer(2) === 0) {
      await rm(node.dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
      node.dataDir = await temporaryDirectory();
      this.#note('replaced', node.name);
    }
    if (this.#random.integer(2) === 0) await this.#rest(15_000, end);
  }

  async #stop(node: FleetNode, server: TestServer, end: AbortSignal): Promise<void> {
    this.#note('stopped', node.name);
    await this.#stopped(node, server);
    if (this.#random.integer(2) === 0) await this.#rest(15_000, end);
  }

  /** SIGTERM ends a server in order, whatever the database does. */
  async #stopped(node: FleetNode, server: TestServer): Promise<void> {
    const sentAt = performance.now();
    const timer = setTimeout(() => server.kill('SIGKILL'), STOP_MS);
    const { code, signal } = await server.stop();
    clearTimeout(timer);
    await this.#inspect(node, server);
    // A process that had not begun to run the server ends by the signal.
    if (code === 0 || (signal === 'SIGTERM' && server.output === '')) return;
    const how = `${signal ?? code} after ${Math.round(performance.now() - sentAt)} ms`;
    this.#violate(`a stop (${node.name}) ended with ${how}:\n${tail(server.output)}`);
  }

  async #spawn(node: FleetNode): Promise<TestServer> {
    // One that was suspended, or the last one of the loop above.
    if (node.server?.isRunning === true) return node.server;
    const { shards = 1 + this.#random.integer(2), main } = this.#options;
    this.#lives += 1;
    node.lives += 1;
    node.server = await spawnServer({
      dataDir: node.dataDir,
      ...(main === undefined ? {} : { main }),
      env: {
        PORT: String(node.port),
        ...this.#journalSettings(),
        ROLE: node.role,
        DATABASE_URL: this.#databaseUrl,
        SHARDS: String(shards),
        FLUSH_INTERVAL_MS: String(20 + this.#random.integer(400)),
        JOURNAL_KEEP_SECONDS: String(this.#keepsLog ? KEEP_SECONDS : this.#random.integer(3)),
        LOG_LEVEL: 'info',
      },
    });
    return node.server;
  }

  #journalSettings(): Readonly<Record<string, string>> {
    if (this.#queue !== undefined) return { ...SQS_ENVIRONMENT, JOURNAL: this.#queue.journal };
    const addresses = this.#brokers.flatMap((broker) => (broker instanceof NatsServer ? [broker.address] : []));
    if (addresses.length === 0) return { JOURNAL: 'postgres' };
    return { JOURNAL: `nats://${addresses.join(',')}`, NATS_REPLICAS: String(addresses.length) };
  }

  async #ready(server: TestServer): Promise<void> {
    try {
      await server.waitFor('"msg":"Ready"', START_MS);
    } catch (error) {
      this.#violate(`a start failed: ${tail(error instanceof Error ? error.message : String(error))}`);
    }
  }

  async #harmDatabase(end: AbortSignal): Promise<void> {
    const { databaseAwayMs, durationMs } = this.#options;
    let awayAt = databaseAwayMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + durationMs / 3;
    while (!end.aborted) {
      await this.#rest(60_000, end);
      if (end.aborted) return;
      if (performance.now() >= awayAt && this.#postgres !== undefined) {
        awayAt = Number.POSITIVE_INFINITY;
        await this.#freezeDatabase(this.#postgres.pid, end, databaseAwayMs);
        continue;
      }
      const { pid } = this.#postgres ?? {};
      if (pid === undefined) return;
      const dice = this.#random.integer(3);
      if (dice === 0) {
        await this.#freezeDatabase(pid, end);
      } else if (dice === 1 ? killPostgres(pid) : killOneProcess(pid, this.#random)) {
        this.#note('databaseKilled');
      }
    }
  }

  /** One broker at a time, which is back before the next: of three there are always two. */
  async #harmBrokers(end: AbortSignal): Promise<void> {
    while (!end.aborted && this.#brokers.length > 0) {
      await this.#rest(60_000, end);
      const index = this.#random.integer(this.#brokers.length);
      const broker = this.#brokers[index];
      if (end.aborted || broker === undefined) return;
      const awayFrom = Date.now();
      if (this.#random.integer(2) === 0) {
        broker.signal('SIGSTOP');
        this.#note('brokerFrozen', `broker ${index + 1}`);
        await pause(1_000 + this.#random.integer(9_000), end);
        broker.signal('SIGCONT');
      } else {
        await broker.stop();
        this.#note('brokerKilled', `broker ${index + 1}`);
        await pause(this.#random.integer(5_000), end);
        await broker.start();
      }
      this.#tell(`broker ${index + 1} is back`);
      if (this.#brokers.length === 1) this.#takeoverLog?.noteOutage(awayFrom);
      if (this.#brokers.length > 1) await pause(BROKER_CATCHES_UP_MS, end);
    }
  }

  async #freezeDatabase(pid: number, end: AbortSignal, ms = 1_000 + this.#random.integer(9_000)): Promise<void> {
    this.#resumePostgres = freezePostgres(pid);
    if (this.#resumePostgres === undefined) return;
    this.#note('databaseFrozen');
    await pause(ms, end);
    this.#resumePostgres();
    this.#resumePostgres = undefined;
    this.#tell('PostgreSQL resumed');
  }

  /** In every scrape of a process, what came is what went and what is pending. */
  async #watchBalance(node: FleetNode, end: AbortSignal): Promise<void> {
    while (!end.aborted) {
      await pause(SCRAPE_INTERVAL_MS, end);
      if (end.aborted || node.isFrozen || node.server?.isRunning !== true) continue;
      // A server that is suspended meanwhile does not answer.
      await Promise.race([this.#checkBalance(node).catch(() => undefined), pause(SCRAPE_INTERVAL_MS, end)]);
    }
  }

  async #checkBalance(node: FleetNode): Promise<number> {
    const page = await scrape(node.url);
    for (const [shard, difference] of imbalances(page))
      if (difference !== 0)
        this.#violate(`increments of shard ${shard} of ${node.name} do not add up: ${difference} in a scrape`);
    return page.total('increments_pending');
  }

  /** Everything is flushed, all streams but those of the running servers are ended, all servers stop in order. */
  async #finish(): Promise<readonly Takeover[]> {
    await pause(SILENCE_MS, new AbortController().signal);
    if (this.#queue !== undefined) await this.#awaitEmpty(this.#queue);
    for (const node of this.#takers) await this.#settle(node);
    const lastWritten = new Set(this.#nodes.flatMap(({ server }) => [...writtenBy(server)]));
    if (this.#queue === undefined)
      await this.#awaitEndedStreams('of a server that is gone', (stream) => {
        const writers = this.#nodes.filter(({ server }) => writtenBy(server).has(stream.stream));
        return writers.length === 1 && stream.is_owned;
      });
    else await this.#awaitEmpty(this.#queue);
    for (const node of this.#nodes) {
      const pending = await this.#checkBalance(node);
      if (pending > 0) this.#violate(`${pending} increments are pending in ${node.name} at the end`);
    }
    const takeovers = (await this.#takeoverLog?.finish()) ?? [];
    await this.#keep('faults.log', this.#events.join('\n'));
    await this.#keep('takeovers.json', JSON.stringify(takeovers, undefined, 1));
    // Those that flush stop last: they end the streams of those that only journal.
    for (const role of ['ingest', 'serve', 'roll-up']) {
      for (const node of this.#nodes) if (node.role === role) await this.#stopFinally(node);
      await this.#awaitEndedStreams(`after the stop of each ${role}`, ({ stream }) =>
        this.#queue !== undefined && !lastWritten.has(stream)
          ? true
          : this.#nodes.some(({ server }) => server?.isRunning === true && writtenBy(server).has(stream)),
      );
    }
    await this.#compare();
    return takeovers;
  }

  async #settle(node: FleetNode): Promise<void> {
    const failure = await flushFailure(node.url);
    if (failure !== undefined) this.#violate(`what ${node.name} acknowledged ${failure}`);
  }

  async #awaitEndedStreams(which: string, mayBeOpen: (stream: OpenStream) => boolean): Promise<void> {
    const timeout = AbortSignal.timeout(ENDED_STREAMS_MS);
    const open = async (): Promise<readonly OpenStream[]> =>
      (await this.#query<OpenStream>(OPEN_STREAMS)).filter((stream) => !mayBeOpen(stream));
    let left = await open();
    while (left.length > 0 && !timeout.aborted) {
      await pause(200, timeout);
      left = await open();
    }
    for (const stream of left) this.#violate(`a stream ${which} is still open: ${JSON.stringify(stream)}`);
  }

  /** Also messages of unknown outcome are counted or dropped. The local server hands out one of a stream at a time. */
  async #awaitEmpty(queue: FleetQueue): Promise<void> {
    let left = await queue.messages();
    for (let fewerAt = performance.now(); left > 0 && performance.now() - fewerAt < ENDED_STREAMS_MS;) {
      await pause(200, new AbortController().signal);
      const now = await queue.messages();
      if (now < left) fewerAt = performance.now();
      left = now;
    }
    if (left > 0) this.#violate(`${left} messages are left in the queue`);
  }

  async #stopFinally(node: FleetNode): Promise<void> {
    const { server } = node;
    if (server === undefined) return;
    await this.#stopped(node, server);
    if (!/Everything that was acknowledged is (committed|in the journal)/.test(server.output))
      this.#violate(`the last stop of ${node.name} left something pending:\n${tail(server.output)}`);
  }

  async #compare(): Promise<void> {
    const found = await readCountedSums(this.#databaseUrl);
    this.#violate(
      ...checkHistory(this.#history.operations, found.sums, { isShared: true }),
      ...(await refusals(found, this.#postgres)),
    );
    if (found.putAside.size > 0) this.#violate(`idempotent requests for ${found.putAside.size} keys were put aside`);
    const [left] = await this.#query<{ records: number }>(RECORDS_LEFT);
    if (left?.records !== 0) this.#violate(`${left?.records} records are above the checkpoints of their streams`);
    if (this.#keepsLog) await this.#audit();
  }

  /** The log says the same as the counters. */
  async #audit(): Promise<void> {
    const { code, output } = await runJournalCommand(['recount'], { DATABASE_URL: this.#databaseUrl });
    if (code !== 0) this.#violate(`journal recount ended with ${code}:\n${tail(output)}`);
  }

  async #query<Row extends object>(text: string): Promise<readonly Row[]> {
    const connection = await connectTo(this.#databaseUrl, 'test-verification');
    try {
      return await connection.query<Row & Record<string, unknown>>({ text });
    } finally {
      await connection.close();
    }
  }

  /** A bug that a server logs is a violation, whatever the sums are. */
  async #inspect(node: FleetNode, server: TestServer): Promise<void> {
    for (const { level, msg } of server.log) {
      const isBug = level === 'error' || level === 'fatal' || String(msg).startsWith('A bug');
      if (isBug) this.#violate(`${node.name} logged: ${tail(String(msg))}`);
    }
    await this.#keep(`${node.name}-${node.lives}.log`, server.output);
  }

  async #keep(name: string, text: string): Promise<void> {
    const { logDir } = this.#options;
    if (logDir === undefined) return;
    await mkdir(logDir, { recursive: true });
    await writeFile(path.join(logDir, name), text);
  }

  #tellProgress(): void {
    const { acknowledged, unknown, refused } = this.#history;
    const seconds = Math.round((performance.now() - this.#startedAt) / 1000);
    this.#options.onProgress?.(
      `${seconds} s: ${faultsInWords(this.#faults)}; requests acknowledged ${acknowledged}, unknown ${unknown}, ` +
        `refused ${refused}${this.#violations.length > 0 ? `; ${this.#violations.length} violations` : ''}`,
    );
  }

  #result({ repeated, replayed }: Load, takeovers: readonly Takeover[]): FleetRunResult {
    const { acknowledged, unknown, refused } = this.#history;
    return {
      seconds: (performance.now() - this.#startedAt) / 1000,
      faults: this.#faults,
      lives: this.#lives,
      acknowledged,
      unknown,
      refused,
      repeated,
      replayed,
      takeovers,
      isAudited: this.#keepsLog,
      violations: this.#violations,
    };
  }
}

/** How often each fault happened, for people. */
export function faultsInWords(faults: Readonly<Record<Fault, number>>): string {
  return (
    `servers killed ${faults.killed} (${faults.replaced} of them replaced), suspended ${faults.frozen}, stopped ` +
    `${faults.stopped}; PostgreSQL killed ${faults.databaseKilled}, suspended ${faults.databaseFrozen}` +
    (faults.brokerKilled + faults.brokerFrozen === 0
      ? ''
      : `; NATS killed, or SQS cut off, ${faults.brokerKilled}, suspended ${faults.brokerFrozen}`)
  );
}

/** The streams that a running server writes, by its log. */
function writtenBy(server: TestServer | undefined): ReadonlySet<string> {
  return server?.isRunning === true ? streamsOf(server) : new Set();
}

async function startBrokers(journal: FleetJournal = 'postgres'): Promise<readonly NatsServer[]> {
  if (journal === 'postgres') return [];
  return journal === 'nats' ? [await NatsServer.start()] : (await NatsCluster.start()).servers;
}

async function makeNode(role: Role, index: number): Promise<FleetNode> {
  const port = await freePort();
  return {
    name: `${role}-${index + 1}`,
    role,
    port,
    url: `http://127.0.0.1:${port}`,
    dataDir: await temporaryDirectory(),
    server: undefined,
    isFrozen: false,
    lives: 0,
  };
}
