/**
 * Decides whether the contract explains a history. Nothing here knows how the server works.
 *
 * A value was shown by a read, an event of a watch, a deletion, or the table at the end. Each increment of its key has a
 * share in it:
 *
 * - 0: refused, sent after the answer, or removed by an earlier deletion for certain.
 * - 1: visible before the question. That is: acknowledged by the same server; or committed, because a flush that began after
 *   the acknowledgement succeeded or a committed value contains it; or shown by the same server before. No deletion in
 *   between may have removed it. At the end everything acknowledged is visible.
 * - 0 or 1: all others. A pending retry may show once more, until its flush.
 *
 * As many acknowledged increments may be missing, in all keys together, as servers said that they lost. A deletion of unknown
 * outcome may have removed whatever was sent before its answer.
 */
import { describe, explain, isAcknowledged, times, type Part, type Request, type Share } from './explain.js';
import {
  outcomeOf,
  type Deletion,
  type Flush,
  type Increment,
  type Loss,
  type Operation,
  type Read,
  type Watch,
} from './history.js';

/** What the checker must know of a run. */
export interface CheckOptions {
  /** Servers share a journal: what one of them holds pending may move to another, and shows again after its flush. */
  readonly isShared?: boolean;
}

const VIOLATIONS_SHOWN = 20;
/** A change shows in a watch within this time. */
const WATCH_MS = 2_000;

/** All attempts of one deletion. */
interface Closing {
  /** Undefined: one of several. */
  readonly server: string | undefined;
  readonly askedAt: number;
  readonly answeredAt: number;
  /** null: there was no counter; undefined: of unknown outcome. */
  readonly sum: bigint | null | undefined;
}

/** A value that was shown. */
interface Observation {
  readonly what: string;
  readonly value: bigint | null;
  /** Undefined: of what is committed. */
  readonly server: string | undefined;
  readonly askedAt: number;
  readonly answeredAt: number;
  readonly closing?: Closing | undefined;
  /** The event before in a watch. */
  readonly follows?: Observation | undefined;
}

interface KeyHistory {
  readonly key: string;
  readonly parts: Part[];
  readonly shown: Observation[];
  readonly deletions: Deletion[];
}

/** The violations of a finished run after which the table holds `sums`; empty if the contract explains everything. */
export function checkHistory(
  operations: readonly Operation[],
  sums: ReadonlyMap<string, bigint>,
  { isShared = false }: CheckOptions = {},
): string[] {
  const found: string[] = [];
  const requests = requestsOf(operations, found);
  const keys = keysOf(operations, requests, found);
  for (const key of sums.keys()) keyOf(keys, key);
  let missing = 0;
  for (const history of keys.values()) missing += checkKey(history, sums.get(history.key) ?? null, isShared, found);
  const lost = operations.reduce((total, each) => total + (each.kind === 'loss' ? each.increments : 0), 0);
  if (missing > lost)
    found.push(`${missing} acknowledged increments are missing, but servers said that they lost ${lost}`);
  for (const { attempts, counts } of requests)
    if (counts !== undefined && counts.size > 1)
      found.push(`only a part of ${describe(attempts)}, was counted; it is a whole`);
  const hidden = found.length - VIOLATIONS_SHOWN;
  return hidden > 0 ? [...found.slice(0, VIOLATIONS_SHOWN), `and ${hidden} more`] : found;
}

function requestsOf(operations: readonly Operation[], found: string[]): readonly Request[] {
  const plain: Request[] = [];
  /** Idempotency-Key → content → request. */
  const idempotent = new Map<string, Map<string, Request>>();
  for (const attempt of operations) {
    if (attempt.kind !== 'increment') continue;
    const { idempotencyKey } = attempt;
    if (idempotencyKey === undefined) {
      plain.push({ attempts: [attempt], hasRivals: false, counts: undefined });
      continue;
    }
    const variants = idempotent.get(idempotencyKey) ?? new Map<string, Request>();
    idempotent.set(idempotencyKey, variants);
    const content = JSON.stringify(incrementsOf(attempt).toSorted());
    const request = variants.get(content);
    if (request === undefined) variants.set(content, { attempts: [attempt], hasRivals: false, counts: new Set() });
    else request.attempts.push(attempt);
  }
  const rest = Array.from(idempotent.values(), (variants) => [...variants.values()]);
  for (const variants of rest) for (const request of variants) checkRetries(request, variants, found);
  return [...plain, ...rest.flat()];
}

function checkRetries(request: Request, variants: readonly Request[], found: string[]): void {
  const others = variants.filter((other) => other !== request).flatMap(({ attempts }) => attempts);
  request.hasRivals = others.some(({ status }) => outcomeOf(status) !== 'refused');
  for (const attempt of request.attempts) {
    const isBefore = (other: Increment): boolean => other !== attempt && other.askedAt < attempt.answeredAt;
    if (attempt.status === 422 && !others.some(isBefore))
      found.push(`${describe([attempt])}, was answered 422, but was never sent with other content`);
    if (attempt.isReplayed === true && !request.attempts.some(isBefore))
      found.push(`${describe([attempt])}, was answered as a replay, but was not sent before`);
  }
}

/** With an Idempotency-Key amounts of the same key are one increment: they are counted as a whole. */
function incrementsOf({ members, idempotencyKey }: Increment): readonly (readonly [string, number])[] {
  if (idempotencyKey === undefined) return members;
  const sums = new Map<string, number>();
  for (const [key, amount] of members) sums.set(key, (sums.get(key) ?? 0) + amount);
  return [...sums];
}

function keysOf(
  operations: readonly Operation[],
  requests: readonly Request[],
  found: string[],
): Map<string, KeyHistory> {
  const keys = new Map<string, KeyHistory>();
  const flushes = operations.filter((each): each is Flush => each.kind === 'flush' && each.status === 200);
  const losses = operations.filter((each): each is Loss => each.kind === 'loss');
  for (const request of requests) {
    const [first] = request.attempts;
    if (first === undefined) continue;
    const acknowledged = request.hasRivals ? [] : request.attempts.filter(isAcknowledged);
    const isSame = (flush: Flush): boolean =>
      acknowledged.some(({ server, answeredAt }) => flush.server === server && flush.askedAt > answeredAt);
    const committedAt = flushes.find(isSame)?.answeredAt ?? Number.POSITIVE_INFINITY;
    const isLosable =
      committedAt === Number.POSITIVE_INFINITY &&
      acknowledged.length > 0 &&
      acknowledged.every((attempt) =>
        losses.some(({ server, at }) => server === attempt.server && at > attempt.answeredAt),
      );
    for (const [key, amount] of incrementsOf(first))
      keyOf(keys, key).parts.push({ request, amount: BigInt(amount), isLosable, committedAt });
  }
  for (const operation of operations) {
    if (operation.kind === 'delete') keyOf(keys, operation.key).deletions.push(operation);
    else if (operation.kind === 'read' || operation.kind === 'watch') see(operation, keyOf(keys, operation.key), found);
  }
  return keys;
}

/** A read is a watch with one event. An event that comes in time holds until `WATCH_MS` before the next one. */
function see(operation: Read | Watch, { key, shown }: KeyHistory, found: string[]): void {
  const { kind, server, askedAt, answeredAt } = operation;
  const events = kind === 'read' ? [{ ...operation, at: answeredAt }] : operation.events;
  let follows: readonly Observation[] = [];
  for (const [index, { at, sum, committed, pending }] of events.entries()) {
    const heldUntil =
      kind === 'watch' && operation.isTimely ? (events[index + 1]?.at ?? answeredAt) - WATCH_MS : askedAt;
    const when = { askedAt: Math.max(askedAt, heldUntil), answeredAt: at };
    const what = `${key} ${kind === 'read' ? 'read' : 'watched'} at ${server}`;
    if (typeof sum === 'bigint' && typeof committed === 'bigint' && sum !== committed + (pending ?? 0n))
      found.push(`${what} ${times(when)} is ${sum}, but ${committed} committed and ${pending} pending`);
    const views = [
      { what, server, value: sum },
      { what: `${what}, committed,`, server: undefined, value: committed },
    ];
    const event = views.flatMap(({ value, ...view }) =>
      value === undefined
        ? []
        : [{ ...view, value, ...when, follows: follows.find((last) => last.server === view.server) }],
    );
    shown.push(...event);
    follows = event;
  }
}

/** Returns how many increments are missing at least that a server may have lost. */
function checkKey(history: KeyHistory, sum: bigint | null, isShared: boolean, found: string[]): number {
  const { key, parts, shown } = history;
  parts.sort((a, b) => Number(b.amount - a.amount));
  const isCoded = parts.every(
    ({ amount }, index) => amount > 0n && 4n * amount <= (parts[index - 1]?.amount ?? 4n * amount),
  );
  const closings = closingsOf(history, found);
  const known = closings.filter((closing) => closing.sum !== undefined);
  for (const closing of known)
    shown.push({ ...closing, what: `${key} deleted at ${closing.server}`, value: closing.sum ?? null, closing });
  shown.sort((a, b) => a.answeredAt - b.answeredAt);
  for (const observation of shown) {
    const { what, value, closing } = observation;
    const shares = parts.map((part) => shareOf(part, observation, closings));
    const { problems, counts } = explain(value, shares, isCoded);
    for (const problem of problems) found.push(`${what} ${times(observation)} is ${value ?? 'absent'}: ${problem}`);
    if (closing === undefined && problems.length === 0)
      for (const [part, count] of counts) if (count > 0) learn(part, observation, isShared);
  }
  if (closings.length === 0) checkOrder(history, isShared, found);
  const values = [sum, ...known.map((closing) => closing.sum ?? null)].filter((value) => value !== null);
  const total = values.length === 0 ? null : values.reduce((all, value) => all + value, 0n);
  const shares = parts.map((part) => totalOf(part, closings));
  const { problems, counts, missing } = explain(total, shares, isCoded);
  const what = `${key} in the end${known.length === 0 ? '' : ', with what was deleted,'}`;
  for (const problem of problems) found.push(`${what} is ${total ?? 'absent'}: ${problem}`);
  if (closings.length === known.length) for (const [{ request }, count] of counts) request.counts?.add(count);
  return missing;
}

/** Attempts with the same Idempotency-Key are one deletion. One answered 404 found no counter. */
function closingsOf({ key, deletions }: KeyHistory, found: string[]): readonly Closing[] {
  const groups = new Map<unknown, Deletion[]>();
  for (const deletion of deletions) {
    if (deletion.status !== 404 && outcomeOf(deletion.status) === 'refused') continue;
    const group = deletion.idempotencyKey ?? deletion;
    groups.set(group, [...(groups.get(group) ?? []), deletion]);
  }
  return Array.from(groups.values(), (attempts) => {
    const answers = attempts.filter(({ answeredAt, status }) => Number.isFinite(answeredAt) && status < 500);
    const [first] = answers.toSorted((a, b) => a.answeredAt - b.answeredAt);
    for (const { sum, server, ...when } of answers)
      if (sum !== first?.sum)
        found.push(
          `${key} deleted again at ${server} ${times(when)} was ${sum}, but the first answer was ${first?.sum}`,
        );
    const answeredAt = first?.answeredAt ?? Number.POSITIVE_INFINITY;
    const servers = new Set(attempts.filter(({ askedAt }) => askedAt < answeredAt).map(({ server }) => server));
    const server = servers.size === 1 ? first?.server : undefined;
    const askedAt = Math.min(...attempts.map((attempt) => attempt.askedAt));
    return { server, askedAt, answeredAt, sum: first === undefined ? undefined : (first.sum ?? null) };
  });
}

function visibleAt({ request, committedAt, shownAt }: Part, server: string | undefined): number {
  let at = Math.min(committedAt, shownAt?.get(server ?? '') ?? Number.POSITIVE_INFINITY);
  if (request.hasRivals) return at;
  for (const attempt of request.attempts)
    if (isAcknowledged(attempt) && attempt.server === server) at = Math.min(at, attempt.answeredAt);
  return at;
}

function learn(part: Part, { server, answeredAt }: Observation, isShared: boolean): void {
  if (server === undefined) part.committedAt = Math.min(part.committedAt, answeredAt);
  else if (!isShared)
    (part.shownAt ??= new Map()).set(server, Math.min(part.shownAt.get(server) ?? answeredAt, answeredAt));
}

function shareOf(
  part: Part,
  { server, askedAt, answeredAt, closing }: Observation,
  closings: readonly Closing[],
): Share {
  let sent = 0;
  for (const attempt of part.request.attempts)
    if (attempt.askedAt < answeredAt && outcomeOf(attempt.status) !== 'refused') sent += 1;
  const isRemoved = closings.some(
    (each) =>
      each !== closing &&
      each.sum !== undefined &&
      each.answeredAt < askedAt &&
      visibleAt(part, each.server) < each.askedAt,
  );
  const until = Math.max(askedAt, answeredAt);
  const mayBeRemoved = closings.some((each) => each !== closing && each.askedAt < until && mayHold(each, part));
  const isVisible = !part.isLosable && !mayBeRemoved && visibleAt(part, server) < askedAt;
  const isCommitted = server === undefined || closing !== undefined;
  const retries = isCommitted ? 0 : sent - 1;
  return { part, least: isVisible ? 1 : 0, most: sent === 0 ? 0 : (isRemoved ? 0 : 1) + retries };
}

function mayHold({ answeredAt }: Closing, { request }: Part): boolean {
  return request.attempts.some((attempt) => attempt.askedAt < answeredAt);
}

/** In the table and all deletions together. */
function totalOf(part: Part, closings: readonly Closing[]): Share {
  const { attempts, hasRivals } = part.request;
  const isRemoved = closings.some((each) => each.sum === undefined && mayHold(each, part));
  const isRefused = attempts.every(({ status }) => outcomeOf(status) === 'refused');
  const isCounted = !hasRivals && !isRemoved && attempts.some(isAcknowledged);
  return { part, least: isCounted ? 1 : 0, most: isRefused ? 0 : 1 };
}

/** Where nothing is subtracted, a value never goes back: what is committed nowhere, what a server shows not at that server. */
function checkOrder({ parts, shown }: KeyHistory, isShared: boolean, found: string[]): void {
  if (parts.some(({ amount, isLosable }) => amount < 0n || isLosable)) return;
  const isRetried = parts.some(({ request }) => request.attempts.length > 1);
  // 0 committed may be a counter that is only pending.
  const valueOf = ({ value, server }: Observation): bigint =>
    server === undefined && value === 0n ? -1n : (value ?? -1n);
  for (const later of shown) {
    const earlier = shown.find(
      (each) =>
        (each.server === undefined || (each.server === later.server && !isShared && !isRetried)) &&
        (each.answeredAt < later.askedAt || each === later.follows) &&
        valueOf(each) > (later.value ?? -1n),
    );
    if (earlier === undefined) continue;
    found.push(
      `${later.what} ${times(later)} is ${later.value ?? 'absent'}, but ${earlier.what} ${times(earlier)} was ${earlier.value}`,
    );
    return;
  }
}

function keyOf(keys: Map<string, KeyHistory>, key: string): KeyHistory {
  let history = keys.get(key);
  if (history === undefined) keys.set(key, (history = { key, parts: [], shown: [], deletions: [] }));
  return history;
}
