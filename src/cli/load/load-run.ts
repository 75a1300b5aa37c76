/** A run of load with autocannon's connections, until every request has its outcome. Main thread of a command. */
import autocannon from 'autocannon';
import { pause } from '../../core/clock.js';
import type { IncrementRequests } from './increment-requests.js';
import { LoadConnection } from './load-connection.js';
import type { LoadHistory } from './load-history.js';
import type { LoadOptions } from './load-options.js';
import type { Outcomes } from './outcomes.js';
import { Pacer } from './pacer.js';

/** When a run sent, by `performance.now()`. */
export interface RunTimes {
  readonly startedAt: number;
  readonly stoppedAt: number;
}

/** How long requests may be resent after the end of a run, in seconds. */
const RESEND_SECONDS_MAX = 30;
const SETTLED_PAUSE_MS = 10;
/** autocannon ends a run at the end of an interval. */
const SAMPLE_MS = 50;
const JSON_TYPE = 'application/json';

/** Connections of a run, at most as many as requests a second, so that none is idle for long. */
export function connectionsOf({ connections, rate }: Pick<LoadOptions, 'connections' | 'rate'>): number {
  return rate === undefined ? connections : Math.max(1, Math.min(connections, Math.floor(rate)));
}

/**
 * Sends for the time of the options, until `signal` aborts, or until a first answer shows that no request will be accepted.
 * Then waits for the answers in flight. At the end `outcomes` has an outcome of every request.
 */
export async function runLoad(
  options: LoadOptions,
  requests: IncrementRequests,
  outcomes: Outcomes,
  history: LoadHistory | undefined,
  signal: AbortSignal,
): Promise<RunTimes> {
  const { durationSeconds, timeoutSeconds, token } = options;
  const pacer = new Pacer(options.rate);
  const hopeless = new AbortController();
  const onRefusal = (status: number): void => {
    if (outcomes.acknowledgedRequests === 0 && status < 500) hopeless.abort();
  };
  const connections: LoadConnection[] = [];
  const deps = { requests, outcomes, history, pacer, timeoutMs: timeoutSeconds * 1000, onRefusal };
  const graceSeconds = timeoutSeconds + RESEND_SECONDS_MAX;
  const load = startAutocannon({
    url: `${options.url}/increment`,
    method: 'POST',
    headers: { 'Content-Type': JSON_TYPE, ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }) },
    connections: connectionsOf(options),
    timeout: timeoutSeconds,
    // Only a limit. The run ends before.
    duration: durationSeconds + 2 * graceSeconds,
    sampleInt: SAMPLE_MS,
    setupClient: (client) => void connections.push(new LoadConnection(client, deps)),
  });
  const startedAt = performance.now();
  await pause(durationSeconds * 1000, AbortSignal.any([signal, hopeless.signal]));
  const stoppedAt = performance.now();
  pacer.stop();
  for (const connection of connections) connection.finish();
  while (connections.some(({ isSettled }) => !isSettled) && performance.now() < stoppedAt + graceSeconds * 1000)
    await pause(SETTLED_PAUSE_MS);
  load.stop();
  await load.ended;
  return { startedAt, stoppedAt };
}

function startAutocannon(options: autocannon.Options): { stop(): void; ended: Promise<void> } {
  let stop = (): void => undefined;
  const ended = new Promise<void>((resolve, reject) => {
    const instance = autocannon(options, (error: unknown) => {
      if (error instanceof Error) reject(error);
      else resolve();
    });
    stop = () => instance.stop();
  });
  return { stop, ended };
}
