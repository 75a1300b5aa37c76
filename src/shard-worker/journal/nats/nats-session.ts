/**
 * Sessions with NATS, and the requests and answers of JetStream. Main thread and shard thread.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import type { Msg, MsgHdrs, NatsConnection } from '@nats-io/transport-node';
import type { JetStreamManager } from '@nats-io/jetstream';
import type { Lsn } from '../../../core/checkpoint.js';
import { JournalError, reasonOf } from '../../../core/errors.js';
import type { NatsSettings } from '../../protocol/control-messages.js';
import type { BrokerMessage, PublishOutcome } from './broker.js';

const CONNECT_TIMEOUT_MS = 2000;
/** A list of subjects can be long. */
const LIST_TIMEOUT_MS = 10_000;
const PING_INTERVAL_MS = 5000;

const EXPECTED_SEQUENCE_HEADER = 'Nats-Expected-Last-Subject-Sequence';
const EXPECTED_STREAM_HEADER = 'Nats-Expected-Stream';
const DATABASE_HEADER = 'Summing-Counters-Database';
const END_HEADER = 'Summing-Counters-End-LSN';

/** Error codes of JetStream: the last message of the subject is another one than expected, or not known yet. */
const MISMATCHES: readonly number[] = [10071, 10164, 10158];
/**
 * Error codes of a message that is certainly not stored: no resources (10023, 10047), no JetStream (10008, 10039, 10076),
 * message too large (10054), no such stream, or another one (10059, 10060).
 */
const REFUSALS: readonly number[] = [10008, 10023, 10039, 10047, 10054, 10059, 10060, 10076];
/** A store failed. Certain only where a limit was the reason: a disk may fail after others of the cluster stored the message. */
const STORE_FAILED = 10077;
/** There is no message, or none follows. */
const NO_MESSAGE = 10037;

interface ApiError {
  readonly code?: number;
  readonly err_code?: number;
  readonly description?: string;
}

/** Which message is asked for. */
export type GetRequest = { readonly seq: number; readonly next_by_subj: string } | { readonly last_by_subj: string };

interface GetAnswer {
  /** `data` and `hdrs`: in base64; none where they are empty. */
  readonly message?: { readonly seq: number; readonly data?: string; readonly hdrs?: string };
  readonly error?: ApiError;
}

/** An open connection. */
export interface NatsSession {
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  readonly makeHeaders: () => MsgHdrs;
}

/**
 * Connects to one of the servers. Rejects as the client library does. Loads the library here, because other journals do not
 * need it.
 */
export async function connectToNats(settings: NatsSettings, name: string): Promise<NatsSession> {
  const { connect, credsAuthenticator, headers } = await import('@nats-io/transport-node');
  const { jetstreamManager } = await import('@nats-io/jetstream');
  const { user, password, token, credsFile, tls } = settings;
  const connection = await connect({
    servers: [...settings.servers],
    name,
    reconnect: false,
    timeout: CONNECT_TIMEOUT_MS,
    pingInterval: PING_INTERVAL_MS,
    noAsyncTraces: true,
    ...(user !== undefined && { user, pass: password ?? '' }),
    ...(token !== undefined && { token }),
    ...(credsFile !== undefined && { authenticator: credsAuthenticator(readFileSync(credsFile)) }),
    ...(tls !== undefined && { tls: { ...definedOf(tls), ...identityCheck(settings.servers) } }),
  });
  const manager = await jetstreamManager(connection, { checkAPI: false, timeout: LIST_TIMEOUT_MS });
  return { connection, manager, makeHeaders: () => headers() };
}

/**
 * For a server given by its address the client library names no host, and Node.js expects a certificate for `localhost`. This
 * check expects one for a given address.
 */
function identityCheck(servers: readonly string[]): Readonly<Record<string, unknown>> {
  const hosts = servers.map((server) => new URL(server.includes('://') ? server : `nats://${server}`).hostname);
  const addresses = hosts.map((host) => host.replace(/^\[|\]$/g, '')).filter((host) => isIP(host) > 0);
  if (addresses.length === 0 || hosts.includes('localhost')) return {};
  return {
    checkServerIdentity: (name: string, certificate: PeerCertificate): Error | undefined => {
      const expected = name === 'localhost' ? addresses : [name];
      const problems = expected.map((host) => checkServerIdentity(host, certificate));
      return problems.includes(undefined) ? undefined : problems[0];
    },
  };
}

/** The subject of a name. */
export function subjectOf({ stream }: Pick<NatsSettings, 'stream'>, name: string): string {
  return `${stream}.${name}`;
}

/** The request for one message, and its subject. */
export function getRequest({ stream }: Pick<NatsSettings, 'stream'>, query: GetRequest): readonly [string, string] {
  return [`$JS.API.STREAM.MSG.GET.${stream}`, JSON.stringify(query)];
}

/** The message of an answer; undefined where there is none. Throws JournalError `journal-unavailable`. */
export function messageOf(answer: Msg): BrokerMessage | undefined {
  const { message, error } = answer.json<GetAnswer>();
  if (error?.err_code === NO_MESSAGE) return undefined;
  if (message === undefined) throw unavailable(new Error(error?.description ?? 'an answer without a message'));
  const headers = Buffer.from(message.hdrs ?? '', 'base64').toString('latin1');
  const valueOf = (name: string): string | undefined => new RegExp(`^${name}: *(\\S+)`, 'im').exec(headers)?.[1];
  const [database, end] = [valueOf(DATABASE_HEADER), valueOf(END_HEADER)];
  const endLsn = end === undefined ? undefined : Number(end);
  return { sequence: message.seq, data: Buffer.from(message.data ?? '', 'base64'), database, endLsn };
}

/** The headers of a publish; `expectedSequence`: of the last message of its subject; `endLsn`: of a fence. */
export function publishHeaders(
  session: NatsSession,
  { stream }: Pick<NatsSettings, 'stream'>,
  databaseId: string,
  expectedSequence: number,
  endLsn?: Lsn,
): MsgHdrs {
  const headers = session.makeHeaders();
  headers.set(EXPECTED_SEQUENCE_HEADER, String(expectedSequence));
  headers.set(EXPECTED_STREAM_HEADER, stream);
  headers.set(DATABASE_HEADER, databaseId);
  if (endLsn !== undefined) headers.set(END_HEADER, String(endLsn));
  return headers;
}

/** The outcome of a publish that was answered. */
export function outcomeOf(answer: Msg): PublishOutcome {
  const ack = answer.json<{ readonly seq?: number; readonly error?: ApiError }>();
  const { seq, error } = ack;
  if (error === undefined && seq !== undefined && seq > 0) return { kind: 'published', sequence: seq };
  const code = error?.err_code ?? 0;
  if (MISMATCHES.includes(code)) return { kind: 'mismatch' };
  const failure = new Error(`${error?.description ?? 'an answer without a sequence'} (${code})`);
  const isLimit = code === STORE_FAILED && error?.description?.includes('maximum') === true;
  return REFUSALS.includes(code) || isLimit ? { kind: 'refused', error: failure } : { kind: 'unknown', error: failure };
}

/** The error of a broker that cannot be used now. */
export function unavailable(cause: unknown): JournalError {
  if (cause instanceof JournalError) return cause;
  return new JournalError('journal-unavailable', `NATS is unavailable: ${reasonOf(cause)}`, { cause });
}

function definedOf(files: NonNullable<NatsSettings['tls']>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(files).filter((entry): entry is [string, string] => entry[1] !== undefined));
}
