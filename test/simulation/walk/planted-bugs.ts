/** What the tests of all walks do: walks of the right protocol pass, and those with a planted bug find it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import type { WalkResult } from './walk.js';

/** A bug that walks find. */
export interface PlantedBug<Mutations> {
  readonly name: string;
  readonly mutations: Mutations;
  /** Where to begin, for a bug that takes more than a few walks to show. */
  readonly from?: number;
  /** It also puts requests aside, and the walk looks for worse. */
  readonly maySetAside?: boolean;
  /** Only walks find it whose writers sleep in doubt. */
  readonly sleepsInDoubt?: boolean;
}

/** Walks from the seed of this run on must pass. */
export async function walksPass(
  t: { diagnostic(message: string): void },
  walks: number,
  walk: (seed: number) => Promise<WalkResult>,
): Promise<void> {
  const first = seedOfRun();
  const count = countOfRuns(walks);
  const sum = { requests: 0, acknowledged: 0, aside: 0 };
  t.diagnostic(`SEED=${first}, ${count} walks`);
  for (let seed = first; seed < first + count; seed += 1) {
    const { violation, requests, acknowledged, aside } = await walk(seed);
    assert.equal(violation, undefined, `SEED=${seed}`);
    sum.requests += requests;
    sum.acknowledged += acknowledged;
    sum.aside += aside;
  }
  t.diagnostic(JSON.stringify(sum));
}

/** One test for each bug: one of `walksMax` walks finds it. */
export function testPlantedBugs<Mutations>(
  title: string,
  bugs: readonly PlantedBug<Mutations>[],
  walksMax: number,
  walk: (seed: number, mutations: Mutations, options: PlantedBug<Mutations>) => Promise<WalkResult>,
): void {
  for (const bug of bugs) {
    test(`${title} finds the planted bug: ${bug.name}`, async (t) => {
      const { from = 1 } = bug;
      for (let seed = from; seed < from + walksMax; seed += 1) {
        const { violation } = await walk(seed, bug.mutations, bug);
        if (violation === undefined) continue;
        t.diagnostic(`SEED=${seed}: ${violation.message}`);
        return;
      }
      assert.fail(`${walksMax} walks passed`);
    });
  }
}
