/**
 * `npm run bench:watchers`: what many event streams cost. A server takes increments at a fixed rate, in turns without streams,
 * with all of them on the same keys, with each on keys of its own, and with two dashboards and a scrape a second. `elsewhere`
 * is the control: as `same`, but the streams are those of a second server, so what they do to the latency is what their
 * clients and the kernel take from the same cores. Prints for
 * each the latency of the increments, the server's CPU and memory, and how long a change took until a stream told it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { EventReader } from '../../test/support/event-reader.js';
import { increment, send } from '../../test/support/http.js';
import { runFixedRate } from '../load/fixed-rate-load.js';
import type { LoadFigures } from '../load/load-generator.js';
import type { WatchingCount, WatchingTask } from '../load/watching-clients.js';
import { batchWorkload, type Workload } from '../load/workload.js';
import { ownedDirectory, removeOwned, startOwned, withCleanup, type OwnedProcess } from '../processes/owned-process.js';
import { cpuTime, residentBytes } from '../processes/process-cost.js';
import { projectRoot, serverMain } from '../processes/project-paths.js';
import { provenance } from '../report/record.js';
import { markdownTable, provenanceSentence, thousands } from '../report/table.js';
import { median } from '../report/statistics.js';
import { wholeNumber } from './options.js';

const usage = `npm run bench:watchers -- [options]
Options:
  --streams N    event streams, default 1000
  --keys N       keys of each, default 100
  --rate N       increments a second, default 50000, ten in each request
  --seconds N    of each turn, default 15
  --turns N      default 2
  --deaf N       clients that do not read, besides the others, default 0
  --only NAMES   of none, dashboards, same, elsewhere, none-many, distinct, elsewhere-distinct
`;

const INCREMENTS_PER_BODY = 10;
const CONNECTIONS = 64;
const PROBE_MS = 700;
const KEYS_OF_A_CHANGE = 10_000;

interface Turn {
  readonly figures: LoadFigures;
  readonly cpuShare: number;
  readonly residentMib: number;
  readonly delaysMs: readonly number[];
  readonly count: WatchingCount | undefined;
  readonly seconds: number;
}

interface Shape {
  readonly name: string;
  /** Distinct keys that are counted. */
  readonly keys: number;
  /** Undefined: no watching clients. */
  readonly streams: Pick<WatchingTask, 'first' | 'of'> | undefined;
  readonly dashboards?: true;
  /** The streams are those of another server, whose keys change once a second. */
  readonly elsewhere?: true;
}

/** The process of the watching clients. */
class Clients {
  readonly #child: ChildProcess;
  readonly #lines: NodeJS.AsyncIterator<string>;

  private constructor(child: ChildProcess, lines: NodeJS.AsyncIterator<string>) {
    this.#child = child;
    this.#lines = lines;
  }

  static async open(task: WatchingTask): Promise<Clients> {
    const script = join(projectRoot, 'dist-test', 'bench', 'load', 'watching-clients.js');
    const child = spawn(process.execPath, [script, JSON.stringify(task)], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(child, 'spawn');
    const clients = new Clients(child, createInterface(child.stdout)[Symbol.asyncIterator]());
    await clients.#line();
    // Until the first event of each stream has come.
    await sleep(2_000);
    return clients;
  }

  async count(): Promise<WatchingCount> {
    this.#child.stdin?.write('\n');
    return this.#line();
  }

  close(): void {
    this.#child.kill('SIGTERM');
  }

  async #line(): Promise<WatchingCount> {
    const next = await this.#lines.next();
    if (next.done === true) throw new Error('the watching clients have ended');
    return JSON.parse(next.value) as WatchingCount;
  }
}

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      streams: { type: 'string', default: '1000' },
      keys: { type: 'string', default: '100' },
      rate: { type: 'string', default: '50000' },
      seconds: { type: 'string', default: '15' },
      turns: { type: 'string', default: '2' },
      deaf: { type: 'string', default: '0' },
      only: { type: 'string' },
      help: { type: 'boolean' },
    },
  });
  if (values.help === true) {
    console.log(usage);
    return;
  }
  const [streams, keys] = [wholeNumber('streams', values.streams, 1), wholeNumber('keys', values.keys, 1)];
  const [rate, seconds] = [wholeNumber('rate', values.rate, 10), wholeNumber('seconds', values.seconds, 2)];
  const deaf = wholeNumber('deaf', values.deaf, 0);
  const all: readonly Shape[] = [
    { name: 'none', keys: 1_000, streams: undefined },
    { name: 'dashboards', keys: 1_000, streams: undefined, dashboards: true },
    { name: 'same', keys: 1_000, streams: { first: 0, of: 1_000 } },
    { name: 'elsewhere', keys: 1_000, streams: { first: 0, of: 1_000 }, elsewhere: true },
    { name: 'none-many', keys: streams * keys, streams: undefined },
    {
      name: 'elsewhere-distinct',
      keys: streams * keys,
      streams: { first: keys, of: streams * keys },
      elsewhere: true,
    },
    { name: 'distinct', keys: streams * keys, streams: { first: keys, of: streams * keys } },
  ];
  const shapes = all.filter(({ name }) => values.only === undefined || values.only.split(',').includes(name));
  const turns = new Map<string, Turn[]>();
  for (let turn = 0; turn < wholeNumber('turns', values.turns, 1); turn += 1) {
    for (const shape of shapes) {
      const measured = await measure(shape, { streams, keys, rate, seconds, deaf });
      turns.set(shape.name, [...(turns.get(shape.name) ?? []), measured]);
      console.log(rowOf(shape.name, [measured]).join('  '));
    }
  }
  const head = [
    'streams',
    'p50 ms',
    'p99 ms',
    'p99.9 ms',
    'increments/s',
    'CPU, cores',
    'MiB',
    'told after ms',
    'latest',
    'events/s',
  ];
  console.log(markdownTable([head, ...shapes.map(({ name }) => rowOf(name, turns.get(name) ?? []))]));
  console.log(provenanceSentence({ ...provenance(''), uws: 'as the log of a start says' }));
});

interface Sizes {
  readonly streams: number;
  readonly keys: number;
  readonly rate: number;
  readonly seconds: number;
  readonly deaf: number;
}

async function measure(shape: Shape, { streams, keys, rate, seconds, deaf }: Sizes): Promise<Turn> {
  const limits = { MAX_WATCHERS: String(streams + deaf + 10), SHARDS: '1', JOURNAL: 'file', LOG_LEVEL: 'info' };
  const measured = await startServer(limits);
  const other = shape.elsewhere === true ? await startServer(limits) : undefined;
  const ending = new AbortController();
  let clients: Clients | undefined;
  try {
    const { url } = measured;
    const request = { url: `${url}/increment`, workload: batchWorkload(INCREMENTS_PER_BODY, shape.keys) };
    const perSecond = rate / INCREMENTS_PER_BODY;
    await runFixedRate({ ...request, connections: CONNECTIONS, seconds: 3 }, perSecond);
    if (other !== undefined) void change(other.url, shape.keys, ending.signal);
    if (shape.streams !== undefined)
      clients = await Clients.open({ url: (other ?? measured).url, streams, deaf, keys, ...shape.streams });
    const load = (): Promise<LoadFigures> => runFixedRate({ ...request, connections: CONNECTIONS, seconds }, perSecond);
    return await stretch(shape, { ...measured, clients, load });
  } finally {
    ending.abort();
    clients?.close();
    for (const { server, dataDir } of [measured, ...(other === undefined ? [] : [other])]) {
      await server.stop();
      await removeOwned(dataDir);
    }
  }
}

interface StartedServer {
  readonly server: OwnedProcess;
  readonly url: string;
  readonly dataDir: string;
}

async function startServer(env: Readonly<Record<string, string>>): Promise<StartedServer> {
  const dataDir = await ownedDirectory();
  const server = await startOwned({
    name: 'server',
    command: process.execPath,
    args: [serverMain],
    env: { ...env, DATABASE_URL: '', PORT: '0', DATA_DIR: dataDir },
    ready: /"msg":"Ready"/,
  });
  return { server, dataDir, url: /"msg":"Listening on ([^"]+)"/.exec(server.output)?.[1] ?? '' };
}

/** Changes up to 40,000 keys once a second, which is what the load changes of many keys. */
async function change(url: string, keys: number, signal: AbortSignal): Promise<void> {
  const bodies = fixedTexts(batchWorkload(Math.min(keys, KEYS_OF_A_CHANGE), keys));
  for (let body = 0; !signal.aborted;) {
    for (let sent = 0; sent < Math.min(4, bodies.length); sent += 1, body += 1)
      await increment(url, bodies[body % bodies.length] ?? '');
    await sleep(1_000);
  }
}

function fixedTexts({ bodies }: Workload): readonly string[] {
  return bodies.kind === 'fixed' ? bodies.texts : [];
}

interface Scene {
  readonly server: OwnedProcess;
  readonly url: string;
  readonly clients: Clients | undefined;
  readonly load: () => Promise<LoadFigures>;
}

async function stretch(shape: Shape, { server, url, clients, load }: Scene): Promise<Turn> {
  const probe = await EventReader.open(url, '/watch?key=probe');
  const dashboards = await Promise.all(
    Array.from({ length: shape.dashboards === true ? 2 : 0 }, () => EventReader.open(url, '/dashboard/events')),
  );
  const ending = new AbortController();
  const [cpuBefore, countBefore, began] = [cpuTime(server.pid), await clients?.count(), performance.now()];
  const delays = probing(url, probe, ending.signal);
  const scraping = shape.dashboards === true ? scrapes(url, ending.signal) : Promise.resolve();
  const figures = await load();
  const [seconds, cpuAfter] = [(performance.now() - began) / 1000, cpuTime(server.pid)];
  const countAfter = await clients?.count();
  ending.abort();
  const [delaysMs] = await Promise.all([delays, scraping]);
  for (const reader of [probe, ...dashboards]) reader.close();
  const count =
    countAfter === undefined || countBefore === undefined
      ? undefined
      : { ...countAfter, events: countAfter.events - countBefore.events, bytes: countAfter.bytes - countBefore.bytes };
  const cpuShare = (cpuAfter.ownMs - cpuBefore.ownMs) / 1000 / seconds;
  return { figures, cpuShare, residentMib: residentBytes(server.pid) / 2 ** 20, delaysMs, count, seconds };
}

/** Counts a key again and again, and measures how long each change takes until its stream tells it. */
async function probing(url: string, probe: EventReader, signal: AbortSignal): Promise<readonly number[]> {
  const delaysMs: number[] = [];
  for (let sum = 1; !signal.aborted; sum += 1) {
    await increment(url, { probe: 1 });
    const counted = performance.now();
    delaysMs.push((await probe.until('probe', String(sum), 30_000)) - counted);
    await sleep(PROBE_MS);
  }
  return delaysMs;
}

async function scrapes(url: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await send(url, '/metrics');
    await sleep(1_000);
  }
}

function rowOf(name: string, turns: readonly Turn[]): string[] {
  const of = (value: (turn: Turn) => number): number => median(turns.map(value));
  const delays = turns.flatMap(({ delaysMs }) => delaysMs);
  const open = turns[0]?.count;
  const told = open === undefined ? name : `${name}: ${open.open} open, ${open.deafOpen} deaf open`;
  return [
    told,
    of(({ figures }) => figures.latency.p50Ms).toFixed(2),
    turns.map(({ figures }) => figures.latency.p99Ms.toFixed(2)).join(', '),
    of(({ figures }) => figures.latency.p999Ms).toFixed(1),
    thousands(of(({ figures, seconds }) => (figures.acknowledged * INCREMENTS_PER_BODY) / seconds)),
    of(({ cpuShare }) => cpuShare).toFixed(2),
    of(({ residentMib }) => residentMib).toFixed(0),
    median(delays).toFixed(0),
    Math.max(...delays).toFixed(0),
    thousands(of(({ count, seconds }) => (count?.events ?? 0) / seconds)),
  ];
}
