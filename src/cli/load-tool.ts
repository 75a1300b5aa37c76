/**
 * `npm run load`: sends increments to a server, reads the sums back, and reports whether every acknowledged increment arrived.
 * Main thread of a process of its own.
 *
 * Exit codes: 0 every acknowledged increment arrived; 1 some did not, unknown, or nothing was acknowledged; 64 wrong command
 * line.
 */
import { discardUnreadOutput } from '../core/closed-output.js';
import { reasonOf, StartError } from '../core/errors.js';
import { exitCodeOf } from './command-exit.js';
import { CounterReader, ReadError } from './load/counter-reader.js';
import { IncrementRequests } from './load/increment-requests.js';
import { LoadHistory } from './load/load-history.js';
import { loadHelp, parseLoadOptions, TOKEN_VARIABLE, type LoadOptions } from './load/load-options.js';
import { LoadProgress } from './load/load-progress.js';
import { reportJson, reportText, type LoadResult } from './load/load-report.js';
import { runLoad } from './load/load-run.js';
import { Outcomes } from './load/outcomes.js';
import { judge, type SumsBefore } from './load/verdict.js';

/** 128 + SIGINT, as in shells. */
const EXIT_INTERRUPTED = 130;
/** npm forwards a Ctrl-C that the terminal has already delivered, so a second signal within this time is the same one. */
const SAME_SIGNAL_MS = 1000;

async function run(argv: readonly string[]): Promise<number> {
  const options = parseLoadOptions(argv, process.env);
  if (options === undefined) {
    process.stdout.write(loadHelp);
    return 0;
  }
  const history = options.historyFile === undefined ? undefined : new LoadHistory(options.historyFile);
  const reader = new CounterReader(options, history);
  const requests = new IncrementRequests(options);
  const before = await sumsBefore(options, reader, requests);
  const outcomes = new Outcomes(options.distribution.count);
  const progress = new LoadProgress(outcomes, options.durationSeconds, process.stderr);
  const times = await runLoad(options, requests, outcomes, history, stopSignal());
  progress.say('Reading the sums.');
  const verdict = await judge({ reader, requests, outcomes, before }, options.waitSeconds * 1000);
  history?.close();
  const result: LoadResult = { options, outcomes, times, verdict };
  process.stdout.write(options.isJson ? reportJson(result) : reportText(result));
  if (verdict.kind !== 'arrived') return 1;
  return options.isDelete ? deleteKeys(reader, requests, outcomes) : 0;
}

/**
 * The sums of counters that may already exist. Throws {@link StartError} if the server or the bearer token does not permit
 * reads.
 */
async function sumsBefore(
  options: LoadOptions,
  reader: CounterReader,
  requests: IncrementRequests,
): Promise<SumsBefore> {
  const before = new Map<string, bigint>();
  const count = options.isPrefixGiven ? options.distribution.count : 1;
  const keys = Array.from({ length: count }, (_, number) => requests.keyOf(number));
  try {
    await reader.read(keys, (key, sum) => {
      if (sum !== undefined) before.set(key, sum);
    });
  } catch (error) {
    if (!(error instanceof ReadError)) throw error;
    throw new StartError([`${error.message}.${adviceFor(error)}`], { exitCode: 1 });
  }
  return before;
}

function adviceFor({ status }: ReadError): string {
  if (status !== 401 && status !== 403) return '';
  return ` The check at the end reads the sums, so the token of --token-file or ${TOKEN_VARIABLE} needs the scope read besides write.`;
}

/** Aborts at the first SIGINT or SIGTERM. A second one ends the process. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  let firstAtMs: number | undefined;
  const handle = (): void => {
    const now = performance.now();
    if (firstAtMs === undefined) {
      firstAtMs = now;
      controller.abort();
    } else if (now - firstAtMs > SAME_SIGNAL_MS) {
      process.exit(EXIT_INTERRUPTED);
    }
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  return controller.signal;
}

async function deleteKeys(reader: CounterReader, requests: IncrementRequests, outcomes: Outcomes): Promise<number> {
  const keys: string[] = [];
  outcomes.acknowledgedOf.forEach((count, number) => {
    if (count + (outcomes.unknownOf[number] ?? 0) > 0) keys.push(requests.keyOf(number));
  });
  try {
    await reader.delete(keys);
    return 0;
  } catch (error) {
    process.stderr.write(`The keys could not be deleted: ${reasonOf(error)}.\n`);
    return 1;
  }
}

discardUnreadOutput();
try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  process.exitCode = exitCodeOf(error, 'summing-counters-load: ');
}
