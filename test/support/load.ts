/**
 * A load of increments over keep-alive connections, one request at a time on each. It continues over restarts of the
 * servers and writes down every request and its answer.
 */
import { connect, type Socket } from 'node:net';
import { PATIENCE_MS } from './eventually.js';
import { increment, type Answer } from './http.js';
import type { History, LoadRequest, Outcome } from './history/history.js';
import { readCounter } from './history/reader.js';

/** Options of a load. */
export interface LoadOptions {
  /** `http://HOST:PORT` of each server. The address must stay the same over restarts. */
  readonly urls: readonly string[];
  readonly connections: number;
  readonly history: History;
  /** One read in so many requests of a connection; 0: none. */
  readonly readEvery?: number;
  /** Part of the keys: two loads on one database need two names. */
  readonly name?: string;
  /**
   * Pause of a connection after each request, in ms. Without one a load takes all the CPU that servers and other tests need;
   * default 5: about 150 requests a second on each connection.
   */
  readonly restMs?: number;
  /** Idempotent requests are sent again to another of the servers; default: to any, and replays to the same. */
  readonly repeatElsewhere?: boolean;
}

/** An idempotent request that is to be sent again, and the server that had it last. */
interface Repetition {
  readonly request: LoadRequest;
  readonly url: string;
}

const REST_MS = 5;
const RECONNECT_MS = 20;
const REFUSED_PAUSE_MS = 10;
const ANSWER_TIMEOUT_MS = 15_000;
/** Replays that wait for a connection to another server. */
const REPLAYS_MAX = 64;

/** A running load. */
export class Load {
  readonly #options: LoadOptions;
  readonly #running: Promise<void>;
  #stopping = false;
  /** Requests with unknown outcome that were sent again with their idempotency key, until the 202. */
  repeated = 0;
  /** Requests sent again with their idempotency key after their 202. */
  replayed = 0;
  readonly #unanswered: Repetition[] = [];
  readonly #replays: Repetition[] = [];
  #onSettled: (() => void)[] = [];

  constructor(options: LoadOptions) {
    this.#options = options;
    const { connections, urls } = options;
    const senders = Array.from({ length: connections }, (_, index) =>
      this.#send(urls[index % urls.length] ?? '', index),
    );
    this.#running = Promise.all(senders).then(() => undefined);
  }

  /** Settles after `count` more acknowledgements. Rejects after `ms`. */
  acknowledgements(count: number, ms = PATIENCE_MS): Promise<void> {
    return this.#more('acknowledged', count, ms);
  }

  /** Settles after `count` more refusals. Rejects after `ms`. */
  refusals(count: number, ms = PATIENCE_MS): Promise<void> {
    return this.#more('refused', count, ms);
  }

  async #more(outcome: 'acknowledged' | 'refused', count: number, ms: number): Promise<void> {
    const { history } = this.#options;
    const goal = history[outcome] + count;
    const timeout = AbortSignal.timeout(ms);
    while (history[outcome] < goal) {
      if (timeout.aborted) throw new Error(`fewer than ${count} requests were ${outcome} within ${ms} ms`);
      await new Promise<void>((resolve) => {
        const onAbort = (): void => resolve();
        timeout.addEventListener('abort', onAbort, { once: true });
        this.#onSettled.push(() => {
          timeout.removeEventListener('abort', onAbort);
          resolve();
        });
      });
    }
  }

  /** Waits until every request has ended, and sends no more. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  /** Sends an acknowledged request once more: the answer must be the same. */
  async #replay(connection: HttpConnection, url: string, request: LoadRequest): Promise<void> {
    if ((await connection.post(request, url)) === 'acknowledged') this.replayed += 1;
  }

  async #send(url: string, index: number): Promise<void> {
    const next = this.#options.history.writer(`${this.#options.name ?? 'w'}${index}`);
    const { hostname, port } = new URL(url);
    let requests = 0;
    while (!this.#stopping) {
      const connection = await HttpConnection.open(hostname, Number(port));
      if (connection === undefined) {
        await pause(RECONNECT_MS);
        continue;
      }
      while (connection.isOpen && !this.#stopping) {
        requests += 1;
        const { readEvery = 0, restMs = REST_MS } = this.#options;
        if (readEvery > 0 && requests % readEvery === 0) await readCounter(this.#options.history, url);
        else await this.#sendOne(connection, url, next);
        if (restMs > 0) await pause(restMs);
      }
      connection.close();
    }
  }

  async #sendOne(connection: HttpConnection, url: string, next: () => LoadRequest): Promise<void> {
    const unanswered = this.#takeFor(url, this.#unanswered);
    if (unanswered !== undefined) {
      await this.#repeat(connection, url, unanswered);
      return;
    }
    const replay = this.#takeFor(url, this.#replays);
    if (replay !== undefined) {
      await this.#replay(connection, url, replay);
      return;
    }
    const request = next();
    const isAcknowledged = await this.#increment(connection, url, request);
    if (!isAcknowledged || request.idempotencyKey?.endsWith('7') !== true) return;
    if (this.#options.repeatElsewhere !== true) await this.#replay(connection, url, request);
    else if (this.#replays.length < REPLAYS_MAX) this.#replays.push({ request, url });
  }

  /** The oldest request that a server may get now. */
  #takeFor(url: string, waiting: Repetition[]): LoadRequest | undefined {
    const { repeatElsewhere = false } = this.#options;
    const index = waiting.findIndex((repetition) => !repeatElsewhere || repetition.url !== url);
    return index < 0 ? undefined : waiting.splice(index, 1)[0]?.request;
  }

  async #increment(connection: HttpConnection, url: string, request: LoadRequest): Promise<boolean> {
    const outcome = await connection.post(request, url);
    if (outcome === 'unknown') {
      if (request.idempotencyKey !== undefined) this.#unanswered.push({ request, url });
      return false;
    }
    this.#tell();
    if (outcome === 'refused') await pause(REFUSED_PAUSE_MS);
    return outcome === 'acknowledged';
  }

  #tell(): void {
    const waiting = this.#onSettled;
    this.#onSettled = [];
    for (const resolve of waiting) resolve();
  }

  /** Sends an idempotent request with unknown outcome again, on any connection; it stays unknown until a 202. */
  async #repeat(connection: HttpConnection, url: string, request: LoadRequest): Promise<void> {
    if ((await connection.post(request, url)) === 'acknowledged') {
      this.repeated += 1;
    } else {
      this.#unanswered.push({ request, url });
      await pause(REFUSED_PAUSE_MS);
    }
  }
}

/** Sends one request alone. */
export async function sendTracked(url: string, request: LoadRequest): Promise<Answer | undefined> {
  const settle = request.begin(url);
  try {
    const headers = request.idempotencyKey === undefined ? {} : { 'idempotency-key': request.idempotencyKey };
    const answer = await increment(url, request.body, { headers });
    settle(answer.status, answer.headers['idempotency-replayed'] === 'true');
    return answer;
  } catch {
    settle(0);
    return undefined;
  }
}

/** HTTP/1.1 on one socket, only as much as the server's answers need. */
class HttpConnection {
  readonly #socket: Socket;
  #received = '';
  #answer: ((status: number, isReplayed?: boolean) => void) | undefined;
  #timeout: NodeJS.Timeout | undefined;

  /** Undefined if nobody listens. */
  static open(host: string, port: number): Promise<HttpConnection | undefined> {
    return new Promise((resolve) => {
      const socket = connect({ host, port, noDelay: true });
      socket.once('error', () => resolve(undefined));
      socket.once('connect', () => resolve(new HttpConnection(socket)));
    });
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      this.#received += chunk;
      this.#take();
    });
    socket.on('error', () => this.close());
    socket.on('close', () => this.close());
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  /** Sends a request once; `url` is this connection's. */
  post(request: LoadRequest, url: string): Promise<Outcome> {
    const { body, idempotencyKey } = request;
    return new Promise((resolve) => {
      const settle = request.begin(url);
      this.#answer = (status, isReplayed) => resolve(settle(status, isReplayed));
      this.#timeout = setTimeout(() => this.close(), ANSWER_TIMEOUT_MS);
      const bytes = Buffer.byteLength(body);
      const idempotencyKeyHeader = idempotencyKey === undefined ? '' : `Idempotency-Key: ${idempotencyKey}\r\n`;
      this.#socket.write(
        `POST /increment HTTP/1.1\r\nHost: localhost\r\n${idempotencyKeyHeader}Content-Length: ${bytes}\r\n\r\n${body}`,
      );
    });
  }

  close(): void {
    this.#socket.destroy();
    this.#settle(0);
  }

  #take(): void {
    const headEnd = this.#received.indexOf('\r\n\r\n');
    if (headEnd < 0) return;
    const head = this.#received.slice(0, headEnd);
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
    if (this.#received.length < headEnd + 4 + length) return;
    this.#received = this.#received.slice(headEnd + 4 + length);
    this.#settle(Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]), /\r\nidempotency-replayed: true/i.test(head));
    if (/\r\nconnection: close/i.test(head)) this.#socket.destroy();
  }

  #settle(status: number, isReplayed?: boolean): void {
    clearTimeout(this.#timeout);
    const answer = this.#answer;
    this.#answer = undefined;
    answer?.(status, isReplayed);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
