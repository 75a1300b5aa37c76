/**
 * Whether the sums of a server match a load: for each key, at least the acknowledged increments, and at most those plus the
 * ones with an unknown outcome. Main thread of a command.
 */
import { pause } from '../../core/clock.js';
import { ReadError, type CounterReader } from './counter-reader.js';
import type { IncrementRequests } from './increment-requests.js';
import type { Outcomes } from './outcomes.js';

/** A key whose sum grew by less than was acknowledged, or by more than was sent. */
export interface WrongKey {
  readonly key: string;
  readonly expectedMin: bigint;
  readonly expectedMax: bigint;
  readonly found: bigint;
}

/** The result of the final check. */
export type Verdict =
  | { readonly kind: 'nothing-acknowledged' }
  | { readonly kind: 'unread'; readonly reason: string }
  | (SumsRead & { readonly kind: 'arrived' })
  | (SumsRead & { readonly kind: 'wrong'; readonly wrongKeys: number; readonly firstWrong: readonly WrongKey[] });

interface SumsRead {
  /** Keys with an increment that was acknowledged or may be counted. */
  readonly keys: number;
  /** The growth of their sums since the run began. */
  readonly grown: bigint;
}

/** The sums of existing counters before a run, by key. */
export type SumsBefore = ReadonlyMap<string, bigint>;

/** Wrong keys that a verdict names. */
const WRONG_NAMED_MAX = 10;
const POLL_MS = 250;

/** Collaborators and values of {@link judge}. */
export interface JudgeDeps {
  readonly reader: CounterReader;
  readonly requests: IncrementRequests;
  readonly outcomes: Outcomes;
  readonly before: SumsBefore;
}

/**
 * Reads the sums until each has its acknowledged increments, for at most `waitMs`, because increments pending on another server
 * show only after its commit.
 */
export async function judge(deps: JudgeDeps, waitMs: number): Promise<Verdict> {
  const { outcomes, requests } = deps;
  if (outcomes.acknowledgedRequests === 0) return { kind: 'nothing-acknowledged' };
  const keys = new Map<string, number>();
  for (let number = 0; number < outcomes.acknowledgedOf.length; number += 1)
    if (acknowledgedOf(outcomes, number) + unknownOf(outcomes, number) > 0) keys.set(requests.keyOf(number), number);
  const grown = new Map<string, bigint>();
  const failure = await readUntilArrived(deps, keys, grown, waitMs);
  if (failure !== undefined) return { kind: 'unread', reason: failure };
  const firstWrong: WrongKey[] = [];
  let wrongKeys = 0;
  let total = 0n;
  for (const [key, number] of keys) {
    const found = grown.get(key) ?? 0n;
    total += found;
    const expectedMin = BigInt(acknowledgedOf(outcomes, number));
    const expectedMax = expectedMin + BigInt(unknownOf(outcomes, number));
    if (found >= expectedMin && found <= expectedMax) continue;
    wrongKeys += 1;
    if (firstWrong.length < WRONG_NAMED_MAX) firstWrong.push({ key, expectedMin, expectedMax, found });
  }
  const read = { keys: keys.size, grown: total };
  return wrongKeys === 0 ? { ...read, kind: 'arrived' } : { ...read, kind: 'wrong', wrongKeys, firstWrong };
}

/** Fills `grown`, the growth of each key's sum. Returns why keys could not be read, or undefined. */
async function readUntilArrived(
  { reader, outcomes, before }: JudgeDeps,
  keys: ReadonlyMap<string, number>,
  grown: Map<string, bigint>,
  waitMs: number,
): Promise<string | undefined> {
  const deadline = performance.now() + waitMs;
  const isMissing = ([key, number]: readonly [string, number]): boolean =>
    (grown.get(key) ?? -1n) < acknowledgedOf(outcomes, number);
  for (;;) {
    let failure: string | undefined;
    try {
      const missing = Array.from(keys).filter(isMissing);
      await reader.read(
        missing.map(([key]) => key),
        (key, sum) => grown.set(key, (sum ?? 0n) - (before.get(key) ?? 0n)),
      );
    } catch (error) {
      if (!(error instanceof ReadError)) throw error;
      failure = error.message;
      if (!error.isTransient) return failure;
    }
    if (!Array.from(keys).some(isMissing)) return undefined;
    if (performance.now() >= deadline) return failure;
    await pause(POLL_MS);
  }
}

function acknowledgedOf({ acknowledgedOf: counts }: Outcomes, number: number): number {
  return counts[number] ?? 0;
}

function unknownOf({ unknownOf: counts }: Outcomes, number: number): number {
  return counts[number] ?? 0;
}
