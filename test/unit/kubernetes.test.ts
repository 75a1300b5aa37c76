/** The manifests below `deploy/kubernetes`, rendered as `kubectl apply -k` renders them, agree with Kubernetes and the product. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { parse } from 'yaml';
import type { Config } from '#product/config/config.js';
import { readConfig } from '#product/config/read-config.js';
import { settings } from '#product/config/settings.js';
import { api } from '#product/http/api.js';
import { repositoryRoot } from '../support/compose-file.js';
import { kubectlMissing, renderKustomization, schemaProblems, type Manifest } from '../support/kubernetes.js';

const MIB = 2 ** 20;
const UNITS: Readonly<Record<string, number>> = { Mi: MIB, Gi: 1024 * MIB };
/** PostgreSQL's default of max_connections, less those that it reserves. */
const CONNECTIONS_MAX = 97;
const manifests = join(repositoryRoot, 'deploy/kubernetes');
const overlays = join(manifests, 'overlays');
const read = (path: string): string => readFileSync(join(manifests, path), 'utf8');
const shapes = ['file', 'nats', 'postgres', 'sqs'] as const;
type Shape = (typeof shapes)[number];
const variables = new Set<string>(Object.values(settings).map(({ variable }) => variable));

type Labels = Readonly<Record<string, string>>;

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string };
}

interface Container {
  readonly name: string;
  readonly image: string;
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly envFrom?: readonly { readonly configMapRef: { readonly name: string } }[];
  readonly command?: readonly string[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly readinessProbe: Probe;
  readonly livenessProbe: Probe;
  readonly resources: {
    readonly requests: Readonly<Record<'cpu' | 'memory', string>>;
    readonly limits?: { readonly memory: string };
  };
  readonly securityContext: {
    readonly readOnlyRootFilesystem: boolean;
    readonly allowPrivilegeEscalation: boolean;
    readonly capabilities: { readonly drop: readonly string[] };
  };
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string; readonly readOnly?: boolean }[];
}

/** A Deployment or a StatefulSet. */
interface WorkloadSpec {
  readonly replicas?: number;
  readonly serviceName?: string;
  readonly strategy?: { readonly rollingUpdate: { readonly maxSurge: number } };
  readonly selector: { readonly matchLabels: Labels };
  readonly template: {
    readonly metadata: { readonly labels: Labels };
    readonly spec: {
      readonly containers: readonly [Container];
      readonly enableServiceLinks: boolean;
      readonly terminationGracePeriodSeconds: number;
      readonly securityContext: { readonly runAsNonRoot: boolean; readonly runAsUser: number };
      readonly volumes?: readonly { readonly name: string; readonly secret?: { readonly secretName: string } }[];
    };
  };
  readonly volumeClaimTemplates?: readonly {
    readonly metadata: { readonly name: string };
    readonly spec: { readonly resources: { readonly requests: { readonly storage: string } } };
  }[];
}

interface Workload {
  readonly kind: string;
  readonly name: string;
  readonly spec: WorkloadSpec;
  readonly container: Container;
  readonly labels: Labels;
}

/** A PodDisruptionBudget has `selector`, a NetworkPolicy `podSelector`. */
interface SelectingSpec {
  readonly selector?: { readonly matchLabels: Labels };
  readonly podSelector?: { readonly matchLabels: Labels };
}

interface AutoscalerSpec {
  readonly scaleTargetRef: { readonly name: string };
  readonly maxReplicas: number;
}

/** The manifests of a shape. Their members are what the test of the schemas says they are. */
class Rendered {
  readonly manifests: readonly Manifest[];
  readonly workloads: readonly Workload[];

  constructor(shape: Shape) {
    this.manifests = renderKustomization(join(overlays, shape));
    this.workloads = this.manifests
      .filter(({ kind }) => kind === 'Deployment' || kind === 'StatefulSet')
      .map(({ kind, metadata, spec }) => {
        const workload = spec as WorkloadSpec;
        const { metadata: pod, spec: podSpec } = workload.template;
        return { kind, name: metadata.name, spec: workload, container: podSpec.containers[0], labels: pod.labels };
      });
  }

  /** The workloads of our servers. */
  get servers(): readonly Workload[] {
    return this.workloads.filter(({ labels }) => labels['app.kubernetes.io/name'] === 'summing-counters');
  }

  /** Those of one kind. */
  of(kind: string): readonly Manifest[] {
    return this.manifests.filter((manifest) => manifest.kind === kind);
  }

  /** The environment of a container, without values that come from its pod. */
  environmentOf({ env = [], envFrom = [] }: Container): Readonly<Record<string, string>> {
    const maps = envFrom.map(({ configMapRef }) => {
      const map = this.manifests.find(
        ({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === configMapRef.name,
      );
      assert.ok(map?.data !== undefined, configMapRef.name);
      return map.data;
    });
    const own = env.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value] as const]));
    return Object.assign({}, ...maps, Object.fromEntries(own)) as Readonly<Record<string, string>>;
  }
}

function bytesOf(quantity: string): number {
  const [, number = '', unit = ''] = /^(\d+)(\w+)$/.exec(quantity) ?? [];
  const factor = UNITS[unit];
  assert.ok(factor !== undefined, quantity);
  return Number(number) * factor;
}

function selectorOf(spec: unknown): Labels {
  const { selector, podSelector } = spec as SelectingSpec;
  return (selector ?? podSelector)?.matchLabels ?? assert.fail('it selects nothing');
}

function matches(selector: Labels, labels: Labels): boolean {
  return Object.entries(selector).every(([name, value]) => labels[name] === value);
}

const secrets = mkdtempSync(join(tmpdir(), 'summing-counters-secrets-'));
after(() => rmSync(secrets, { recursive: true }));

/** What the server makes of an environment, with files of the test in place of mounted secrets. */
function configOf(env: Readonly<Record<string, string>>): Config {
  const contents: Readonly<Record<string, string>> = {
    'database-url': 'postgresql://counters:secret@db/counters',
    tokens: 'admin:0123456789abcdef0123456789abcdef',
  };
  const here = Object.entries(env).map(([name, value]) => {
    const [, file] = /^\/etc\/summing-counters\/(.+)$/.exec(value) ?? [];
    if (file === undefined) return [name, value] as const;
    const path = join(secrets, file);
    writeFileSync(path, contents[file] ?? assert.fail(`no key of the secret is ${file}`));
    return [name, path] as const;
  });
  return readConfig(Object.fromEntries(here));
}

test('there is an overlay for each shape, and every setting that one of them names exists', () => {
  assert.deepEqual(readdirSync(overlays).sort(), shapes);
  for (const shape of shapes) {
    const text = read(`overlays/${shape}/settings.env`);
    const names = Array.from(text.matchAll(/^([^=\n]+)=/gm), ([, name = '']) => name);
    assert.ok(names.includes('JOURNAL'), shape);
    assert.deepEqual(
      names.filter((name) => !variables.has(name)),
      [],
      shape,
    );
  }
});

describe('rendered with kubectl', { skip: kubectlMissing() }, () => {
  for (const shape of shapes) {
    let cached: Rendered | undefined;
    const render = (): Rendered => (cached ??= new Rendered(shape));

    test(`${shape}: every manifest matches the schema of its kind, with no unknown member`, async () => {
      const problems = await Promise.all(render().manifests.map(schemaProblems));
      assert.deepEqual(problems.flat(), []);
      assert.ok(render().manifests.length >= 6);
    });

    test(`${shape}: the servers get settings only, which the server accepts`, () => {
      for (const { name, container } of render().servers) {
        const env = render().environmentOf(container);
        assert.deepEqual(
          Object.keys(env).filter((variable) => !variables.has(variable)),
          [],
          name,
        );
        assert.equal(env['DATABASE_URL'] ?? env['AUTH_TOKENS'], undefined, 'secrets are in files');
        const { journal, role } = configOf(env);
        assert.equal(journal, shape);
        assert.equal(role, container.env?.find((variable) => variable.name === 'ROLE')?.value ?? 'serve');
      }
    });

    test(`${shape}: a stop has more time than SHUTDOWN_TIMEOUT_MS and DRAIN_DELAY_MS, and memory is enough for its bounds`, () => {
      for (const { name, spec, container } of render().servers) {
        const env: Readonly<Record<string, string>> = { ...render().environmentOf(container), JOURNAL: 'postgres' };
        const { shutdownTimeoutMs, drainDelayMs, pendingBytesMax } = configOf(env);
        assert.ok(drainDelayMs > 0);
        assert.ok(spec.template.spec.terminationGracePeriodSeconds * 1000 > shutdownTimeoutMs + drainDelayMs, name);
        assert.ok(bytesOf(container.resources.limits?.memory ?? '') >= 4 * pendingBytesMax + 100 * MIB, name);
      }
    });

    test(`${shape}: no container is root or writes outside of its mounts, and the server's data directory is one of them`, () => {
      const dockerfile = readFileSync(join(repositoryRoot, 'Dockerfile'), 'utf8');
      const [, user] = /^USER (\d+):/m.exec(dockerfile) ?? [];
      const [, dataDir] = /\bDATA_DIR=(\S+)/.exec(dockerfile) ?? [];
      for (const { name, spec, container } of render().workloads) {
        const { runAsNonRoot, runAsUser } = spec.template.spec.securityContext;
        const { readOnlyRootFilesystem, allowPrivilegeEscalation, capabilities } = container.securityContext;
        assert.deepEqual(
          { runAsNonRoot, runAsUser, readOnlyRootFilesystem, allowPrivilegeEscalation, drop: capabilities.drop },
          {
            runAsNonRoot: true,
            runAsUser: Number(user),
            readOnlyRootFilesystem: true,
            allowPrivilegeEscalation: false,
            drop: ['ALL'],
          },
          name,
        );
        const writable = container.volumeMounts.filter(({ readOnly }) => readOnly !== true);
        assert.deepEqual(
          writable.map(({ mountPath }) => mountPath),
          [dataDir],
          name,
        );
        const volumes = [...(spec.template.spec.volumes ?? []), ...(spec.volumeClaimTemplates ?? [])];
        const names = volumes.map((volume) => ('name' in volume ? volume.name : volume.metadata.name));
        assert.deepEqual(container.volumeMounts.map((mount) => mount.name).sort(), names.sort(), name);
        // Names of services would be settings of the server.
        assert.equal(spec.template.spec.enableServiceLinks, false);
      }
    });

    test(`${shape}: probes ask the operations of the server, on its port`, () => {
      for (const { container } of render().servers) {
        const port = container.ports.find(({ name }) => name === container.readinessProbe.httpGet.port);
        assert.equal(String(port?.containerPort), settings.port.fallback);
        assert.equal(container.readinessProbe.httpGet.path, '/readyz');
        assert.equal(container.livenessProbe.httpGet.path, '/healthz');
      }
      const paths = Object.values(api).map(({ path }) => path);
      for (const path of ['/readyz', '/healthz']) assert.ok(paths.some((other) => other === path));
    });

    test(`${shape}: each workload is selected by itself, a disruption budget and a network policy, and its service exists`, () => {
      const { workloads } = render();
      const selectors = (kind: string): readonly Labels[] =>
        render()
          .of(kind)
          .map(({ spec }) => selectorOf(spec));
      for (const { name, spec, labels } of workloads) {
        const chosen = workloads.filter((other) => matches(spec.selector.matchLabels, other.labels));
        assert.deepEqual(
          chosen.map((other) => other.name),
          [name],
        );
        for (const kind of ['PodDisruptionBudget', 'NetworkPolicy']) {
          assert.equal(selectors(kind).filter((selector) => matches(selector, labels)).length, 1, `${kind} of ${name}`);
        }
        const services = render()
          .of('Service')
          .map(({ metadata }) => metadata.name);
        assert.ok(spec.serviceName === undefined || services.includes(spec.serviceName));
      }
      const front = render()
        .of('Service')
        .find(({ metadata }) => metadata.name === 'summing-counters');
      assert.ok(front !== undefined);
      const { selector } = front.spec as { readonly selector: Labels };
      for (const { name, labels, container } of render().servers) {
        const takes = render().environmentOf(container)['ROLE'] !== 'roll-up';
        assert.equal(matches(selector, labels), takes, name);
      }
    });

    test(`${shape}: at its largest it leaves connections of PostgreSQL free`, () => {
      const autoscalers = render()
        .of('HorizontalPodAutoscaler')
        .map(({ spec }) => spec as AutoscalerSpec);
      const connections = render().servers.map(({ name, spec, container }) => {
        const most = autoscalers.find(({ scaleTargetRef }) => scaleTargetRef.name === name)?.maxReplicas;
        const replicas = (spec.replicas ?? most ?? NaN) + (spec.strategy?.rollingUpdate.maxSurge ?? 0);
        return replicas * (3 * Number(render().environmentOf(container)['SHARDS']) + 2);
      });
      assert.ok(connections.reduce((sum, more) => sum + more) < CONNECTIONS_MAX, connections.join(' '));
    });
  }

  test('file: a server has its journal on a volume of its own, which is larger than JOURNAL_MAX_BYTES of all shards', () => {
    const [server, ...others] = new Rendered('file').servers;
    assert.ok(server !== undefined && others.length === 0);
    assert.equal(server.kind, 'StatefulSet');
    const { shards, journalBytesMax } = configOf(new Rendered('file').environmentOf(server.container));
    const [claim] = server.spec.volumeClaimTemplates ?? [];
    assert.ok(bytesOf(claim?.spec.resources.requests.storage ?? '') >= shards * journalBytesMax + 512 * MIB);
  });

  test('all other shapes are Deployments, which need no volume', () => {
    for (const shape of shapes.slice(1)) {
      const { servers } = new Rendered(shape);
      assert.ok(servers.every(({ kind }) => kind === 'Deployment'));
      const roles = servers.map(({ container }) => container.env?.find(({ name }) => name === 'ROLE')?.value);
      assert.deepEqual(roles.sort(), shape === 'postgres' ? ['serve'] : ['ingest', 'roll-up']);
    }
  });

  test('nats: the servers name the brokers of the stateful set, which are each others routes and as many as replicas', () => {
    const nats = new Rendered('nats');
    const broker = nats.workloads.find(({ name }) => name === 'nats');
    assert.ok(broker !== undefined);
    const hosts = Array.from(
      { length: broker.spec.replicas ?? 0 },
      (_, n) => `nats-${n}.${broker.spec.serviceName ?? ''}`,
    );
    const routes = hosts.map((host) => `nats://${host}:6222`).join(',');
    assert.ok(broker.container.command?.includes(`--routes=${routes}`));
    for (const { container } of nats.servers) {
      const { nats: given, natsReplicas } = configOf(nats.environmentOf(container));
      assert.deepEqual(
        given?.servers,
        hosts.map((host) => `${host}:4222`),
      );
      assert.equal(natsReplicas, hosts.length);
    }
  });
});

test('the pod for commands on a journal matches its schema, and mounts the volume that the stateful set claims', async () => {
  const pod = parse(read('journal-pod.yaml')) as Manifest;
  assert.deepEqual(await schemaProblems(pod), []);
  const set = parse(read('bases/file/stateful-set.yaml')) as Manifest & { readonly spec: WorkloadSpec };
  const claim = set.spec.volumeClaimTemplates?.[0]?.metadata.name ?? '';
  assert.ok(JSON.stringify(pod.spec).includes(`"claimName":"${claim}-${set.metadata.name}-0"`));
});

test('a manifest with a misspelled member, or a value of the wrong type, has problems', async () => {
  const container = { name: 'server', image: 'x', readinesProbe: {} };
  const template = { metadata: { labels: { a: 'b' } }, spec: { containers: [container] } };
  const manifest = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'counters' },
    spec: { replicas: 2, selector: { matchLabels: { a: 'b' } }, template },
  };
  assert.deepEqual(await schemaProblems(manifest), [
    'Deployment counters.spec.template.spec.containers.0.readinesProbe is unknown',
  ]);
  const wrong = await schemaProblems({ ...manifest, spec: { ...manifest.spec, replicas: 'two' } });
  assert.match(wrong.join(), /\/spec\/replicas must be integer/);
  assert.deepEqual(await schemaProblems({ ...manifest, kind: 'Deploymant' }), ['apps/v1 has no Deploymant']);
});
