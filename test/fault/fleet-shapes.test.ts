/**
 * The profiles of compose.yaml as processes of this machine: the servers with the settings of their services, the brokers with
 * the file that they mount. A node is killed, the fleet grows and shrinks, and every acknowledged increment counts once.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import {
  environmentOf,
  isServer,
  readComposeFile,
  repositoryRoot,
  servicesOf,
  type ComposeService,
} from '../support/compose-file.js';
import { CountedNode } from '../support/counted-node.js';
import { connectTo, createTestDatabase, type TestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { Load } from '../support/load.js';
import { LoadCommand } from '../support/load-command.js';
import { NatsServer, natsServerMissing } from '../support/nats-server.js';
import { History } from '../support/history/history.js';
import { freePort } from '../support/free-port.js';
import { assertCleanStop } from '../support/suite-server.js';
import { seededRandom } from '../support/random.js';
import type { TestServer } from '../support/server.js';

/** A stream is taken over within fifteen seconds; the machine may be slow. */
const TAKEOVER_MS = 45_000;

interface Member {
  readonly node: CountedNode;
  server: TestServer;
}

/** The servers of a profile, with the database and the brokers behind them. */
class Fleet {
  readonly database: TestDatabase;
  readonly #addresses: Readonly<Record<string, string>>;
  readonly brokers: readonly NatsServer[];
  readonly #random = seededRandom('fleet shapes');
  readonly #history = new History(this.#random);
  readonly #members: Member[] = [];
  readonly #loads: Load[] = [];

  private constructor(database: TestDatabase, brokers: ReadonlyMap<string, NatsServer>) {
    this.database = database;
    this.brokers = [...brokers.values()];
    this.#addresses = Object.fromEntries([...brokers].map(([name, broker]) => [`${name}:4222`, broker.address]));
  }

  /** Starts what the servers of the profile depend on. */
  static async prepare(profile?: string): Promise<Fleet> {
    const names = servicesOf(readComposeFile(), profile).flatMap(([name, { image }]) =>
      image?.startsWith('nats:') === true ? [name] : [],
    );
    const brokers = await startBrokers(names);
    return new Fleet(await createTestDatabase(), brokers);
  }

  /** Starts one more process of a service; settles when it is ready. */
  async start(service: ComposeService): Promise<Member> {
    const env = Object.entries(environmentOf(service)).map(([name, value]) => [name, this.#reachable(value)] as const);
    const node = await CountedNode.make('fleet shapes', {
      databaseUrl: this.database.url,
      env: { SHARDS: '1', ...Object.fromEntries(env), DATABASE_URL: this.database.url },
      history: this.#history,
      random: this.#random,
    });
    const member = { node, server: await node.start() };
    this.#members.push(member);
    return member;
  }

  /** Each service of ours in the profile, as often as it has replicas. */
  async startAll(profile: string | undefined, except: readonly string[] = []): Promise<readonly Member[]> {
    const services = servicesOf(readComposeFile(), profile)
      .filter(([name, service]) => isServer(service) && !except.includes(name))
      .flatMap(([, service]) => Array.from({ length: service.deploy?.replicas ?? 1 }, () => service));
    return Promise.all(services.map((each) => this.start(each)));
  }

  load(members: readonly Member[], name: string): Load {
    const urls = members.map(({ node }) => node.url);
    const load = new Load({ urls, connections: urls.length, history: this.#history, repeatElsewhere: true, name });
    this.#loads.push(load);
    return load;
  }

  /** Waits until the streams of servers that are gone have ended: `open` are left, one for each shard that takes increments. */
  async streamsLeft(open: number): Promise<void> {
    const connection = await connectTo(this.database.url);
    try {
      const text =
        'select count(*)::int as open from journal_checkpoints where closed_at is null and retired_at is null';
      await eventually(
        'the end of streams whose server is gone',
        async () => (await connection.query<{ open: number }>({ text }))[0]?.open === open,
        TAKEOVER_MS,
      );
    } finally {
      await connection.close();
    }
  }

  async dispose(): Promise<void> {
    const stopped = this.#loads.map((load) => load.stop());
    for (const { node } of this.#members) await node.dispose();
    await Promise.all(stopped);
    for (const broker of this.brokers) await broker.dispose();
    await this.database.drop();
  }

  /** Names of services as addresses of this machine. */
  #reachable(value: string): string {
    return Object.entries(this.#addresses).reduce((text, [name, address]) => text.replace(name, address), value);
  }
}

/** Brokers that have found each other: another process may have taken one of their ports. */
async function startBrokers(names: readonly string[]): Promise<ReadonlyMap<string, NatsServer>> {
  if (names.length === 0) return new Map();
  for (let attempt = 1; ; attempt += 1) {
    const brokers = await startBrokersOnce(names);
    if (attempt === ATTEMPTS_MAX || (await haveFoundEachOther([...brokers.values()]))) return brokers;
    for (const broker of brokers.values()) await broker.dispose();
  }
}

/** Whether a stream can be replicated to all of them soon. */
async function haveFoundEachOther(brokers: readonly NatsServer[]): Promise<boolean> {
  const until = performance.now() + FORMATION_MS;
  const session = await connect({ servers: brokers.map(({ address }) => address) });
  try {
    const manager = await jetstreamManager(session, { checkAPI: false });
    while (performance.now() < until) {
      try {
        await manager.streams.add({ name: 'formation', subjects: ['formation'], num_replicas: brokers.length });
        return await manager.streams.delete('formation');
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    }
    return false;
  } finally {
    await session.close();
  }
}

/** The brokers, with the configuration that they mount and a port of this machine for each of its ports. */
async function startBrokersOnce(names: readonly string[]): Promise<ReadonlyMap<string, NatsServer>> {
  const mounted = await readFile(join(repositoryRoot, 'deploy/kubernetes/bases/nats/nats.conf'), 'utf8');
  const version = /v(\d+)\.(\d+)/.exec(natsVersion()) ?? [];
  // That of Debian 12, 2.9, does not know the setting.
  const known =
    Number(version[1]) === 2 && Number(version[2]) < 10 ? mounted.replace(/^.*sync_interval.*$/m, '') : mounted;
  const routePorts: number[] = [];
  while (routePorts.length < names.length) routePorts.push(await freePort());
  const routes = routePorts.map((port) => `nats://127.0.0.1:${port}`).join(', ');
  const brokers = new Map<string, NatsServer>();
  for (const [index, name] of names.entries()) {
    const configuration = known
      .replace('$SERVER_NAME', name)
      .replace('store_dir: /data', 'store_dir: "DIRECTORY/store"')
      .replace('http_port: 8222', `http_port: ${await freePort()}`)
      .replace('port: 6222', `listen: "127.0.0.1:${routePorts[index] ?? ''}", routes: [${routes}]`);
    const directory = await mkdtemp(join(tmpdir(), 'summing-counters-nats-'));
    brokers.set(name, new NatsServer(directory, await freePort(), configuration));
  }
  await Promise.all([...brokers.values()].map((broker) => broker.start()));
  return brokers;
}

function natsVersion(): string {
  const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin`;
  return spawnSync('nats-server', ['--version'], { env: { ...process.env, PATH }, encoding: 'utf8' }).stdout;
}

/** Attempts to start brokers, and how long each may take until they have found each other. */
const ATTEMPTS_MAX = 3;
const FORMATION_MS = 20_000;

/** What `docs/fleet.md` tells a user to try first. */
function countWithCurl(url: string): void {
  const curl = (...args: readonly string[]): string => execFileSync('curl', ['-sS', ...args], { encoding: 'utf8' });
  assert.equal(curl('-X', 'POST', `${url}/increment`, '-d', '{"page:/home": 2}'), 'created');
  assert.match(curl('-X', 'POST', `${url}/flush`), /"flushed_keys":/);
  assert.equal(curl(`${url}/key_sum?name=page:/home`), '2');
  curl('-X', 'DELETE', `${url}/counters?key=page:/home`);
}

/** `npm run load`, which compares every sum with what was acknowledged, and removes its counters. */
async function countWithLoad(url: string): Promise<void> {
  const load = new LoadCommand(['--url', url, '--duration', '1', '--rate', '300', '--delete', '--json']);
  const { code, report } = await load.report();
  assert.equal(code, 0, report.verdict.sentence);
  assert.ok(report.increments.acknowledged >= 200);
}

const { services } = readComposeFile();

function service(name: string): ComposeService {
  return services[name] ?? assert.fail(`compose.yaml has no service ${name}`);
}

test('without a profile: one node that is killed comes back with its journal, and counts what it had acknowledged', async () => {
  const fleet = await Fleet.prepare();
  try {
    const [counters] = await fleet.startAll(undefined);
    assert.ok(counters !== undefined);
    countWithCurl(counters.node.url);
    await countWithLoad(counters.node.url);
    const load = fleet.load([counters], 'one');
    await load.acknowledgements(300);
    counters.server.kill('SIGKILL');
    await counters.server.ended;
    counters.server = await counters.node.start();
    await load.acknowledgements(100);
    await load.stop();
    await counters.node.finish(counters.server);
  } finally {
    await fleet.dispose();
  }
});

test('two-nodes: one is killed and comes back, a third comes and goes, and the sums are exact', async () => {
  const fleet = await Fleet.prepare();
  try {
    const [first, second] = await fleet.startAll('two-nodes');
    assert.ok(first !== undefined && second !== undefined);
    countWithCurl(first.node.url);
    await countWithLoad(second.node.url);
    const load = fleet.load([first, second], 'two');
    await load.acknowledgements(300);
    second.server.kill('SIGKILL');
    await second.server.ended;
    await load.acknowledgements(100);
    second.server = await second.node.start();
    const third = await fleet.start(service('counters-2'));
    const more = fleet.load([third], 'three');
    await more.acknowledgements(100);
    await more.stop();
    await assertCleanStop(third.server);
    await load.acknowledgements(100);
    await load.stop();
    await second.node.flush();
    await assertCleanStop(second.server);
    await first.node.finish(first.server);
  } finally {
    await fleet.dispose();
  }
});

describe('fleet', { skip: natsServerMissing() }, () => {
  test('an ingest server is lost with its directory, then a roll-up and a broker, ingest grows and shrinks, and the sums are exact', async () => {
    const fleet = await Fleet.prepare('fleet');
    try {
      const members = await fleet.startAll('fleet', ['counters']);
      const [ingest, lost, rollUp, otherRollUp] = members;
      assert.ok(ingest !== undefined && lost !== undefined && rollUp !== undefined && otherRollUp !== undefined);
      assert.equal(members.length, 4);
      countWithCurl(ingest.node.url);
      await countWithLoad(lost.node.url);

      const load = fleet.load([ingest, lost], 'fleet');
      await load.acknowledgements(300);
      lost.server.kill('SIGKILL');
      await lost.server.ended;
      await rm(lost.node.dataDir, { recursive: true });
      await load.acknowledgements(100);
      lost.server = await lost.node.start();

      rollUp.server.kill('SIGKILL');
      await rollUp.server.ended;
      const third = await fleet.start(service('ingest'));
      const more = fleet.load([third], 'more');
      await more.acknowledgements(100);
      await more.stop();
      const stopped = await third.server.stop();
      assert.deepEqual(stopped, { code: 0, signal: null }, third.server.output);

      const [broker] = fleet.brokers;
      await broker?.stop('SIGKILL');
      await load.acknowledgements(100, TAKEOVER_MS);
      await broker?.start();
      await load.stop();

      await ingest.node.flush();
      await lost.node.flush();
      await fleet.streamsLeft(2);
      await ingest.node.compare();
      await assertCleanStop(otherRollUp.server);
    } finally {
      await fleet.dispose();
    }
  });
});
