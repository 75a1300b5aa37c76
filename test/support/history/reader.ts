/** A client that reads, watches, flushes and deletes while a load counts. It writes down what it asked and what it was told. */
import { setTimeout as sleep } from 'node:timers/promises';
import { EventReader } from '../event-reader.js';
import { send, type Answer } from '../http.js';
import type { Random } from '../random.js';
import type { Deletion, Flush, History, Shown } from './history.js';

/** Options of {@link readWhile}. */
export interface ReaderOptions {
  readonly history: History;
  readonly url: string;
  readonly random: Random;
  /** ROLE=ingest: the server shows only what is committed. */
  readonly isIngest?: boolean;
}

const READ_REST_MS = 5;
const CHANGE_REST_MS = 500;
const WATCH_MS = 3000;
const DELETE_ATTEMPTS_MAX = 3;

/** Asks one server until `end`; waits for the last answers. */
export async function readWhile({ history, url, random, isIngest }: ReaderOptions, end: AbortSignal): Promise<void> {
  const repeat = async (ask: () => Promise<void>, restMs: number): Promise<void> => {
    while (!end.aborted) {
      await ask();
      await sleep(restMs);
    }
  };
  const change = (): Promise<void> => {
    if (random.integer(4) === 0) return flush(history, url);
    return deleteCounter(history, url, random.integer(2) === 0 ? `delete/${random.next()}` : undefined);
  };
  // A deletion may take long; reads go on beside it.
  await Promise.all([
    repeat(() => readCounter(history, url, isIngest), READ_REST_MS),
    repeat(() => watchCounter(history, url, isIngest, end), READ_REST_MS),
    repeat(change, CHANGE_REST_MS),
  ]);
}

/** Reads some key. Only an answer counts, and only if the same server listens before and after it. */
export async function readCounter(history: History, url: string, isIngest = false): Promise<void> {
  const key = history.readableKey();
  const asked = history.ask(url);
  const answer = await send(url, `/counters/${encodeURIComponent(key)}`).catch(() => undefined);
  if (answer === undefined || (answer.status !== 200 && answer.status !== 404)) return;
  if (history.ask(url).server !== asked.server) return;
  history.operations.push({ kind: 'read', key, ...asked, answeredAt: performance.now(), ...shownBy(answer, isIngest) });
}

/** Watches some key for a while. What came counts if the same server listens before and after it. */
async function watchCounter(history: History, url: string, isIngest = false, end: AbortSignal): Promise<void> {
  const key = history.readableKey();
  const asked = history.ask(url);
  const reader = await EventReader.open(url, `/watch?key=${encodeURIComponent(key)}`).catch(() => undefined);
  if (reader === undefined) return;
  await sleep(WATCH_MS, undefined, { signal: end }).catch(() => undefined);
  const events = reader.events.map(({ data, atMs }) => ({
    at: atMs,
    ...shownBy({ status: 200, body: data }, isIngest),
  }));
  reader.close();
  if (history.ask(url).server !== asked.server) return;
  const answeredAt = performance.now();
  history.operations.push({ kind: 'watch', key, ...asked, answeredAt, events, isTimely: false });
}

async function flush(history: History, url: string): Promise<void> {
  const operation: Flush = { kind: 'flush', ...history.ask(url), status: 0 };
  history.operations.push(operation);
  const answer = await send(url, '/flush', { method: 'POST' }).catch(() => undefined);
  if (answer !== undefined) Object.assign(operation, { status: answer.status, answeredAt: performance.now() });
}

/** Repeats a deletion without an answer if it has an Idempotency-Key. */
async function deleteCounter(history: History, url: string, idempotencyKey: string | undefined): Promise<void> {
  // A deletion of unknown outcome says little of what it may have removed: only a block's key, which is soon left.
  const key = history.blockKey();
  if (key === undefined) return;
  const headers = idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey };
  for (let attempt = 1; attempt <= (idempotencyKey === undefined ? 1 : DELETE_ATTEMPTS_MAX); attempt += 1) {
    const operation: Deletion = { kind: 'delete', key, idempotencyKey, ...history.ask(url), status: 0 };
    history.operations.push(operation);
    const path = `/counters/${encodeURIComponent(key)}`;
    const answer = await send(url, path, { method: 'DELETE', headers }).catch(() => undefined);
    if (answer === undefined) continue;
    Object.assign(operation, { status: answer.status, answeredAt: performance.now() });
    if (answer.status === 200) operation.sum = numberIn(answer, 'sum');
    if (answer.status < 500) return;
  }
}

function shownBy(answer: Pick<Answer, 'status' | 'body'>, isIngest: boolean): Shown {
  if (answer.status === 404 || answer.body.includes('"sum":null'))
    return isIngest ? { committed: null } : { sum: null, committed: null };
  const committed = numberIn(answer, 'committed');
  return isIngest ? { committed } : { sum: numberIn(answer, 'sum'), committed, pending: numberIn(answer, 'pending') };
}

/** An integer literal of any length. */
function numberIn({ body }: Pick<Answer, 'body'>, member: string): bigint {
  return BigInt(new RegExp(`"${member}":(-?\\d+)`).exec(body)?.[1] ?? `no ${member} in ${body}`);
}
