/**
 * The load tool and a server that loses, cuts and garbles answers. The server knows of every request what the tool must make
 * of it, so the report must have exactly these numbers: an answer that is taken for that of another request shows.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { LoadCommand, type LoadReport } from '../../../support/load-command.js';

const PROBLEM = '{"code":"overloaded","counted":"no","detail":"Full."}';
const CREATED = 'HTTP/1.1 202 Accepted\r\nContent-Length: 7\r\n\r\ncreated';

/** What the server does with a request, whether it counts it, and what the tool can know. */
interface Fault {
  readonly name: string;
  readonly isCounted: boolean;
  readonly known: 'acknowledged' | 'refused' | 'unknown';
  readonly answer: (response: ServerResponse) => void;
}

/** Writes bytes past node:http. */
function raw(response: ServerResponse, text: string): void {
  response.socket?.write(text);
}

function endWith(response: ServerResponse, text: string): void {
  response.socket?.end(text);
}

const faults: readonly Fault[] = [
  {
    name: 'no answer, reset',
    isCounted: true,
    known: 'unknown',
    answer: (response) => response.socket?.resetAndDestroy(),
  },
  { name: 'no answer, closed', isCounted: false, known: 'unknown', answer: (response) => endWith(response, '') },
  {
    name: 'half an answer, closed',
    isCounted: true,
    known: 'unknown',
    answer: (response) => endWith(response, CREATED.slice(0, 40)),
  },
  { name: 'garbage', isCounted: false, known: 'unknown', answer: (response) => raw(response, 'nonsense\r\n\r\n') },
  {
    name: 'answer of a proxy',
    isCounted: true,
    known: 'unknown',
    answer: (response) => response.writeHead(502).end('Bad Gateway'),
  },
  {
    name: 'refusal',
    isCounted: false,
    known: 'refused',
    answer: (response) => response.writeHead(503).end(PROBLEM),
  },
  {
    name: 'answer, closed',
    isCounted: true,
    known: 'acknowledged',
    answer: (response) => response.writeHead(202, { connection: 'close' }).end('created'),
  },
  {
    name: 'answer and another one behind it',
    isCounted: true,
    known: 'acknowledged',
    answer: (response) => raw(response, `${CREATED}${CREATED}`),
  },
  {
    name: 'answer in two pieces',
    isCounted: true,
    known: 'acknowledged',
    answer: (response) => {
      response.writeHead(202, { 'content-length': 7 }).write('cre');
      setTimeout(() => response.end('ated'), 5);
    },
  },
];

const FAULT_EVERY = 5;

class FaultyServer {
  readonly sums = new Map<string, number>();
  readonly known = { acknowledged: 0, refused: 0, unknown: 0 };
  /** Acknowledges without counting. */
  isLying = false;
  readonly #counted = new Set<unknown>();
  readonly #server: Server = createServer((request, response) => void this.#serve(request, response));
  #requests = 0;

  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    // A listening TCP server has an address with a port.
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const url = new URL(request.url ?? '', 'http://host');
    if (url.pathname === '/counters') response.end(this.#counters(url.searchParams.getAll('key')));
    else this.#increment(body, request.headers['idempotency-key'], response);
  }

  #counters(keys: readonly string[]): string {
    const documents = keys.map((key) => `{"key":${JSON.stringify(key)},"sum":${this.sums.get(key) ?? 'null'}}`);
    return documents.length === 1 ? documents.join() : `{"counters":[${documents.join()}]}`;
  }

  #increment(body: string, idempotencyKey: unknown, response: ServerResponse): void {
    this.#requests += 1;
    const fault =
      this.#requests % FAULT_EVERY === 0 ? faults[(this.#requests / FAULT_EVERY) % faults.length] : undefined;
    if (fault?.isCounted !== false && !this.isLying) this.#count(body, idempotencyKey);
    this.known[fault?.known ?? 'acknowledged'] += 1;
    if (fault === undefined) response.writeHead(202).end('created');
    else fault.answer(response);
  }

  #count(body: string, idempotencyKey: unknown): void {
    if (this.#counted.has(idempotencyKey)) return;
    if (idempotencyKey !== undefined) this.#counted.add(idempotencyKey);
    // All amounts are 1.
    for (const [, key = ''] of body.matchAll(/"([^"]+)":1/g)) this.sums.set(key, (this.sums.get(key) ?? 0) + 1);
  }
}

async function load(
  server: FaultyServer,
  ...args: readonly string[]
): Promise<{ code: number | null; report: LoadReport }> {
  const url = await server.listen();
  const all = ['--duration', '2', '--rate', '300', '--connections', '8', '--key-count', '4', '--wait', '0', '--json'];
  try {
    return await new LoadCommand(['--url', url, ...all, ...args]).report();
  } finally {
    server.close();
  }
}

test('every request is counted as what its own answer says, whatever happens to its connection', async () => {
  const server = new FaultyServer();
  const { code, report } = await load(server);
  const { acknowledged, refused, unknown } = report.requests;
  assert.deepEqual({ acknowledged, refused, unknown }, server.known);
  assert.ok(unknown >= faults.length && refused > 0, JSON.stringify(report.requests));
  assert.equal(code, 0, report.verdict.sentence);
});

test('with idempotency keys every request is acknowledged in the end, and counted once', async () => {
  const server = new FaultyServer();
  const { code, report } = await load(server, '--idempotency-keys');
  assert.equal(code, 0, report.verdict.sentence);
  assert.equal(report.requests.unknown, 0);
  assert.ok(report.requests.resent >= faults.length, JSON.stringify(report.requests));
  const counted = [...server.sums.values()].reduce((sum, count) => sum + count, 0);
  assert.equal(counted, report.increments.acknowledged);
});

test('a server that acknowledges what it does not count is found out', async () => {
  const server = new FaultyServer();
  server.isLying = true;
  const { code, report } = await load(server, '--duration', '0.5');
  assert.equal(code, 1);
  assert.equal(report.verdict.kind, 'wrong');
  assert.equal(report.verdict.wrong_keys, 4);
});
