/**
 * Connections to PostgreSQL: their target, their session settings and their time limits. Any thread.
 *
 * Every time limit of the server is shorter than that of the client. So the server ends a slow statement and reports it. If the
 * client gave up first, the outcome would be unknown.
 */
import { Socket } from 'node:net';
import pg from 'pg';
import { readDatabaseUrl, type SessionRequirement } from '../config/database-url.js';
import { settledWithin } from '../core/clock.js';
import { StartError } from '../core/errors.js';
import {
  errorCode,
  isStatementRefused,
  NoHostError,
  OtherDatabaseError,
  ReadOnlySessionError,
  type HostFailure,
} from './database-errors.js';
import { CONNECT_SETTINGS, IDENTIFY_DATABASE, IDENTIFY_DATABASE_ELSEWHERE } from './session-statements.js';

/** One host of DATABASE_URL. */
interface DatabaseHost {
  /** In pg's terms, with the password. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
}

/** The address of the database, parsed from DATABASE_URL. The URLs have the password; log {@link describeTarget}. */
export interface DatabaseTarget {
  /** As given, with all hosts. */
  readonly url: string;
  /** At least one. Each new connection tries them in this order, first the one that worked last. */
  readonly hosts: readonly DatabaseHost[];
  /** Requirements of a session. Hosts that do not meet them are skipped. */
  readonly session: SessionRequirement;
  readonly user: string;
  readonly database: string;
}

/** Name and time limits of a connection. */
export interface ConnectOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** Time until the session is ready; default 5000. Each host gets an equal part of the remaining time. */
  readonly connectTimeoutMs?: number;
  /** The only host to try; default: all. */
  readonly host?: DatabaseHost;
  /** The only id that the database may have, because the journal belongs to it; default: any. */
  readonly databaseId?: string;
  /** Accepts a database that is no longer where it was recorded; default false. */
  readonly isMoved?: boolean;
  /** The client's limit for a statement, longer than the server's; default 40000. */
  readonly queryTimeoutMs?: number;
}

/** Facts about the database server, for the checks of a start. */
export interface ServerFacts {
  /** As `server_version_num`: 180004. */
  readonly versionNumber: number;
  readonly encoding: string;
  /** True for a standby: it answers reads and refuses writes. */
  readonly inRecovery: boolean;
}

/** The server process of a session. */
export interface Backend {
  readonly pid: number;
  /** Microseconds since 1970, as text. Needed because the system reuses process numbers. */
  readonly startedAt: string;
  /** Where it runs, in DATABASE_URL. */
  readonly host?: DatabaseHost;
}

/** A statement and its parameters. A Buffer is sent unchanged, as PostgreSQL's binary format. */
export interface Statement {
  readonly text: string;
  /** If given, the statement is prepared under this name, once for each connection. */
  readonly name?: string;
  readonly values?: readonly unknown[];
  /** Replaces the time limit of the connection. */
  readonly timeoutMs?: number;
}

const CONNECT_TIMEOUT_MS = 5_000;
const QUERY_TIMEOUT_MS = 40_000;
/** How long an orderly end waits for the socket. */
const CLOSE_TIMEOUT_MS = 1_000;
const KEEP_ALIVE_DELAY_MS = 10_000;
/** After this many refusals in a row a session is closed: its own state may be the reason. */
const REFUSALS_MAX = 5;
const READ_ONLY_TRANSACTION = '25006';

/** Parses DATABASE_URL. Throws StartError with one sentence, without the password. */
export function parseDatabaseUrl(text: string): DatabaseTarget {
  const read = readDatabaseUrl(text);
  if ('problem' in read) throw new StartError([`DATABASE_URL ${read.problem}`]);
  const { url, hostUrls, session } = read;
  try {
    const clients = hostUrls.map((connectionString) => new pg.Client({ connectionString }));
    const hosts = clients.map(({ host, port }, index) => {
      if (!Number.isInteger(port) || port < 1 || port > 65535) throw new Error('port');
      return { url: hostUrls[index] ?? url, host, port };
    });
    return { url, hosts, session, user: clients[0]?.user ?? '', database: clients[0]?.database ?? '' };
  } catch {
    // Without the cause: the error of the URL parser contains the URL.
    throw new StartError([
      'DATABASE_URL is not a valid URL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, percent-encoded.',
    ]);
  }
}

/** The target without its password, for logs and messages. */
export function describeTarget({ hosts, user, database }: DatabaseTarget): string {
  return `postgresql://${user}@${hosts.map(describeHost).join(',')}/${database}`;
}

function describeHost({ host, port }: DatabaseHost): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** The host that the next connection of a target tries first, for this thread. */
const firstHosts = new WeakMap<DatabaseTarget, DatabaseHost>();

/**
 * Opens a connection and configures its session. Rejects with the error of pg or of the network, for several hosts with
 * NoHostError; see `classifyDatabaseError`.
 */
export async function connect(target: DatabaseTarget, options: ConnectOptions): Promise<DatabaseConnection> {
  const until = performance.now() + (options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS);
  const hosts = options.host === undefined ? hostsOf(target) : [options.host];
  const failures: HostFailure[] = [];
  for (const [index, host] of hosts.entries()) {
    const timeoutMs = Math.max(1, Math.ceil((until - performance.now()) / (hosts.length - index)));
    try {
      const connection = await connectTo(target, host, options, timeoutMs);
      firstHosts.set(target, host);
      return connection;
    } catch (error) {
      if (hosts.length === 1) throw error;
      failures.push({ host: describeHost(host), error });
    }
  }
  throw new NoHostError(failures);
}

function hostsOf(target: DatabaseTarget): readonly DatabaseHost[] {
  const first = firstHosts.get(target);
  return first === undefined ? target.hosts : [first, ...target.hosts.filter((host) => host !== first)];
}

/** The next connection begins with the host after this one. */
function avoid(target: DatabaseTarget, host: DatabaseHost): void {
  const next = target.hosts[(target.hosts.indexOf(host) + 1) % target.hosts.length];
  if (next !== undefined) firstHosts.set(target, next);
}

async function connectTo(
  target: DatabaseTarget,
  host: DatabaseHost,
  options: ConnectOptions,
  timeoutMs: number,
): Promise<DatabaseConnection> {
  const { applicationName, queryTimeoutMs } = options;
  const socket = new Socket();
  const client = new pg.Client({
    connectionString: host.url,
    stream: () => socket,
    application_name: applicationName,
    connectionTimeoutMillis: timeoutMs,
    query_timeout: queryTimeoutMs ?? QUERY_TIMEOUT_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_DELAY_MS,
  });
  // First, because an 'error' event without a listener ends the process.
  const connection = new DatabaseConnection(client, socket, () => avoid(target, host));
  try {
    const startedAt = performance.now();
    await client.connect();
    const leftMs = (): number => Math.max(1, Math.ceil(timeoutMs - (performance.now() - startedAt)));
    // As a statement, because PgBouncer refuses startup parameters.
    const [row] = await connection.query<SettingsRow>({ text: CONNECT_SETTINGS, timeoutMs: leftMs() });
    if (row === undefined) throw new Error('the server did not describe itself');
    if (target.session !== 'any' && row.in_recovery) throw new ReadOnlySessionError('it is a standby');
    if (target.session === 'read-write' && row.read_only) throw new ReadOnlySessionError('transactions are read-only');
    if (row.is_recorded) await requireSameDatabase(connection, row.is_cluster_known, options, leftMs());
    connection.server = { versionNumber: row.version, encoding: row.encoding, inRecovery: row.in_recovery };
    connection.backend = { pid: row.pid, startedAt: row.started_at, host };
    // @types/pg does not declare the process id that the server, or a pooler, sent when the session began.
    connection.isPooled = (client as unknown as { readonly processID: number | null }).processID !== row.pid;
    return connection;
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

interface SettingsRow {
  readonly version: number;
  readonly encoding: string;
  readonly in_recovery: boolean;
  /** The database has recorded where it is, and the role may see where that is. */
  readonly is_recorded: boolean;
  readonly is_cluster_known: boolean;
  readonly read_only: boolean;
  readonly pid: number;
  readonly started_at: string;
}

interface IdentityRow {
  readonly id: string | null;
  readonly recorded: string | null;
  readonly present: string | null;
}

/** Throws OtherDatabaseError where a flush must not use the database. */
async function requireSameDatabase(
  connection: DatabaseConnection,
  isClusterKnown: boolean,
  { databaseId, isMoved = false }: ConnectOptions,
  timeoutMs: number,
): Promise<void> {
  const text = isClusterKnown ? IDENTIFY_DATABASE : IDENTIFY_DATABASE_ELSEWHERE;
  const [row] = await connection.query<IdentityRow>({ text, timeoutMs });
  if (row === undefined || isMoved) return;
  const { id, recorded, present } = row;
  if (recorded !== null && present !== null && recorded !== present)
    throw new OtherDatabaseError(
      `the database was at ${recorded} and is at ${present} (system identifier/oid): it was restored from a dump, copied or ` +
        'upgraded. If servers should count in it from now on, run `npm run journal -- database --moved`; if it is a copy beside the ' +
        'one that they use, `npm run journal -- database --copy`',
    );
  if (databaseId !== undefined && id !== databaseId)
    throw new OtherDatabaseError(`the journal belongs to the database ${databaseId}, and this one is ${String(id)}`);
}

/** A session, for a shard. */
export type Session = Pick<DatabaseConnection, 'backend' | 'lost' | 'query' | 'close' | 'destroy'>;

/** One session. One statement at a time. */
export class DatabaseConnection {
  server: ServerFacts = { versionNumber: 0, encoding: '', inRecovery: false };
  backend: Backend = { pid: 0, startedAt: '' };
  /** Behind a connection pooler: another process serves the session than the one that was named when it began. */
  isPooled = false;
  readonly #client: pg.Client;
  /** Below TLS. */
  readonly #socket: Socket;
  readonly #avoidHost: () => void;
  readonly #lostCallbacks: ((error: Error) => void)[] = [];
  #lost: Error | undefined;
  #refusals = 0;

  constructor(client: pg.Client, socket: Socket, avoidHost: () => void) {
    this.#client = client;
    this.#socket = socket;
    this.#avoidHost = avoidHost;
    client.on('error', (error) => this.#lose(error));
    client.on('end', () => this.#lose(new Error('Connection terminated')));
  }

  /** True once the session has ended, for good. */
  get lost(): boolean {
    return this.#lost !== undefined;
  }

  /** Calls back once, when network, server or client has ended the session. */
  onLost(callback: (error: Error) => void): void {
    if (this.#lost === undefined) this.#lostCallbacks.push(callback);
    else callback(this.#lost);
  }

  /**
   * Runs one statement. Rejects with the error of pg. Closes the session
   *
   * - after a timeout of the client, because the reply may still come;
   * - where the session refuses writes or everything: after a failover it may still lead to the old primary, or it began while the
   *   database was read-only.
   */
  async query<Row extends pg.QueryResultRow>(statement: Statement): Promise<Row[]> {
    const { timeoutMs, values, ...rest } = statement;
    const config = {
      ...rest,
      ...(values === undefined ? {} : { values: [...values] }),
      ...(timeoutMs === undefined ? {} : { query_timeout: timeoutMs }),
    };
    try {
      const { rows } = await this.#client.query<Row>(config);
      this.#refusals = 0;
      return rows;
    } catch (error) {
      if (error instanceof Error && error.message === 'Query read timeout') this.destroy();
      if (isStatementRefused(error)) this.#noticeRefusal(errorCode(error));
      throw error;
    }
  }

  #noticeRefusal(sqlState: string): void {
    this.#refusals += 1;
    if (sqlState === READ_ONLY_TRANSACTION) this.leaveHost();
    else if (this.#refusals >= REFUSALS_MAX) this.destroy();
  }

  /** Closes the session because its server refuses writes. The next connection tries another host first. */
  leaveHost(): void {
    this.#avoidHost();
    this.destroy();
  }

  /** Ends the session in an orderly way. Waits at most a second for the socket to close. */
  async close(): Promise<void> {
    const ended = this.#client.end().catch(() => undefined);
    await settledWithin(ended, CLOSE_TIMEOUT_MS);
    this.destroy();
  }

  /**
   * Closes the socket at once, with a reset. On a network that drops packets an orderly end would wait behind unsent bytes, and
   * PostgreSQL would keep the session for a quarter of an hour.
   */
  destroy(): void {
    // @types/pg does not declare the connection below the client, and pg documents no way to close it at once.
    const { connection } = this.#client as unknown as { connection: { stream: { destroy(): void } } };
    // `resetAndDestroy` of Node.js marks a socket in the same way, but first waits until everything is sent. A socket that is not
    // connected, or not TCP, has no remote family and cannot be reset.
    if (this.#socket.remoteFamily !== undefined) Object.assign(this.#socket, { resetAndClosing: true });
    connection.stream.destroy();
    this.#lose(new Error('Connection closed by this side'));
  }

  #lose(error: Error): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    for (const callback of this.#lostCallbacks.splice(0)) callback(error);
  }
}
