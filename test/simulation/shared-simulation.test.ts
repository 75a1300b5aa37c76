/**
 * Servers that share a journal, in a simulated world. `SEED=n` replays one history with its last steps; `npm run simulate --
 * --journal postgres` and `--journal nats` run any number of histories.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { countOfRuns, seedOfRun } from '../support/random-runs.js';
import { NATS_MUTATIONS, SHARED_MUTATIONS } from './mutations.js';
import { replay } from './replay.js';
import { runSharedHistory } from './shared-history.js';

/** `timeMaxMs`: after which no further history begins. */
const JOURNALS = [
  { journal: 'postgres', place: 'PostgreSQL', histories: 300, timeMaxMs: 15_000, bugs: SHARED_MUTATIONS },
  { journal: 'nats', place: 'a broker', histories: 60, timeMaxMs: 5000, bugs: NATS_MUTATIONS },
] as const;

/** Most histories until a bug is found, from the seed that it names. */
const MUTATED_HISTORIES_MAX = 60;

/**
 * Faults of the product that histories found: a stream that was begun without its row, and that the broker lost before anybody
 * made the row, was never left without requests.
 */
const FOUND = [31595];

test('a broker that loses messages: histories that found faults count every acknowledged increment', async () => {
  for (const seed of FOUND) await check(seed, 'nats');
});

for (const { journal, place, histories, timeMaxMs, bugs } of JOURNALS) {
  describe(`histories of servers with one journal in ${place}`, () => {
    test('count every acknowledged increment once, however the servers take each other over', async (t) => {
      const asked = process.env['SEED'] !== undefined && process.env['SEED'] !== '';
      const first = seedOfRun();
      const most = asked ? 1 : countOfRuns(histories);
      const until = performance.now() + timeMaxMs;
      let ran = 0;
      for (let seed = first; seed < first + most && (ran === 0 || performance.now() < until); seed += 1) {
        await check(seed, journal);
        ran += 1;
      }
      t.diagnostic(`SEED=${first}, ${ran} histories`);
    });

    test('are the same step by step when a seed is replayed', async () => {
      for (const seed of [1, 2, 3]) {
        const [one, two]: [string[], string[]] = [[], []];
        await runSharedHistory(seed, {}, one, journal);
        await runSharedHistory(seed, {}, two, journal);
        assert.ok(one.length > 10);
        assert.deepEqual(two, one);
      }
    });

    for (const { name, mutations, from = 1 } of bugs) {
      test(`show ${name}`, async (t) => {
        for (let seed = from; seed < from + MUTATED_HISTORIES_MAX; seed += 1) {
          const { violation } = await runSharedHistory(seed, mutations, undefined, journal);
          if (violation === undefined) continue;
          t.diagnostic(`SEED=${seed}: ${violation.message}`);
          return;
        }
        assert.fail(`${MUTATED_HISTORIES_MAX} histories passed`);
      });
    }
  });
}

async function check(seed: number, journal: 'postgres' | 'nats'): Promise<void> {
  const { violation } = await runSharedHistory(seed, {}, undefined, journal);
  if (violation === undefined) return;
  await replay(seed, false, journal);
  assert.fail(`SEED=${seed}: ${violation.message}`);
}
