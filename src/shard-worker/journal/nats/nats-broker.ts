/**
 * A broker over NATS JetStream. Main thread and shard thread.
 *
 * One connection, opened on demand, also after a loss. The client library would buffer a publish without a connection and send
 * it later. Here it is refused instead, so that it certainly was not sent.
 */
import type { Msg, MsgHdrs } from '@nats-io/transport-node';
import type { Lsn } from '../../../core/checkpoint.js';
import { causesOf } from '../../../core/errors.js';
import type { JournalStore, PairedNatsSettings } from '../../protocol/control-messages.js';
import type { Broker, BrokerMessage, PublishOutcome } from './broker.js';
import { readPairing, streamsIn, writePairing, type AskBroker } from './nats-pairing.js';
import {
  connectToNats,
  getRequest,
  messageOf,
  outcomeOf,
  publishHeaders,
  subjectOf,
  unavailable,
  type GetRequest,
  type NatsSession,
} from './nats-session.js';

/** How long a request waits for its answer. Much less than ACK_TIMEOUT_MS: a publish without an answer is looked up. */
const REQUEST_TIMEOUT_MS = 2000;
/** After this many requests in a row without an answer another server of the cluster is tried. */
const UNANSWERED_MAX = 2;
/** Between attempts to connect. */
const RECONNECT_MS = 250;

/** A broker over JetStream. */
export class NatsBroker implements Broker {
  readonly #settings: PairedNatsSettings;
  readonly #name: string;
  #session: NatsSession | undefined;
  #opening: Promise<NatsSession> | undefined;
  #failedAt = Number.NEGATIVE_INFINITY;
  #failure: unknown;
  #unanswered = 0;
  /** Rejects of the requests of the session. */
  #inFlight = new Set<(error: Error) => void>();
  #isClosed = false;
  #store: JournalStore;

  /** `name`: of the connection, as the server shows it. */
  constructor(settings: PairedNatsSettings, name: string) {
    this.#settings = settings;
    this.#name = name;
    this.#store = settings.store;
  }

  get store(): JournalStore {
    return this.#store;
  }

  get address(): string {
    const { servers, stream } = this.#settings;
    return `${servers.join(',')} ${stream}`;
  }

  async connect(): Promise<void> {
    await this.#opened();
  }

  async publish(stream: string, data: Uint8Array, expectedSequence: number, endLsn?: Lsn): Promise<PublishOutcome> {
    const before = this.#session;
    let session: NatsSession;
    try {
      session = await this.#opened();
    } catch (error) {
      return { kind: 'refused', error };
    }
    if (session !== before && expectedSequence > 0) return { kind: 'reconnected' };
    const headers = publishHeaders(session, this.#settings, this.#store.databaseId, expectedSequence, endLsn);
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
    try {
      return messageOf(await this.#request(session, ...getRequest(this.#settings, query)));
    } catch (error) {
      throw unavailable(error);
    }
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
      const inFlight = new Set<(error: Error) => void>();
      this.#inFlight = inFlight;
      try {
        this.#store = await this.#pairedStore(session);
      } catch (error) {
        session.connection.close().catch(ignore);
        throw error;
      }
      if (this.#isClosed) await session.connection.close();
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

  /** The store behind a new connection. One that was made anew, and is empty, gets its name here. */
  async #pairedStore(session: NatsSession): Promise<JournalStore> {
    const settings = this.#settings;
    const { databaseId } = settings.store;
    const ask: AskBroker = (subject, data, headers) => this.#request(session, subject, data, headers);
    let found = await readPairing(settings, ask);
    if (found === undefined) {
      if ((await streamsIn(settings, session)).length > 0)
        throw foreign(
          settings.stream,
          'belongs to no database, and holds streams; restart the server, which says more',
        );
      found = await writePairing(settings, session, ask, { databaseId, isAdopted: false });
    }
    if (found.databaseId !== databaseId)
      throw foreign(
        settings.stream,
        `belongs to the database ${found.databaseId}, and this server counts in ${databaseId}`,
      );
    return found;
  }
}

/** Whether an error of the client library, or a cause of it, has this name. */
function hasCause(error: unknown, name: string): boolean {
  return causesOf(error).some((cause) => cause instanceof Error && cause.name === name);
}

/** A store that is not the one of this server. */
function foreign(stream: string, why: string): Error {
  return new Error(`the stream ${stream} in NATS ${why}`);
}

function ignore(): void {
  // The connection is not used any more.
}
