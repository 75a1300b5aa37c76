/**
 * Many hostile clients, a normal client beside them, and the memory and files that a process uses.
 */
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { connect, type Socket } from 'node:net';
import { eventually } from './eventually.js';
import { increment } from './http.js';
import type { TestServer } from './server.js';

const MIB = 1024 * 1024;

/** One connection of an attack: its answers and when it was closed. */
export class AttackConnection {
  readonly socket: Socket;
  /** Settles when it is connected; false if it never was. */
  readonly connected: Promise<boolean>;
  /** Settles when either side closes it, with the ms since it was made. */
  readonly closed: Promise<number>;
  received = '';

  constructor(base: string) {
    const { hostname, port } = new URL(base);
    const start = performance.now();
    this.socket = connect({ host: hostname, port: Number(port), noDelay: true });
    this.connected = new Promise((resolve) => {
      this.socket.once('connect', () => resolve(true));
      this.socket.once('close', () => resolve(false));
    });
    this.closed = new Promise((resolve) => {
      this.socket.once('close', () => resolve(performance.now() - start));
    });
    // A reset shows as closed.
    this.socket.on('error', () => undefined);
    this.socket.on('data', (chunk: Buffer) => {
      this.received = (this.received + chunk.toString('latin1')).slice(0, 10_000);
    });
  }

  get isClosed(): boolean {
    return this.socket.destroyed;
  }

  /** The status of the first answer; undefined before there is one. */
  get status(): number | undefined {
    const status = /^HTTP\/1\.1 (\d{3})/.exec(this.received)?.[1];
    return status === undefined ? undefined : Number(status);
  }

  /** Sends unless it is closed; settles when the system has taken the bytes, or no longer will. */
  write(bytes: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.isClosed) resolve();
      else this.socket.write(bytes, () => resolve());
    });
  }
}

/** Opens `count` connections, in waves that fit into the system's queue of new connections. */
export async function openConnections(base: string, count: number): Promise<readonly AttackConnection[]> {
  const connections: AttackConnection[] = [];
  while (connections.length < count) {
    const wave = Array.from({ length: Math.min(200, count - connections.length) }, () => new AttackConnection(base));
    await Promise.all(wave.map(({ connected }) => connected));
    connections.push(...wave);
  }
  return connections;
}

/** The results of normal clients. */
export interface ServiceReport {
  readonly requests: number;
  /** Answers other than 202, and requests without an answer. */
  readonly failures: readonly string[];
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Counts on `key` over a few connections, one request at a time each, until `stop`. */
export class GoodClient {
  readonly #agent = new Agent({ keepAlive: true });
  readonly #latenciesMs: number[] = [];
  readonly #failures: string[] = [];
  readonly #loops: Promise<void>[];
  #stopped = false;

  constructor(base: string, key: string) {
    this.#loops = Array.from({ length: 4 }, () => this.#run(base, key));
  }

  /** Settles after this many more answers: a quantile of fewer is meaningless. */
  async served(count: number): Promise<void> {
    const target = this.#latenciesMs.length + count;
    await eventually(`${count} answers`, async () => this.#latenciesMs.length >= target, 60_000);
  }

  async stop(): Promise<ServiceReport> {
    this.#stopped = true;
    await Promise.all(this.#loops);
    this.#agent.destroy();
    const sorted = this.#latenciesMs.toSorted((a, b) => a - b);
    const quantile = (q: number): number => Math.round((sorted[Math.floor(q * (sorted.length - 1))] ?? 0) * 10) / 10;
    return {
      requests: sorted.length,
      failures: this.#failures,
      p50Ms: quantile(0.5),
      p99Ms: quantile(0.99),
      maxMs: quantile(1),
    };
  }

  async #run(base: string, key: string): Promise<void> {
    while (!this.#stopped) {
      const start = performance.now();
      try {
        const answer = await increment(base, { [key]: 1 }, { agent: this.#agent });
        if (answer.status !== 202) this.#failures.push(answer.body);
      } catch (error) {
        this.#failures.push(String(error));
      }
      this.#latenciesMs.push(performance.now() - start);
      // The attack in this process needs its turn, too.
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}

/** Resident memory of a server in MiB. */
export function residentMib(server: TestServer): number {
  const status = readFileSync(`/proc/${server.child.pid ?? 0}/status`, 'utf8');
  return Math.round((Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024) / MIB);
}

/** Maximum number of files, and so sockets, of a process here: the hard limit, which Node uses. */
export function openFilesMax(): number {
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
}
