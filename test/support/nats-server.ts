/** A real nats-server, or a cluster of them, as children of the test. Debian has it as the package nats-server. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { jetstreamManager } from '@nats-io/jetstream';
import { freePort } from './free-port.js';

const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin`;
/** Output that is kept for a failure, in characters. */
const OUTPUT_MAX = 20_000;
/** The exit code of a program in Go after a panic. */
const GO_PANIC = 2;
/** A cluster forms within 5 s, if it does. */
const FORMATION_MS = 20_000;
const PAUSE_MS = 300;
/** How often a cluster that does not form is started anew. */
const RESTARTS_MAX = 3;

/** Why a test with NATS must be skipped on this machine, or false. In continuous integration it must not. */
export function natsServerMissing(): string | false {
  const isThere = spawnSync('nats-server', ['--version'], { env: { ...process.env, PATH } }).status === 0;
  return isThere || process.env['CI'] === 'true'
    ? false
    : 'nats-server is not installed (Debian: apt-get install nats-server)';
}

/** One server. Its directory and ports stay over a restart. */
export class NatsServer {
  readonly directory: string;
  readonly port: number;
  readonly #configuration: string;
  #child: ChildProcess | undefined;
  #output = '';

  constructor(directory: string, port: number, configuration: string) {
    this.directory = directory;
    this.port = port;
    this.#configuration = configuration;
  }

  /** A single server with JetStream. `configuration`: further lines. */
  static async start(configuration = ''): Promise<NatsServer> {
    const directory = await mkdtemp(join(tmpdir(), 'summing-counters-nats-'));
    const server = new NatsServer(directory, await freePort(), configuration);
    await server.start();
    return server;
  }

  /** `127.0.0.1:PORT`. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** The value of JOURNAL. */
  get journal(): string {
    return `nats://${this.address}`;
  }

  /** The process, while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /**
   * Starts the process; settles when it listens. `configuration`: for this time in place of its own. One that panics is started again,
   * as a service manager would: 2.9 reads a message of a stream that is just being made through a nil pointer.
   */
  async start(configuration = this.#configuration): Promise<void> {
    const file = join(this.directory, 'server.conf');
    const lines = [
      'host: 127.0.0.1',
      `port: ${this.port}`,
      ...(configuration.includes('jetstream') ? [] : [`jetstream { store_dir: "${join(this.directory, 'store')}" }`]),
      configuration.replaceAll('DIRECTORY', this.directory),
    ];
    await writeFile(file, `${lines.join('\n')}\n`);
    const child = spawn('nats-server', ['-c', file], {
      env: { ...process.env, PATH },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    this.#output = '';
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`nats-server did not start: ${this.#output}`)));
      child.stderr?.on('data', (chunk: Buffer) => {
        this.#output = (this.#output + chunk.toString()).slice(-OUTPUT_MAX);
        if (this.#output.includes('Server is ready')) resolve();
      });
    });
    child.once('exit', (code) => {
      if (code !== GO_PANIC) return;
      console.error(this.#output);
      this.start(configuration).catch(console.error);
    });
  }

  /** Ends the process; settles when it is gone. */
  async stop(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** Deletes what a stopped server has stored. */
  async wipe(): Promise<void> {
    await rm(join(this.directory, 'store'), { recursive: true, force: true });
  }

  /** Stops the process without ending it, or lets it go on. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(signal);
  }

  /** Ends it at once and deletes its files. */
  async dispose(): Promise<void> {
    this.#child?.kill('SIGCONT');
    await this.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Several servers that replicate streams. */
export class NatsCluster {
  readonly servers: readonly NatsServer[];

  private constructor(servers: readonly NatsServer[]) {
    this.servers = servers;
  }

  /** Starts a cluster; settles when all servers listen. JetStream needs some seconds more to elect a leader. */
  static async begin(size = 3): Promise<NatsCluster> {
    const routes: number[] = [];
    for (let index = 0; index < size; index += 1) routes.push(await freePort());
    const urls = routes.map((port) => `nats://127.0.0.1:${port}`).join(', ');
    const servers: NatsServer[] = [];
    for (const [index, route] of routes.entries()) {
      const directory = await mkdtemp(join(tmpdir(), 'summing-counters-nats-'));
      const configuration = [
        `server_name: server-${index}`,
        'jetstream { store_dir: "DIRECTORY/store" }',
        `cluster { name: test, listen: "127.0.0.1:${route}", routes: [${urls}] }`,
      ].join('\n');
      servers.push(new NatsServer(directory, await freePort(), configuration));
    }
    const cluster = new NatsCluster(servers);
    try {
      await cluster.#startServers();
    } catch (error) {
      await cluster.dispose();
      throw error;
    }
    return cluster;
  }

  /**
   * Starts a cluster; settles when it takes streams. About one start in twenty of 2.10 never does ("no suitable peers for placement",
   * though a leader is elected): then all its servers are started again, as an operator would.
   */
  static async start(): Promise<NatsCluster> {
    const cluster = await NatsCluster.begin();
    try {
      for (let restart = 0; !(await cluster.#takesStreams(restart === RESTARTS_MAX)); restart += 1) {
        await Promise.all(cluster.servers.map((server) => server.stop()));
        await cluster.#startServers();
      }
    } catch (error) {
      await cluster.dispose();
      throw error;
    }
    return cluster;
  }

  async #startServers(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.start()));
  }

  /** Whether a replicated stream can be made. `mustBe`: throws why not. */
  async #takesStreams(mustBe: boolean): Promise<boolean> {
    const connection = await connect({ servers: this.servers.map(({ address }) => address) });
    const probe = async (): Promise<string | true> => {
      try {
        const manager = await jetstreamManager(connection);
        await manager.streams.add({ name: 'probe', subjects: ['probe'], num_replicas: this.servers.length });
        await manager.streams.delete('probe');
        return true;
      } catch (error) {
        return String(error);
      }
    };
    try {
      let outcome = await probe();
      for (const deadline = performance.now() + FORMATION_MS; outcome !== true && performance.now() < deadline;) {
        await sleep(PAUSE_MS);
        outcome = await probe();
      }
      if (outcome !== true) console.error(`The cluster takes no stream: ${outcome}`);
      if (outcome !== true && mustBe) throw new Error(outcome);
      return outcome === true;
    } finally {
      await connection.close();
    }
  }

  /** The value of JOURNAL. */
  get journal(): string {
    return `nats://${this.servers.map(({ address }) => address).join(',')}`;
  }

  /** Ends all and deletes their files. */
  async dispose(): Promise<void> {
    for (const server of this.servers) await server.dispose();
  }
}
