/**
 * Load at a fixed rate (an open loop): the nth request is due at start + n / rate, and its latency counts from then, not
 * from when a connection was free to send it. A server that stalls is therefore charged for every request that was due
 * meanwhile, which generators that wait for their answers leave out (coordinated omission).
 *
 * Requests go out when a timer of one millisecond or any answer wakes the generator; what it is late counts as latency,
 * so figures below about a millisecond are the generator's own.
 */
import { connect, type Socket } from 'node:net';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { LoadFigures, LoadRequest } from './load-generator.js';

const TICK_MS = 1;
/** How long answers are waited for after the last request is due. */
const TAIL_MS = 10_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const NO_BYTES = Buffer.alloc(0);

/** Sends `ratePerSecond` requests a second for `seconds`; the workload's bodies must be fixed ones. */
export async function runFixedRate(request: LoadRequest, ratePerSecond: number): Promise<LoadFigures> {
  const load = new FixedRateLoad(request, ratePerSecond);
  await load.open();
  return load.run();
}

class FixedRateLoad {
  readonly #requests: readonly Buffer[];
  readonly #address: { readonly host: string; readonly port: number };
  readonly #connectionCount: number;
  readonly #ratePerMs: number;
  readonly #amount: number;
  readonly #latency: RecordableHistogram = createHistogram({ lowest: 1, highest: 3_600_000_000_000, figures: 3 });
  readonly #connections: Connection[] = [];
  readonly #idle: Connection[] = [];
  #startMs = 0;
  #sent = 0;
  #acknowledged = 0;
  #refused = 0;
  #failed = 0;
  #onEnd: () => void = () => undefined;

  constructor({ url, workload, connections, seconds }: LoadRequest, ratePerSecond: number) {
    const { hostname, port, pathname } = new URL(url);
    const { bodies, contentType } = workload;
    if (bodies.kind !== 'fixed' || workload.idempotencyKeyPrefix !== undefined) {
      throw new Error('a fixed rate needs fixed requests');
    }
    this.#address = { host: hostname, port: Number(port) };
    this.#connectionCount = connections;
    this.#ratePerMs = ratePerSecond / 1000;
    this.#amount = Math.floor(ratePerSecond * seconds);
    const head = `POST ${pathname} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: ${contentType}\r\n`;
    this.#requests = bodies.texts.map((body) =>
      Buffer.from(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`),
    );
  }

  async open(): Promise<void> {
    await Promise.all(
      Array.from({ length: this.#connectionCount }, async () => {
        const socket = connect({ ...this.#address, noDelay: true });
        await new Promise<void>((resolve, reject) => {
          socket.once('connect', resolve);
          socket.once('error', reject);
        });
        const connection = new Connection(
          socket,
          (status) => this.#answered(connection, status),
          () => this.#lost(),
        );
        this.#connections.push(connection);
        this.#idle.push(connection);
      }),
    );
  }

  async run(): Promise<LoadFigures> {
    const loopBefore = performance.eventLoopUtilization();
    this.#startMs = performance.now();
    const timer = setInterval(() => this.#pump(), TICK_MS);
    const tail = setTimeout(() => this.#onEnd(), this.#amount / this.#ratePerMs + TAIL_MS);
    await new Promise<void>((resolve) => {
      this.#onEnd = resolve;
    });
    clearInterval(timer);
    clearTimeout(tail);
    for (const connection of this.#connections) connection.close();
    const unanswered = this.#amount - this.#acknowledged - this.#refused;
    const ms = (percentile: number): number => this.#latency.percentile(percentile) / 1e6;
    const { utilization } = performance.eventLoopUtilization(loopBefore);
    return {
      generatorBusy: utilization,
      acknowledged: this.#acknowledged,
      refused: this.#refused,
      socketErrors: this.#failed + unanswered,
      seconds: (performance.now() - this.#startMs) / 1000,
      latency: { p50Ms: ms(50), p90Ms: ms(90), p99Ms: ms(99), p999Ms: ms(99.9), maxMs: this.#latency.max / 1e6 },
    };
  }

  /** Sends what is due, as far as connections are free. */
  #pump(): void {
    const due = Math.min(this.#amount, Math.floor((performance.now() - this.#startMs) * this.#ratePerMs) + 1);
    while (this.#sent < due) {
      const connection = this.#idle.pop();
      if (connection === undefined) return;
      const n = this.#sent;
      this.#sent += 1;
      // The remainder is an index of the list, which is not empty.
      connection.send(this.#requests[n % this.#requests.length] as Buffer, this.#startMs + n / this.#ratePerMs);
    }
  }

  #answered(connection: Connection, status: number): void {
    this.#latency.record(Math.max(1, Math.round((performance.now() - connection.dueMs) * 1e6)));
    if (status === 202) this.#acknowledged += 1;
    else this.#refused += 1;
    this.#idle.push(connection);
    if (this.#acknowledged + this.#refused === this.#amount) this.#onEnd();
    else this.#pump();
  }

  #lost(): void {
    this.#failed += 1;
    if (this.#failed === this.#connections.length) this.#onEnd();
  }
}

/** One connection with at most one request on it. */
class Connection {
  /** When the request that is on it was due. */
  dueMs = 0;
  readonly #socket: Socket;
  #rest: Buffer = NO_BYTES;
  #closed = false;
  /** Length and status of the last whole answer: one that is alike need not be read in detail. */
  #usualBytes = 0;
  #usualStatus = 0;

  constructor(socket: Socket, onAnswer: (status: number) => void, onLost: () => void) {
    this.#socket = socket;
    socket.on('data', (chunk) => {
      if (this.#rest.length === 0 && chunk.length === this.#usualBytes && statusOf(chunk) === this.#usualStatus) {
        onAnswer(this.#usualStatus);
        return;
      }
      const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
      if (isWholeAnswer(bytes)) {
        this.#rest = NO_BYTES;
        this.#usualBytes = bytes.length;
        this.#usualStatus = statusOf(bytes);
        onAnswer(this.#usualStatus);
      } else this.#rest = bytes;
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      if (!this.#closed) onLost();
    });
  }

  send(request: Buffer, dueMs: number): void {
    this.dueMs = dueMs;
    this.#socket.write(request);
  }

  close(): void {
    this.#closed = true;
    this.#socket.destroy();
  }
}

/** Whether an answer has arrived whole; answers carry their length. */
function isWholeAnswer(bytes: Buffer): boolean {
  const headEnd = bytes.indexOf(HEAD_END);
  if (headEnd < 0) return false;
  const head = bytes.toString('latin1', 0, headEnd);
  const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
  return bytes.length >= headEnd + HEAD_END.length + length;
}

/** The three digits behind `HTTP/1.1 `, as a number. */
function statusOf(bytes: Buffer): number {
  // Beyond the end NaN comes out, which equals no status.
  const digit = (at: number): number => (bytes[at] ?? Number.NaN) - 0x30;
  return 100 * digit(9) + 10 * digit(10) + digit(11);
}
