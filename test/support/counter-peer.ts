/**
 * A counter server in memory, over real sockets, for tests of the client. It keeps the public contract of POST
 * /increment with Idempotency-Key and of GET /key_sum, and fails on demand as networks and servers do.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { oracleIncrements, type Increment } from './increment-oracle.js';

/** A fault that replaces the answer to a request. */
export const faults = [
  /** The connection is reset before the request is read. */
  'drop-uncounted',
  /** The request is counted, and the connection reset before the answer. */
  'drop-counted',
  /** The request is counted, and the connection reset within the head of the answer. */
  'cut-head',
  /** The request is counted, and the connection reset within the body of the 202. */
  'cut-body',
  /** No answer; the request is counted after the client disconnected. */
  'count-late',
  /** 503 overloaded, not counted. */
  'overloaded',
  /** 500 outcome-unknown, counted. */
  'unknown-counted',
  /** 500 outcome-unknown, not counted. */
  'unknown-uncounted',
  /** 502 of a proxy, without a problem document; counted. */
  'bad-gateway',
] as const;

/** One of {@link faults}, or none. */
export type Fault = (typeof faults)[number] | 'none';

/** A request to POST /increment as it came in. */
export interface PeerRequest {
  readonly idempotencyKey: string;
  readonly body: string;
  readonly authorization: string | undefined;
  /** 1 for the first with this idempotency key. */
  readonly attempt: number;
  /** From performance.now(). */
  readonly atMs: number;
}

/** Limits and faults of a peer; may change while it runs. */
export interface PeerBehaviour {
  fault: (request: PeerRequest) => Fault;
  bodyBytesMax: number;
  keyBytesMax: number;
  /** Seconds or a date, sent with 503. */
  retryAfter: string;
  /** Answers POST /increment itself if it returns true. */
  answer: (response: ServerResponse, request: PeerRequest) => boolean;
}

/** A running peer. */
export class CounterPeer {
  readonly behaviour: PeerBehaviour = {
    fault: () => 'none',
    bodyBytesMax: 1024 * 1024,
    keyBytesMax: 512,
    retryAfter: '0',
    answer: () => false,
  };
  /** All requests, in order. */
  readonly requests: PeerRequest[] = [];
  readonly sums = new Map<string, bigint>();
  /** Idempotency key → the body that was counted under it. */
  readonly counted = new Map<string, string>();
  readonly #attempts = new Map<string, number>();
  readonly #server: Server;
  #changed: (() => void)[] = [];

  private constructor() {
    this.#server = createServer((incoming, response) => void this.#handle(incoming, response));
  }

  /** A peer on a free port of the loopback. */
  static async start(): Promise<CounterPeer> {
    const peer = new CounterPeer();
    await new Promise<void>((resolve) => peer.#server.listen(0, '127.0.0.1', resolve));
    return peer;
  }

  /** `http://127.0.0.1:PORT`. */
  get url(): string {
    // It listens on TCP, so its address is one.
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}`;
  }

  /** Resolves when `condition` holds; checks it after each request and each count. */
  async until(condition: (peer: this) => boolean): Promise<void> {
    while (!condition(this)) await new Promise<void>((resolve) => this.#changed.push(resolve));
  }

  /** Ends all connections. */
  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(incoming.url ?? '/', 'http://peer');
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of incoming) chunks.push(chunk as Buffer);
    } catch {
      return; // The client disconnected before its body was complete.
    }
    if (incoming.method === 'POST' && pathname === '/increment') {
      this.#increment(incoming, response, Buffer.concat(chunks));
    } else if (incoming.method === 'GET' && pathname === '/key_sum') {
      const sum = this.sums.get(searchParams.get('name') ?? '');
      if (sum === undefined) problem(response, 404, 'unknown-counter', false, 'no');
      else response.writeHead(200, { 'content-type': 'text/plain' }).end(String(sum));
    } else problem(response, 404, 'not-found', false, 'no');
  }

  #increment(incoming: IncomingMessage, response: ServerResponse, body: Buffer): void {
    const idempotencyKey = String(incoming.headers['idempotency-key'] ?? '');
    const attempt = (this.#attempts.get(idempotencyKey) ?? 0) + 1;
    this.#attempts.set(idempotencyKey, attempt);
    const { authorization } = incoming.headers;
    const request = { idempotencyKey, body: body.toString('utf8'), authorization, attempt, atMs: performance.now() };
    this.requests.push(request);
    this.#notify();
    if (this.behaviour.answer(response, request)) return;
    const fault = this.behaviour.fault(request);
    if (fault === 'drop-uncounted') incoming.socket.destroy();
    else if (fault === 'overloaded') this.#overloaded(response);
    else if (fault === 'unknown-uncounted') problem(response, 500, 'outcome-unknown', true, 'unknown');
    else this.#take(request, body, response, fault);
  }

  #take(request: PeerRequest, body: Buffer, response: ServerResponse, fault: Fault): void {
    const { bodyBytesMax, keyBytesMax } = this.behaviour;
    if (body.length > bodyBytesMax) {
      problem(response, 413, 'body-too-large', false, 'no');
      return;
    }
    const increments = oracleIncrements(body, false, keyBytesMax);
    if (increments === undefined) {
      problem(response, 400, 'invalid-request', false, 'no');
      return;
    }
    if (fault === 'count-late') {
      response.once('close', () => this.#count(request, increments));
      return;
    }
    if (!this.#count(request, increments)) {
      problem(response, 422, 'idempotency-mismatch', false, 'no');
      return;
    }
    switch (fault) {
      case 'drop-counted':
        response.destroy();
        return;
      case 'cut-head':
        response.socket?.write('HTTP/1.1 202 Acc', () => response.destroy());
        return;
      case 'cut-body':
        response.writeHead(202, { 'content-type': 'text/plain', 'content-length': '7' });
        response.write('cre', () => response.destroy());
        return;
      case 'unknown-counted': {
        problem(response, 500, 'outcome-unknown', true, 'unknown');
        return;
      }
      case 'bad-gateway':
        response.writeHead(502, { 'content-type': 'text/html' }).end('<h1>Bad gateway</h1>');
        return;
      default:
        response.writeHead(202, { 'content-type': 'text/plain' }).end('created');
    }
  }

  /** Counts once for each idempotency key; false if the key was used with another body. */
  #count({ idempotencyKey, body }: PeerRequest, increments: readonly Increment[]): boolean {
    const before = this.counted.get(idempotencyKey);
    if (before !== undefined) return before === body;
    this.counted.set(idempotencyKey, body);
    for (const [key, amount] of increments) this.sums.set(key, (this.sums.get(key) ?? 0n) + BigInt(amount));
    this.#notify();
    return true;
  }

  #overloaded(response: ServerResponse): void {
    problem(response, 503, 'overloaded', true, 'no', { 'retry-after': this.behaviour.retryAfter });
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = [];
    for (const resolve of changed) resolve();
  }
}

/** Answers with a problem document (RFC 9457). */
export function problem(
  response: ServerResponse,
  status: number,
  code: string,
  retryable: boolean,
  counted: 'no' | 'unknown',
  headers: Readonly<Record<string, string>> = {},
): void {
  const type = `urn:problem-type:summing-counters:${code}`;
  const document = { type, title: code, status, detail: `The peer says ${code}.`, code, retryable, counted };
  response.writeHead(status, { 'content-type': 'application/problem+json', ...headers });
  response.end(JSON.stringify(document));
}
