/**
 * Clients that mean no good, in numbers; a client that means well meanwhile; and what a process takes of the machine.
 */
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { connect, type Socket } from 'node:net';
import { eventually } from './eventually.js';
import { increment } from './http.js';
import type { TestServer } from './server.js';

const MIB = 1024 * 1024;

/** One connection of an attack: what it got and when it was closed. */
export class AttackConnection {
  readonly socket: Socket;
  /** Settles when it is connected; false where it never was. */
  readonly connected: Promise<boolean>;
  /** Settles with the ms since it was made when it is closed, by whomever. */
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

  /** Sends unless it is closed; settles when the system has taken it, or will not any more. */
  write(bytes: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.isClosed) resolve();
      else this.socket.write(bytes, () => resolve());
    });
  }
}

/** Opens so many connections, in waves that the system's queue of new connections holds. */
export async function openConnections(base: string, count: number): Promise<readonly AttackConnection[]> {
  const connections: AttackConnection[] = [];
  while (connections.length < count) {
    const wave = Array.from({ length: Math.min(200, count - connections.length) }, () => new AttackConnection(base));
    await Promise.all(wave.map(({ connected }) => connected));
    connections.push(...wave);
  }
  return connections;
}

/** What clients that mean well had of the server. */
export interface ServiceReport {
  readonly requests: number;
  /** Answers other than 202, and requests without one. */
  readonly failures: readonly string[];
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Counts on `key` over a few connections, one request at a time each, until it is told to stop. */
export class GoodClient {
  readonly #agent = new Agent({ keepAlive: true });
  readonly #latenciesMs: number[] = [];
  readonly #failures: string[] = [];
  readonly #loops: Promise<void>[];
  #stopped = false;

  constructor(base: string, key: string) {
    this.#loops = Array.from({ length: 4 }, () => this.#run(base, key));
  }

  /** Settles when it has had so many answers from now on: a quantile of fewer says nothing. */
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
      // What the attack does in this process must have its turn too.
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}

/** Resident memory of a server in MiB. */
export function residentMib(server: TestServer): number {
  const status = readFileSync(`/proc/${server.child.pid ?? 0}/status`, 'utf8');
  return Math.round((Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024) / MIB);
}

/** Most files, so sockets, that a process may have open here: the hard limit, which Node takes. */
export function openFilesMax(): number {
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
}
