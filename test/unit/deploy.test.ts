/** The files of `deploy/`, `compose.yaml` and the workflows agree with the product. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readConfig } from '#product/config/read-config.js';
import { settings } from '#product/config/settings.js';
import {
  composeProblems,
  environmentOf,
  isServer,
  readComposeFile,
  repositoryRoot as root,
  servicesOf,
} from '../support/compose-file.js';

const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const unit = read('deploy/systemd/summing-counters.service');
const variables = new Set<string>(Object.values(settings).map(({ variable }) => variable));

/** The value of a line of the unit. */
function directive(name: string): string {
  const lines = [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value);
  assert.equal(lines.length, 1, name);
  return lines[0] ?? '';
}

test('the systemd unit starts the built server, waits longer than a stop may take, and signals the server alone', () => {
  const program = /^\/usr\/bin\/node \/opt\/summing-counters\/(\S+)$/.exec(directive('ExecStart'))?.[1] ?? '';
  assert.ok(existsSync(join(root, program)), program);
  assert.ok(Number(directive('TimeoutStopSec')) * 1000 > Number(settings.shutdownTimeoutMs.fallback));
  assert.equal(directive('KillMode'), 'mixed');
  assert.match(directive('ExecReload'), /kill -HUP \$MAINPID/);
  assert.match(directive('RestartPreventExitStatus'), /\b78\b/);
});

test('the environment of the unit names settings only', () => {
  const named = [
    ...[...read('deploy/systemd/environment').matchAll(/^#?([A-Z_]+)=/gm)].map(([, name = '']) => name),
    ...[...unit.matchAll(/^Environment=([A-Z_]+)=/gm)].map(([, name = '']) => name),
  ].filter((name) => name !== 'NODE_ENV');
  assert.ok(named.length > 4, named.join(' '));
  assert.deepEqual(
    named.filter((name) => !variables.has(name)),
    [],
  );
});

test('the unit of several servers on a machine differs from that of one in names, directory and settings alone', () => {
  const linesOf = (text: string): readonly string[] => text.split('\n').filter((line) => !line.startsWith('#'));
  const one = linesOf(unit);
  const several = linesOf(read('deploy/systemd/summing-counters@.service'));
  assert.deepEqual(
    several.filter((line) => !one.includes(line)),
    [
      'Description=summing-counters %i, exact sums over HTTP',
      'Environment=DATA_DIR=/var/lib/summing-counters-%i',
      'EnvironmentFile=/etc/summing-counters/%i.environment',
      'StateDirectory=summing-counters-%i',
    ],
  );
  assert.equal(several.length, one.length + 1);
});

const compose = readComposeFile();
const servers = Object.entries(compose.services).filter(([, service]) => isServer(service));
const profiles = [undefined, 'two-nodes', 'fleet'] as const;

test('compose.yaml is a file of the Compose Specification, which a misspelled member is not', () => {
  assert.deepEqual(composeProblems(compose), []);
  assert.equal(composeProblems({ services: { counters: { image: 'x', healthchek: {} } } }).length > 0, true);
});

test('each profile of compose.yaml starts its services, with what they depend on', () => {
  const started = profiles.map((profile) => servicesOf(compose, profile).map(([name]) => name));
  assert.deepEqual(started, [
    ['counters', 'database'],
    ['counters', 'counters-2', 'database'],
    ['counters', 'ingest', 'roll-up', 'nats-0', 'nats-1', 'nats-2', 'database'],
  ]);
  for (const profile of profiles) {
    const services = servicesOf(compose, profile);
    const needed = services.flatMap(([, { depends_on = {} }]) => Object.keys(depends_on));
    assert.deepEqual(
      needed.filter((name) => !services.some(([other]) => other === name)),
      [],
    );
  }
});

test('the servers of compose.yaml get settings only, which the server accepts', () => {
  assert.equal(servers.length, 4);
  for (const [name, service] of servers) {
    const env = environmentOf(service);
    assert.deepEqual(
      Object.keys(env).filter((variable) => !variables.has(variable)),
      [],
      name,
    );
    const config = readConfig(env);
    assert.ok(config.databaseUrl?.includes('@database/'), name);
    const graceMs = Number.parseInt(service.stop_grace_period ?? '', 10) * 1000;
    assert.ok(graceMs > config.shutdownTimeoutMs + config.drainDelayMs, name);
    assert.ok(service.ports?.every((port) => port.endsWith(`:${config.port}`)) ?? config.role === 'roll-up', name);
  }
});

test('each server of compose.yaml with a file journal has a volume of its own, and the others need none', () => {
  const volumes: string[] = [];
  for (const [name, service] of servers) {
    const mounts = (service.volumes ?? []).map((mount) => mount.split(':'));
    if (readConfig(environmentOf(service)).journal === 'file') {
      assert.deepEqual(
        mounts.map(([, path]) => path),
        ['/data'],
        name,
      );
      assert.equal(service.deploy, undefined, 'its copies would share the volume');
      volumes.push(...mounts.map(([volume = '']) => volume));
    } else assert.ok(service.tmpfs?.startsWith('/data:uid=10001,') === true && service.read_only === true, name);
  }
  assert.equal(new Set(volumes).size, 2);
  for (const volume of volumes) assert.ok(volume in compose.volumes, volume);
});

test('the brokers of compose.yaml are those that its servers name, and the routes of each other', () => {
  const brokers = Object.entries(compose.services).filter(([, { image }]) => image?.startsWith('nats:'));
  for (const [name, service] of servers.filter(([, service]) => service.profiles?.includes('fleet'))) {
    const { nats, natsReplicas } = readConfig(environmentOf(service));
    assert.deepEqual(
      nats?.servers,
      brokers.map(([broker]) => `${broker}:4222`),
      name,
    );
    assert.equal(natsReplicas, brokers.length);
  }
  const routes = brokers.map(([broker]) => `nats://${broker}:6222`).join(',');
  for (const [name, { command, environment }] of brokers) {
    assert.ok(command?.includes(`--routes=${routes}`), name);
    assert.deepEqual(environment, { SERVER_NAME: name });
  }
});

test('the servers of each profile of compose.yaml leave connections of PostgreSQL free', () => {
  for (const profile of profiles) {
    const connections = servicesOf(compose, profile)
      .filter(([, service]) => isServer(service))
      .map(([, service]) => (service.deploy?.replicas ?? 1) * (3 * readConfig(environmentOf(service)).shards + 2));
    assert.ok(connections.reduce((sum, more) => sum + more) < 97, profile);
  }
});

test('the workflows run .ci/run', () => {
  for (const file of ['ci.yml', 'release.yml']) assert.match(read(`.github/workflows/${file}`), /run: .*\.ci\/run$/m);
  assert.deepEqual(readdirSync(join(root, '.github/workflows')).sort(), ['ci.yml', 'release.yml']);
});
