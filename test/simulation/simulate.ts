/**
 * Runs many histories:  npm run simulate -- --seeds 10000 [--journal postgres|nats|sqs|sqs-walk] [--from 1] [--workers 2] [--trace]
 *
 * Prints progress and histories a minute; at a violation the seed, the violation and the last steps, and exits 1.
 */
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { HISTORIES, type HistoryKind, replay } from './replay.js';

interface Share {
  readonly from: number;
  readonly seeds: number;
  readonly step: number;
  readonly journal: HistoryKind;
}

interface Report {
  readonly histories: number;
  readonly steps: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly failed?: number;
  readonly why?: string;
}

const REPORT_EVERY = 200;

async function runShare({ from, seeds, step, journal }: Share, report: (report: Report) => void): Promise<void> {
  let totals = { histories: 0, steps: 0, requests: 0, acknowledged: 0 };
  const flush = (failed?: number, why = ''): void => {
    report(failed === undefined ? totals : { ...totals, failed, why });
    totals = { histories: 0, steps: 0, requests: 0, acknowledged: 0 };
  };
  for (let index = 0; index < seeds; index += step) {
    const result = await HISTORIES[journal](from + index);
    totals.histories += 1;
    totals.steps += result.steps;
    totals.requests += result.requests;
    totals.acknowledged += result.acknowledged;
    if (result.violation !== undefined) flush(from + index, result.violation.message);
    else if (totals.histories === REPORT_EVERY) flush();
  }
  flush();
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1000' },
      from: { type: 'string', default: process.env['SEED'] ?? '1' },
      workers: { type: 'string', default: '1' },
      trace: { type: 'boolean', default: false },
      journal: { type: 'string', default: 'file' },
    },
  });
  const [seeds, from, workers] = [Number(values.seeds), Number(values.from), Number(values.workers)];
  const journal = kindOf(values.journal);
  if (seeds === 1) {
    process.exitCode = (await replay(from, values.trace, journal)) ? 0 : 1;
    return;
  }
  const start = performance.now();
  const sum = { histories: 0, steps: 0, requests: 0, acknowledged: 0 };
  const failed: number[] = [];
  const take = (report: Report): void => {
    sum.histories += report.histories;
    sum.steps += report.steps;
    sum.requests += report.requests;
    sum.acknowledged += report.acknowledged;
    if (report.failed !== undefined) {
      failed.push(report.failed);
      console.log(`violation: SEED=${report.failed}: ${report.why ?? ''}`);
    }
    const minutes = (performance.now() - start) / 60_000;
    console.log(
      `${sum.histories} of ${seeds} histories, ${Math.round(sum.histories / minutes)} a minute, ` +
        `${sum.requests} requests (${sum.acknowledged} acknowledged), ${sum.steps} steps, ${failed.length} violations`,
    );
  };
  if (workers <= 1) {
    await runShare({ from, seeds, step: 1, journal }, take);
  } else {
    const shares = Array.from({ length: workers }, (_, index) => ({
      from: from + index,
      seeds: seeds - index,
      step: workers,
    }));
    await Promise.all(shares.map((share) => runWorker({ ...share, journal }, take)));
  }
  const [first] = failed;
  if (first === undefined) return;
  await replay(first, false, journal);
  process.exitCode = 1;
}

function kindOf(journal: string): HistoryKind {
  if (Object.hasOwn(HISTORIES, journal)) return journal as HistoryKind;
  throw new Error(`--journal is one of ${Object.keys(HISTORIES).join(', ')}`);
}

function runWorker(share: Share, take: (report: Report) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: share, argv: process.argv.slice(2) });
    worker.on('message', take);
    worker.on('error', reject);
    worker.on('exit', () => resolve());
  });
}

if (isMainThread) await main();
else await runShare(workerData as Share, (report) => parentPort?.postMessage(report));
