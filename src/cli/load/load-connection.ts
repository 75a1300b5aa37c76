/**
 * One connection of a load: a client of autocannon that knows the outcome of every request. Main thread of a command.
 *
 * ```text
 * connecting ──connected──► ready ──due──► in flight ──answer──► ready
 *      ▲                                      │
 *      └────── connection lost, timeout ◄─────┘        closed: autocannon has ended the client
 * ```
 *
 * autocannon itself reconnects without a pause, keeps the old connection beside the new one after two failures, and can then
 * take the answer to one request for that to another. So this class replaces its undocumented steps `_connect` and
 * `_doRequest`: it first drops the old connection and its partial answer, and makes a request only for a ready connection. The
 * version of autocannon is pinned.
 */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type autocannon from 'autocannon';
import { reasonOf } from '../../core/errors.js';
import type { IncrementRequest, IncrementRequests } from './increment-requests.js';
import type { LoadHistory } from './load-history.js';
import { meaningOf, type AnswerMeaning, type Outcomes } from './outcomes.js';
import type { Pacer, PacedSender } from './pacer.js';

/** What all connections of a run share. */
export interface LoadConnectionDeps {
  readonly requests: IncrementRequests;
  readonly outcomes: Outcomes;
  readonly pacer: Pacer;
  readonly timeoutMs: number;
  readonly history: LoadHistory | undefined;
  /** Called after each answer that refuses a request. */
  readonly onRefusal: (status: number) => void;
}

/** Undeclared members of autocannon's client. */
interface ClientInternals {
  readonly parser: {
    /** The parsed part of the chunk, and its end. */
    offset: number;
    readonly end: number;
    execute(chunk: Buffer): unknown;
    reinitialize(kind: 'RESPONSE'): void;
  };
  readonly pipelinedRequests: { clear(): void };
  /** Undefined until the first connection. */
  conn?: Socket;
  _connect(): void;
  _doRequest(): void;
}

type State =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'ready' }
  | { readonly kind: 'in-flight'; readonly sentAt: number; readonly dueAt: number }
  | { readonly kind: 'closed' };

type Headers = autocannon.Request['headers'];
type Client = autocannon.Client & ClientInternals;

/** Pause before a new connection after one without an answer, and before a request is resent at the end. */
const RETRY_MS = 100;

/** A connection. It sends until {@link LoadConnection.finish}. */
export class LoadConnection implements PacedSender {
  readonly #client: Client;
  readonly #deps: LoadConnectionDeps;
  readonly #connect: () => void;
  readonly #doRequest: () => void;
  #state: State = { kind: 'connecting' };
  #request: IncrementRequest | undefined;
  /** The request has an idempotency key and no clear answer yet, so it is resent until acknowledged. */
  #isResending = false;
  #isFinishing = false;
  /** The next connection needs no pause: this one carried an answer, or is the first. */
  #connectsAtOnce = true;
  #timer: NodeJS.Timeout | undefined;

  /** To be called in autocannon's `setupClient`, which comes before the first connection. */
  constructor(given: autocannon.Client, deps: LoadConnectionDeps) {
    // The pinned version has these members. A test that loses connections would fail without them.
    const client = given as Client;
    this.#client = client;
    this.#deps = deps;
    this.#connect = client._connect.bind(client);
    this.#doRequest = client._doRequest.bind(client);
    client._connect = () => this.#connectAgain();
    client._doRequest = () => this.#offer();
    this.#guardParser();
    client.addListener('connError', (error: unknown) => (this.#deps.outcomes.lastConnectionError = reasonOf(error)));
    client.once('done', () => this.#close());
    client.setRequests([
      {
        setupRequest: (request) => this.#build(request),
        onResponse: (status, body, _, headers) => this.#onAnswer(status, body, headers),
      },
    ]);
  }

  /** Whether no request is in flight or to be resent. */
  get isSettled(): boolean {
    return this.#state.kind !== 'in-flight' && !this.#isResending;
  }

  /** Sends only resent requests from now on. */
  finish(): void {
    this.#isFinishing = true;
    if (this.#state.kind === 'connecting' && !this.#isResending) clearTimeout(this.#timer);
    this.#offer();
  }

  send(dueAt: number): void {
    if (this.#state.kind !== 'ready') return;
    if (this.#isResending) this.#deps.outcomes.resentRequests += 1;
    this.#state = { kind: 'in-flight', sentAt: performance.now(), dueAt };
    this.#doRequest();
  }

  /** Ends the connection at bytes without a request, and at bytes that are not HTTP. */
  #guardParser(): void {
    const { parser } = this.#client;
    const execute = parser.execute.bind(parser);
    parser.execute = (chunk) => {
      const result = this.#state.kind === 'in-flight' ? execute(chunk) : new Error('an answer without a request');
      if (!(result instanceof Error)) return result;
      this.#deps.outcomes.lastConnectionError = result.message;
      this.#connectAgain();
      return result;
    };
  }

  /** Called by autocannon before each request but the first, and once in the constructor for that. */
  #build(request: autocannon.Request): autocannon.Request {
    if (this.#request === undefined || !this.#isResending) this.#request = this.#deps.requests.next();
    const { body, idempotencyKey } = this.#request;
    if (idempotencyKey === undefined) return { ...request, body };
    return { ...request, body, headers: { ...request.headers, 'Idempotency-Key': idempotencyKey } };
  }

  #offer(): void {
    if (this.#state.kind !== 'ready') return;
    if (!this.#isFinishing) this.#deps.pacer.ask(this);
    else if (this.#isResending) this.#later(() => this.send(performance.now()));
  }

  #onAnswer(status: number, body: string, headers: Headers): void {
    const state = this.#state;
    if (state.kind !== 'in-flight' || this.#request === undefined) return;
    this.#record(this.#request, state.sentAt, status, headers);
    this.#state = { kind: 'ready' };
    this.#connectsAtOnce = true;
    const meaning = meaningOf(status, body);
    const { outcomes } = this.#deps;
    if (meaning.counted === 'yes') {
      const now = performance.now();
      outcomes.acknowledge(this.#request, now - state.dueAt, now);
      this.#isResending = false;
    } else if (meaning.counted === 'no' && !this.#isResending) {
      outcomes.refuse(meaning);
      this.#deps.onRefusal(status);
    } else {
      this.#onUnclear(this.#request, meaning);
    }
    // An answer with more bytes behind it, or an unclear one, may come from a proxy that ends the connection. Its next bytes
    // could be taken for the answer to another request.
    const { offset, end } = this.#client.parser;
    if (meaning.counted === 'unknown' || hasHeader(headers, /^connection$/i, /\bclose\b/i) || offset < end)
      this.#connectAgain();
  }

  /** A refusal of a resent request is about that attempt only, so the request stays unknown. */
  #onUnclear(request: IncrementRequest, meaning: Pick<AnswerMeaning, 'name' | 'detail'>): void {
    const { outcomes } = this.#deps;
    outcomes.unclear(meaning);
    if (request.idempotencyKey === undefined) outcomes.giveUp(request);
    else this.#isResending = true;
  }

  #connectAgain(): void {
    if (this.#state.kind === 'closed') return;
    this.#dropConnection();
    this.#state = { kind: 'connecting' };
    if (this.#isFinishing && !this.#isResending) return;
    const atOnce = this.#connectsAtOnce;
    this.#connectsAtOnce = false;
    if (atOnce) this.#connectNow();
    else this.#later(() => this.#connectNow());
  }

  #connectNow(): void {
    this.#connect();
    const { conn } = this.#client;
    conn?.once(conn instanceof TLSSocket ? 'secureConnect' : 'connect', () => {
      // autocannon accepts every certificate.
      if (conn instanceof TLSSocket && !conn.authorized) {
        this.#deps.outcomes.lastConnectionError = `certificate refused: ${reasonOf(conn.authorizationError)}`;
        this.#connectAgain();
        return;
      }
      this.#state = { kind: 'ready' };
      this.#offer();
    });
  }

  #dropConnection(): void {
    const { conn, pipelinedRequests, parser } = this.#client;
    clearTimeout(this.#timer);
    this.#deps.pacer.withdraw(this);
    if (conn === undefined) return;
    for (const event of ['connect', 'secureConnect', 'data', 'end', 'error']) conn.removeAllListeners(event);
    // Ignores errors of a dropped connection.
    conn.on('error', () => undefined);
    conn.destroy();
    pipelinedRequests.clear();
    parser.reinitialize('RESPONSE');
    parser.offset = parser.end;
    if (!this.#connectsAtOnce || this.#state.kind === 'in-flight') this.#deps.outcomes.lostConnections += 1;
    this.#lose();
  }

  #lose(): void {
    const { timeoutMs } = this.#deps;
    if (this.#state.kind !== 'in-flight' || this.#request === undefined) return;
    const isTimeout = performance.now() - this.#state.sentAt >= timeoutMs - 1;
    const name = isTimeout ? `no answer within ${timeoutMs / 1000} s` : 'connection lost';
    this.#record(this.#request, this.#state.sentAt, 0, {});
    this.#onUnclear(this.#request, { name, detail: '' });
  }

  #record({ keyNumbers, idempotencyKey }: IncrementRequest, askedAt: number, status: number, headers: Headers): void {
    const { history, requests } = this.#deps;
    if (history === undefined) return;
    const keys = Array.from(keyNumbers, (number) => requests.keyOf(number));
    const isReplayed = hasHeader(headers, /^idempotency-replayed$/i, /^true$/);
    history.attempt({ keys, idempotencyKey, askedAt, status, isReplayed });
  }

  #close(): void {
    clearTimeout(this.#timer);
    this.#deps.pacer.withdraw(this);
    this.#lose();
    this.#state = { kind: 'closed' };
    if (this.#isResending && this.#request !== undefined) this.#deps.outcomes.giveUp(this.#request);
    this.#isResending = false;
  }

  #later(action: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, RETRY_MS);
  }
}

function hasHeader(headers: Headers, name: RegExp, value: RegExp): boolean {
  return Object.entries(headers ?? {}).some(([given, text]) => name.test(given) && value.test(String(text)));
}
