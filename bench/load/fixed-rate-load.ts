/**
 * Load at a fixed rate (an open loop). The nth request is due at start + n / rate. Its latency counts from that time,
 * not from when a connection was free to send it. So a stall of the server counts for every request that was due
 * meanwhile; generators that wait for answers leave those out (coordinated omission).
 *
 * A timer of one millisecond or any answer wakes the generator, which then sends what is due. Its own delay counts as
 * latency, so figures below about a millisecond are those of the generator.
 */
import { connect, type Socket } from 'node:net';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { LoadFigures, LoadRequest } from './load-generator.js';

const TICK_MS = 1;
/** How long the generator waits for answers after the last request is due. */
const TAIL_MS = 10_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const NO_BYTES = Buffer.alloc(0);

/** Sends `ratePerSecond` requests a second for `seconds`. The workload must have fixed bodies. */
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

  /** Sends the requests that are due, as far as connections are free. */
  #pump(): void {
    const due = Math.min(this.#amount, Math.floor((performance.now() - this.#startMs) * this.#ratePerMs) + 1);
    while (this.#sent < due) {
      const connection = this.#idle.pop();
      if (connection === undefined) return;
      const n = this.#sent;
      this.#sent += 1;
      // The list is not empty, so the remainder is one of its indexes.
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

/** One connection with at most one request in flight. */
class Connection {
  /** When the request in flight was due. */
  dueMs = 0;
  readonly #socket: Socket;
  #rest: Buffer = NO_BYTES;
  #closed = false;
  /** Length and status of the last whole answer. An equal answer need not be parsed again. */
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

/** Whether the whole answer has arrived. Answers carry their length. */
function isWholeAnswer(bytes: Buffer): boolean {
  const headEnd = bytes.indexOf(HEAD_END);
  if (headEnd < 0) return false;
  const head = bytes.toString('latin1', 0, headEnd);
  const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
  return bytes.length >= headEnd + HEAD_END.length + length;
}

/** The three digits behind `HTTP/1.1 `, as a number. */
function statusOf(bytes: Buffer): number {
  // Beyond the end the result is NaN, which equals no status.
  const digit = (at: number): number => (bytes[at] ?? Number.NaN) - 0x30;
  return 100 * digit(9) + 10 * digit(10) + digit(11);
}
