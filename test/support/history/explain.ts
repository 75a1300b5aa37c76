/**
 * Whether a value is a sum of increments, of which each may be in it from `least` to `most` times.
 *
 * The answer is exact where each amount is at least four times the next smaller one: the digits of the value then tell how
 * often each increment is in it. It is exact as well where at most `OPEN_MAX` shares are open: the value must be one of
 * their sums. Otherwise the value must lie between the least and the greatest sum.
 */
import { outcomeOf, type Increment } from './history.js';

const OPEN_MAX = 10;
const NAMED_MAX = 3;

/** All attempts of one request with the same content. */
export interface Request {
  readonly attempts: Increment[];
  /** Its Idempotency-Key came with other content, too: one of them is counted. */
  hasRivals: boolean;
  /** With an Idempotency-Key: how often its increments were counted, where digits tell. */
  readonly counts: Set<number> | undefined;
}

/** One increment of a request. */
export interface Part {
  readonly request: Request;
  readonly amount: bigint;
  /** Its server said later that it lost increments. */
  readonly isLosable: boolean;
  /** It is known to be committed from this time on. */
  committedAt: number;
  /** Server → from this time on it shows there. */
  shownAt?: Map<string, number>;
}

/** How often an increment may be in a value. */
export interface Share {
  readonly part: Part;
  readonly least: number;
  readonly most: number;
}

/** What a value tells. */
export interface Explanation {
  /** A sentence for each increment that is in it too often or too rarely; none: the value can be explained. */
  readonly problems: readonly string[];
  /** How often each is in it, where digits tell. */
  readonly counts: ReadonlyMap<Part, number>;
  /** So many increments at least are missing that a server may have lost. */
  readonly missing: number;
}

/** null: there is no counter. `shares`: the largest amount first; `isCoded`: digits tell. */
export function explain(value: bigint | null, shares: readonly Share[], isCoded: boolean): Explanation {
  const counts = new Map<Part, number>();
  const isAbsent = value === null;
  if (!isAbsent && !shares.some(({ most }) => most > 0))
    return { problems: ['nothing was sent that it can hold'], counts, missing: 0 };
  // More copies than a digit holds, or other amounts.
  if (!isAbsent && (!isCoded || shares.some(({ most }) => most > 3)))
    return { counts, ...explainByBounds(value, shares) };
  const problems: string[] = [];
  let rest = value ?? 0n;
  let missing = 0;
  for (const { part, least, most } of shares) {
    const count = isAbsent ? 0n : rest / part.amount;
    rest -= isAbsent ? 0n : count * part.amount;
    counts.set(part, Number(count));
    if (count === 0n && least === 1 && part.isLosable) missing += 1;
    else if (count < least || count > most) problems.push(countedTimes(part, count, least));
  }
  if (rest !== 0n) problems.push('no increments add up to it');
  return { problems, counts, missing };
}

function explainByBounds(value: bigint, shares: readonly Share[]): Omit<Explanation, 'counts'> {
  let low = 0n;
  let high = 0n;
  for (const { part, least, most } of shares) {
    low += part.amount * BigInt(part.amount > 0n ? least : most);
    high += part.amount * BigInt(part.amount > 0n ? most : least);
  }
  // The largest amounts first: at least so many are missing.
  let missing = 0;
  let lowest = low;
  let highest = high;
  const losable = shares.filter(({ part, least }) => part.isLosable && least > 0);
  for (const { part } of losable)
    if (value < lowest && part.amount > 0n) [lowest, missing] = [lowest - part.amount, missing + 1];
  for (const { part } of losable.toReversed())
    if (value > highest && part.amount < 0n) [highest, missing] = [highest - part.amount, missing + 1];
  if (value < lowest || value > highest) {
    const isLow = value < lowest;
    const named = shares.filter(({ part, least }) => part.amount !== 0n && least > 0 === isLow).map(({ part }) => part);
    const newest = named.toSorted((a, b) => askedAtOf(b) - askedAtOf(a)).slice(0, NAMED_MAX);
    const why = `${isLow ? 'and hold' : 'however these ended:'} ${newest.map(nameOf).join('; ')}`;
    return { problems: [`it must be from ${lowest} to ${highest} ${why}`], missing };
  }
  const open = shares.filter(({ part, least, most }) => most > least && part.amount !== 0n);
  if (open.length > OPEN_MAX || losable.length > 0) return { problems: [], missing };
  let sums = new Set([shares.reduce((sum, { part, least }) => sum + part.amount * BigInt(least), 0n)]);
  for (const { part, least, most } of open) {
    const copies = Array.from({ length: most - least + 1 }, (_, count) => part.amount * BigInt(count));
    sums = new Set([...sums].flatMap((sum) => copies.map((amount) => sum + amount)));
  }
  const names = open.map(({ part }) => nameOf(part)).join('; ');
  return { problems: sums.has(value) ? [] : [`no choice of these adds up to it: ${names || 'none is open'}`], missing };
}

/** The answer was a 202. */
export function isAcknowledged({ status }: Increment): boolean {
  return outcomeOf(status) === 'acknowledged';
}

function askedAtOf({ request }: Part): number {
  return request.attempts[0]?.askedAt ?? 0;
}

function countedTimes(part: Part, count: bigint, least: number): string {
  return `${nameOf(part)}, was counted ${count} times${least > 0 ? '' : ', which it may not be'}`;
}

function nameOf({ request, amount }: Part): string {
  return `${amount} of ${describe(request.attempts)}`;
}

/** The attempts and the outcome of all of them. */
export function describe(attempts: readonly Increment[]): string {
  const all = attempts.map((attempt) => `to ${attempt.server} ${times(attempt)}`).join(', again ');
  const outcomes = new Set(attempts.map(({ status }) => outcomeOf(status)));
  const outcome = (['acknowledged', 'unknown', 'refused'] as const).find((each) => outcomes.has(each));
  const name = attempts[0]?.idempotencyKey;
  return `a request ${name === undefined ? '' : `${name} `}${all}, ${outcome === 'unknown' ? 'of unknown outcome' : outcome}`;
}

/** When something was asked and answered, for a message. */
export function times({ askedAt, answeredAt }: { readonly askedAt: number; readonly answeredAt: number }): string {
  return `from ${askedAt.toFixed(1)} to ${answeredAt.toFixed(1)} ms`;
}
