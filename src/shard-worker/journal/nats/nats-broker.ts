/**
 * A broker over NATS JetStream. Main thread and shard thread.
 *
 * One connection, opened on demand, also after a loss. The client library would buffer a publish without a connection and send
 * it later. Here it is refused instead, so that it certainly was not sent.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import type { Msg, MsgHdrs, NatsConnection } from '@nats-io/transport-node';
import type { JetStreamManager } from '@nats-io/jetstream';
import { causesOf, JournalError, reasonOf } from '../../../core/errors.js';
import type { NatsSettings } from '../../protocol/control-messages.js';
import type { Broker, BrokerMessage, PublishOutcome } from './broker.js';

const CONNECT_TIMEOUT_MS = 2000;
/** How long a request waits for its answer. Much less than ACK_TIMEOUT_MS: a publish without an answer is looked up. */
const REQUEST_TIMEOUT_MS = 2000;
/** A list of subjects can be long. */
const LIST_TIMEOUT_MS = 10_000;
const PING_INTERVAL_MS = 5000;
/** After this many requests in a row without an answer another server of the cluster is tried. */
const UNANSWERED_MAX = 2;
/** Between attempts to connect. */
const RECONNECT_MS = 250;

const EXPECTED_SEQUENCE_HEADER = 'Nats-Expected-Last-Subject-Sequence';
const EXPECTED_STREAM_HEADER = 'Nats-Expected-Stream';

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

type GetRequest = { readonly seq: number; readonly next_by_subj: string } | { readonly last_by_subj: string };

interface GetAnswer {
  /** `data`: in base64; none where it is empty. */
  readonly message?: { readonly seq: number; readonly data?: string };
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

/** The subject of a stream. */
function subjectOf({ stream }: Pick<NatsSettings, 'stream'>, name: string): string {
  return `${stream}.${name}`;
}

/** A broker over JetStream. */
export class NatsBroker implements Broker {
  readonly #settings: NatsSettings;
  readonly #name: string;
  #session: NatsSession | undefined;
  #opening: Promise<NatsSession> | undefined;
  #failedAt = Number.NEGATIVE_INFINITY;
  #failure: unknown;
  #unanswered = 0;
  /** Rejects of the requests of the session. */
  #inFlight = new Set<(error: Error) => void>();
  #isClosed = false;

  /** `name`: of the connection, as the server shows it. */
  constructor(settings: NatsSettings, name: string) {
    this.#settings = settings;
    this.#name = name;
  }

  async publish(stream: string, data: Uint8Array, expectedSequence: number): Promise<PublishOutcome> {
    const before = this.#session;
    let session: NatsSession;
    try {
      session = await this.#opened();
    } catch (error) {
      return { kind: 'refused', error };
    }
    if (session !== before && expectedSequence > 0) return { kind: 'reconnected' };
    const headers = session.makeHeaders();
    headers.set(EXPECTED_SEQUENCE_HEADER, String(expectedSequence));
    headers.set(EXPECTED_STREAM_HEADER, this.#settings.stream);
    try {
      const answer = await this.#request(session, subjectOf(this.#settings, stream), data, headers);
      return outcomeOf(answer);
    } catch (error) {
      if (hasCause(error, 'NoResponders')) {
        const what = `the stream ${this.#settings.stream} does not exist or has no leader now`;
        return { kind: 'refused', error: new Error(what, { cause: error }) };
      }
      // The client did not send the message.
      return { kind: hasCause(error, 'InvalidArgumentError') ? 'refused' : 'unknown', error };
    }
  }

  async last(stream: string): Promise<BrokerMessage | undefined> {
    return this.#get({ last_by_subj: subjectOf(this.#settings, stream) });
  }

  async read(stream: string, fromSequence: number, messagesMax: number): Promise<readonly BrokerMessage[]> {
    const messages: BrokerMessage[] = [];
    const subject = subjectOf(this.#settings, stream);
    for (let seq = fromSequence; messages.length < messagesMax;) {
      const message = await this.#get({ seq, next_by_subj: subject });
      if (message === undefined) break;
      messages.push(message);
      seq = message.sequence + 1;
    }
    return messages;
  }

  async purge(stream: string, beforeSequence: number): Promise<void> {
    const filter = subjectOf(this.#settings, stream);
    await this.#managed(({ manager }) => manager.streams.purge(this.#settings.stream, { filter, seq: beforeSequence }));
  }

  async streams(): Promise<ReadonlyMap<string, number>> {
    const { stream } = this.#settings;
    const info = await this.#managed(({ manager }) => manager.streams.info(stream, { subjects_filter: `${stream}.>` }));
    const prefix = `${stream}.`;
    const subjects = Object.entries(info.state.subjects ?? {});
    return new Map(subjects.map(([subject, messages]) => [subject.slice(prefix.length), messages]));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#session?.connection.close();
  }

  /**
   * One message, from the leader of the stream. Any replica answers a direct get, and a replica of 2.9 that restarts can leave
   * out messages.
   */
  async #get(query: GetRequest): Promise<BrokerMessage | undefined> {
    const session = await this.#opened();
    const subject = `$JS.API.STREAM.MSG.GET.${this.#settings.stream}`;
    let answer: Msg;
    try {
      answer = await this.#request(session, subject, JSON.stringify(query));
    } catch (error) {
      throw unavailable(error);
    }
    const { message, error } = answer.json<GetAnswer>();
    if (error?.err_code === NO_MESSAGE) return undefined;
    if (message === undefined) throw unavailable(new Error(error?.description ?? 'an answer without a message'));
    return { sequence: message.seq, data: Buffer.from(message.data ?? '', 'base64') };
  }

  async #managed<T>(work: (session: NatsSession) => Promise<T>): Promise<T> {
    const session = await this.#opened();
    try {
      return await this.#unlessLost(work(session));
    } catch (error) {
      throw unavailable(error);
    }
  }

  async #request(session: NatsSession, subject: string, data: Uint8Array | string, headers?: MsgHdrs): Promise<Msg> {
    const { connection } = session;
    try {
      const options = { timeout: REQUEST_TIMEOUT_MS, ...(headers !== undefined && { headers }) };
      const answer = await this.#unlessLost(connection.request(subject, data, options));
      this.#unanswered = 0;
      return answer;
    } catch (error) {
      if (hasCause(error, 'TimeoutError')) this.#noticeUnanswered(session);
      throw error;
    }
  }

  /** Rejects at once where the connection is lost. The request itself would wait for its timeout. */
  #unlessLost<T>(answer: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const inFlight = this.#inFlight;
      const settle = (): void => {
        inFlight.delete(reject);
      };
      inFlight.add(reject);
      answer.then(resolve, reject).finally(settle);
    });
  }

  /** Closes the connection of a server that does not answer: another one of the cluster may answer. */
  #noticeUnanswered(session: NatsSession): void {
    this.#unanswered += 1;
    if (this.#unanswered < UNANSWERED_MAX || this.#session !== session) return;
    this.#session = undefined;
    this.#unanswered = 0;
    session.connection.close().catch(ignore);
  }

  /** Rejects with `journal-unavailable` at once where the last attempt has just failed. */
  async #opened(): Promise<NatsSession> {
    if (this.#session !== undefined && !this.#session.connection.isClosed()) return this.#session;
    if (this.#isClosed) throw unavailable(new Error('the connection is closed'));
    if (performance.now() - this.#failedAt < RECONNECT_MS) throw unavailable(this.#failure);
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    try {
      return await this.#opening;
    } catch (error) {
      throw unavailable(error);
    }
  }

  async #open(): Promise<NatsSession> {
    try {
      const session = await connectToNats(this.#settings, this.#name);
      if (this.#isClosed) await session.connection.close();
      const inFlight = new Set<(error: Error) => void>();
      this.#inFlight = inFlight;
      this.#session = session;
      session.connection.closed().then((reason) => {
        for (const reject of inFlight) reject(new Error('the connection was lost', { cause: reason }));
      }, ignore);
      return session;
    } catch (error) {
      this.#failedAt = performance.now();
      this.#failure = error;
      throw error;
    }
  }
}

function outcomeOf(answer: Msg): PublishOutcome {
  const ack = answer.json<{ readonly seq?: number; readonly error?: ApiError }>();
  const { seq, error } = ack;
  if (error === undefined && seq !== undefined && seq > 0) return { kind: 'published', sequence: seq };
  const code = error?.err_code ?? 0;
  if (MISMATCHES.includes(code)) return { kind: 'mismatch' };
  const failure = new Error(`${error?.description ?? 'an answer without a sequence'} (${code})`);
  const isLimit = code === STORE_FAILED && error?.description?.includes('maximum') === true;
  return REFUSALS.includes(code) || isLimit ? { kind: 'refused', error: failure } : { kind: 'unknown', error: failure };
}

/** Whether an error of the client library, or a cause of it, has this name. */
function hasCause(error: unknown, name: string): boolean {
  return causesOf(error).some((cause) => cause instanceof Error && cause.name === name);
}

function unavailable(cause: unknown): JournalError {
  if (cause instanceof JournalError) return cause;
  return new JournalError('journal-unavailable', `NATS is unavailable: ${reasonOf(cause)}`, { cause });
}

function definedOf(files: NonNullable<NatsSettings['tls']>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(files).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

function ignore(): void {
  // The connection is not used any more.
}
