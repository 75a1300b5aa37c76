/**
 * Requests over node:http, so that a test controls method, head and body.
 */
import assert from 'node:assert/strict';
import { Agent, request, type IncomingHttpHeaders } from 'node:http';
import { eventually } from './eventually.js';

/** A complete answer. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** What to send besides the URL. */
export interface RequestOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  readonly agent?: Agent;
  /** Ends a stream that never ends: the answer is complete with this text. */
  readonly until?: string;
}

/** Sends one request; rejects if no answer comes. Sends the path unchanged. */
export function send(base: string, path: string, options: RequestOptions = {}): Promise<Answer> {
  const { hostname, port } = new URL(base);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        hostname,
        port,
        path,
        method: options.method ?? 'GET',
        headers: {
          ...(options.body === undefined ? {} : { 'content-length': String(Buffer.byteLength(options.body)) }),
          ...options.headers,
        },
        ...(options.agent === undefined ? {} : { agent: options.agent }),
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        const complete = (): void => {
          const body = Buffer.concat(chunks).toString('utf8');
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body });
        };
        incoming.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          if (options.until === undefined || !chunk.includes(options.until)) return;
          complete();
          incoming.destroy();
        });
        incoming.on('error', reject);
        incoming.on('end', complete);
      },
    );
    outgoing.on('error', reject);
    outgoing.end(options.body);
  });
}

/** POST /increment. */
export function increment(base: string, body: unknown, options: RequestOptions = {}): Promise<Answer> {
  const text = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body);
  return send(base, '/increment', { method: 'POST', body: text, ...options });
}

/**
 * As {@link increment}, as often as it takes: on a busy machine the answer of a broker or a queue can come too late, and a request
 * that is answered 503 is not counted.
 */
export function incrementTaken(base: string, body: unknown, options: RequestOptions = {}): Promise<Answer> {
  return eventually('an increment is taken', async () => {
    const answer = await increment(base, body, options);
    if (answer.status !== 503) return answer;
    assert.equal(problemCode(answer), 'journal-unavailable', answer.body);
    return undefined;
  });
}

/** Flushes everything that is pending, as often as it takes: on a busy machine a connection can come too late for one flush. */
export async function flushAll(base: string): Promise<void> {
  await eventually('a flush', async () => {
    const answer = await send(base, '/flush', { method: 'POST' });
    if (answer.status !== 200) assert.equal(problemCode(answer), 'database-unavailable', answer.body);
    return answer.status === 200;
  });
}

/** The `code` of a problem document. */
export function problemCode(answer: Answer): unknown {
  return (JSON.parse(answer.body) as { code?: unknown }).code;
}

/** Runs `use` once on each of many concurrent connections. */
export async function onConnections(count: number, use: (agent: Agent, index: number) => Promise<void>): Promise<void> {
  const agents = Array.from({ length: count }, () => new Agent({ keepAlive: true, maxSockets: 1 }));
  try {
    await Promise.all(agents.map(use));
  } finally {
    for (const agent of agents) agent.destroy();
  }
}
