/**
 * Load by wrk (package `wrk` of Debian), the cheapest generator, for ratios. It counts only statuses above 399 as
 * refusals, which is enough for servers that answer 202 or an error. The sums prove the rest.
 */
import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import typia from 'typia';
import type { LoadFigures, LoadGenerator, LoadRequest } from './load-generator.js';
import { ownedDirectory, removeOwned, startOwned } from '../processes/owned-process.js';
import { projectRoot } from '../processes/project-paths.js';

const SCRIPT = join(projectRoot, 'bench', 'load', 'wrk-load.lua');
/** A request that takes longer counts as an error. */
const TIMEOUT_SECONDS = 30;

interface WrkSummary {
  readonly requests: number;
  readonly durationUs: number;
  readonly refused: number;
  readonly socketErrors: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

/** Whether wrk is installed. */
export function hasWrk(): boolean {
  return spawnSync('wrk', ['-v'], { stdio: 'ignore' }).error === undefined;
}

/** The generator: half the cores, at most four threads. */
export const wrkGenerator: LoadGenerator = { name: 'wrk', run };

async function run(request: LoadRequest): Promise<LoadFigures> {
  const { workload, connections, seconds, url } = request;
  const threads = Math.min(4, Math.max(1, Math.floor(availableParallelism() / 2)), connections);
  const directory = await ownedDirectory();
  const source = await scriptSource(request, directory);
  const wrk = await startOwned({
    name: 'wrk',
    command: 'wrk',
    args: [
      ...[`--threads=${threads}`, `--connections=${connections}`, `--duration=${seconds}`],
      ...[
        `--timeout=${TIMEOUT_SECONDS}`,
        `--script=${SCRIPT}`,
        url,
        '--',
        ...source,
        workload.contentType,
        workload.idempotencyKeyPrefix ?? '',
      ],
    ],
    ready: /^wrk-json .*\n/m,
    readyMsMax: (seconds + 2 * TIMEOUT_SECONDS) * 1000,
  });
  await wrk.stop();
  await removeOwned(directory);
  const line = /^wrk-json (.*)$/m.exec(wrk.output)?.[1] ?? '';
  const summary = typia.json.assertParse<WrkSummary>(line);
  return {
    acknowledged: summary.requests - summary.refused,
    refused: summary.refused,
    socketErrors: summary.socketErrors,
    seconds: summary.durationUs / 1e6,
    latency: {
      p50Ms: summary.p50Us / 1000,
      p90Ms: summary.p90Us / 1000,
      p99Ms: summary.p99Us / 1000,
      p999Ms: summary.p999Us / 1000,
      maxMs: summary.maxUs / 1000,
    },
  };
}

async function scriptSource({ workload: { bodies } }: LoadRequest, directory: string): Promise<[string, string]> {
  if (bodies.kind === 'distinct') return ['distinct', bodies.prefix];
  const file = join(directory, 'bodies');
  await writeFile(file, bodies.texts.map((text) => `${Buffer.byteLength(text)}\n${text}`).join(''));
  return ['fixed', file];
}
