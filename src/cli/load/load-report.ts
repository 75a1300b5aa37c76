/**
 * The report of a run, as text or as one JSON document. Main thread of a command.
 */
import type { LoadOptions } from './load-options.js';
import { connectionsOf, type RunTimes } from './load-run.js';
import type { AnswerCount, Outcomes } from './outcomes.js';
import type { Verdict, WrongKey } from './verdict.js';

/** The content of a report. */
export interface LoadResult {
  readonly options: LoadOptions;
  readonly outcomes: Outcomes;
  readonly times: RunTimes;
  readonly verdict: Verdict;
}

const PERCENTILES = [
  ['p50', 50],
  ['p90', 90],
  ['p99', 99],
  ['p99.9', 99.9],
  ['max', 100],
] as const;

/** From the first request to the end of sending or, if later, the last acknowledgement. */
function secondsOf({ outcomes, times }: LoadResult): number {
  return (Math.max(times.stoppedAt, outcomes.lastAcknowledgedAt) - times.startedAt) / 1000;
}

/** The report as lines, the verdict last. */
export function reportText(result: LoadResult): string {
  const { options, outcomes } = result;
  const { distribution } = options;
  const seconds = secondsOf(result);
  const perSecond = (count: number): string => counted(Math.round(count / seconds));
  const latencies = PERCENTILES.map(([name, percent]) => `${name} ${milliseconds(outcomes.latencyMs(percent))}`);
  const exponent = distribution.kind === 'zipf' ? ` ${distribution.exponent}` : '';
  const rate = options.rate === undefined ? '' : ` of ${options.rate} asked for`;
  const rows: (readonly [string, string])[] = [
    ['server', `${options.url}, ${connectionsText(options)}, ${seconds.toFixed(1)} s`],
    ['keys', `${many(distribution.count, 'key')}, ${distribution.kind}${exponent}, seed ${options.seed}`],
    ['prefix', options.prefix],
    [
      'acknowledged',
      `${many(outcomes.acknowledgedRequests, 'request')}, ${many(outcomes.acknowledgedIncrements, 'increment')}`,
    ],
    ['refused', requestsText(outcomes.refusedRequests, outcomes.refusals)],
    ['unknown', unknownText(options, outcomes)],
    [
      'a second',
      `${perSecond(outcomes.acknowledgedRequests)} requests${rate}, ${perSecond(outcomes.acknowledgedIncrements)} increments`,
    ],
    ['latency, ms', latencies.join('  ')],
  ];
  if (options.rate !== undefined) rows.push(['', 'measured from the instant at which each request was due']);
  if (outcomes.lostConnections > 0)
    rows.push(['connections', `${counted(outcomes.lostConnections)} lost or refused${because(outcomes)}`]);
  const lines = rows.map(([name, value]) => `${name.padEnd(14)}${value}`);
  return [...lines, '', ...verdictLines(result)].map((line) => `${line}\n`).join('');
}

/** The report as a JSON document. Sums are strings of digits, because they may exceed a double. */
export function reportJson(result: LoadResult): string {
  const { options, outcomes } = result;
  const { distribution } = options;
  const seconds = secondsOf(result);
  const document = {
    url: options.url,
    connections: connectionsOf(options),
    rate: options.rate ?? null,
    seconds,
    keys: distribution,
    prefix: options.prefix,
    seed: options.seed,
    increments_per_request: options.incrementsPerRequest,
    idempotency_keys: options.idempotencyKeys,
    requests: {
      acknowledged: outcomes.acknowledgedRequests,
      refused: outcomes.refusedRequests,
      unknown: outcomes.unknownRequests,
      resent: outcomes.resentRequests,
      acknowledged_per_second: outcomes.acknowledgedRequests / seconds,
    },
    increments: {
      acknowledged: outcomes.acknowledgedIncrements,
      unknown: outcomes.unknownIncrements,
      acknowledged_per_second: outcomes.acknowledgedIncrements / seconds,
    },
    refusals: outcomes.refusals,
    unclear_attempts: outcomes.unclearAttempts,
    lost_connections: outcomes.lostConnections,
    latency_ms: {
      ...Object.fromEntries(
        PERCENTILES.map(([name, percent]) => [name.replace('.', '_'), outcomes.latencyMs(percent)]),
      ),
      measured_from: options.rate === undefined ? 'sent' : 'due',
    },
    verdict: verdictDocument(result),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

function verdictDocument(result: LoadResult): object {
  const { verdict } = result;
  const [sentence = ''] = verdictLines(result);
  if (verdict.kind === 'nothing-acknowledged' || verdict.kind === 'unread') return { ...verdict, sentence };
  const read = { kind: verdict.kind, keys: verdict.keys, grown: String(verdict.grown), sentence };
  if (verdict.kind === 'arrived') return read;
  const firstWrong = verdict.firstWrong.map(({ key, expectedMin, expectedMax, found }) => ({
    key,
    expected_min: String(expectedMin),
    expected_max: String(expectedMax),
    found: String(found),
  }));
  return { ...read, wrong_keys: verdict.wrongKeys, first_wrong: firstWrong };
}

/** One sentence, and one line for each wrong key that is named. */
function verdictLines({ options, outcomes, verdict }: LoadResult): readonly string[] {
  const acknowledged = counted(outcomes.acknowledgedIncrements);
  switch (verdict.kind) {
    case 'nothing-acknowledged':
      return [`No increment was acknowledged${firstReason(outcomes)}.`];
    case 'unread':
      return [`Not known whether the ${acknowledged} acknowledged increments arrived: ${verdict.reason}.`];
    case 'wrong':
      return [
        `WRONG: ${many(verdict.wrongKeys, 'key')} of ${counted(verdict.keys)} ${verdict.wrongKeys === 1 ? 'does' : 'do'} not hold what was acknowledged.`,
        ...verdict.firstWrong.map(wrongText),
        ...(verdict.wrongKeys > verdict.firstWrong.length
          ? [`  and ${counted(verdict.wrongKeys - verdict.firstWrong.length)} more`]
          : []),
      ];
    case 'arrived': {
      const isOne = verdict.keys === 1;
      const verb = options.isPrefixGiven ? 'grew by' : isOne ? 'is' : 'add up to';
      const sums = `the ${isOne ? 'sum' : 'sums'} of ${many(verdict.keys, 'key')} ${verb}`;
      const all = outcomes.acknowledgedIncrements === 1 ? 'The one' : `Every one of the ${acknowledged}`;
      const arrived = `${all} acknowledged increment${outcomes.acknowledgedIncrements === 1 ? '' : 's'} arrived`;
      return [`${arrived}: ${sums} ${counted(verdict.grown)}.${unknownSentence(outcomes, verdict.grown)}`];
    }
  }
}

function unknownSentence({ acknowledgedIncrements, unknownIncrements }: Outcomes, grown: bigint): string {
  if (unknownIncrements === 0) return '';
  const more = counted(grown - BigInt(acknowledgedIncrements));
  return ` Of ${many(unknownIncrements, 'increment')} with unknown outcome, ${more} ${more === '1' ? 'is' : 'are'} counted.`;
}

function wrongText({ key, expectedMin, expectedMax, found }: WrongKey): string {
  const range =
    expectedMin === expectedMax ? counted(expectedMin) : `${counted(expectedMin)} to ${counted(expectedMax)}`;
  return `  ${JSON.stringify(key)}: expected ${range}, found ${counted(found)}`;
}

function firstReason({ refusals, unclearAttempts, lastConnectionError }: Outcomes): string {
  const [first] = [...refusals, ...unclearAttempts];
  if (first !== undefined)
    return `: ${first.name}${first.detail === '' ? '' : ` (${first.detail.replace(/\.$/, '')})`}`;
  return lastConnectionError === '' ? '' : `: ${lastConnectionError}`;
}

function unknownText({ idempotencyKeys }: LoadOptions, outcomes: Outcomes): string {
  if (!idempotencyKeys) return requestsText(outcomes.unknownRequests, outcomes.unclearAttempts);
  const resent = `${counted(outcomes.resentRequests)} sent again with their idempotency key`;
  const unknown = many(outcomes.unknownRequests, 'request');
  return outcomes.resentRequests === 0 ? unknown : `${unknown}; ${resent}${kindsText(outcomes.unclearAttempts)}`;
}

function requestsText(count: number, kinds: readonly AnswerCount[]): string {
  return `${many(count, 'request')}${kindsText(kinds)}`;
}

function kindsText(kinds: readonly AnswerCount[]): string {
  if (kinds.length === 0) return '';
  return `: ${kinds.map(({ name, count }) => `${name} (${counted(count)})`).join(', ')}`;
}

function because({ lastConnectionError }: Outcomes): string {
  return lastConnectionError === '' ? '' : `, the last: ${lastConnectionError}`;
}

function connectionsText(options: LoadOptions): string {
  return many(connectionsOf(options), 'connection');
}

/** With commas between the thousands. */
export function counted(count: number | bigint): string {
  return count.toLocaleString('en-US');
}

/** Two digits behind the point below 10 ms, one above. */
export function milliseconds(ms: number): string {
  return ms.toFixed(ms < 10 ? 2 : 1);
}

function many(count: number, noun: string): string {
  return `${counted(count)} ${noun}${count === 1 ? '' : 's'}`;
}
