/**
 * Servers that share a journal, in a simulated world. `SEED=n` replays one history with its last steps; `npm run simulate --
 * --journal postgres`, `--journal nats` and `--journal sqs` run any number of histories.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { countOfRuns, seedOfRun } from '../support/random-runs.js';
import { isQuick } from '../support/tier.js';
import { NATS_MUTATIONS, SHARED_MUTATIONS, SQS_MUTATIONS } from './mutations.js';
import { replay } from './replay.js';
import { runSharedHistory } from './shared-history.js';
import type { SharedJournal } from './shared-settings.js';

/** `timeMaxMs`: after which no further history begins. `found`: seeds by which faults of the product were found, and these. */
const JOURNALS = [
  { journal: 'postgres', place: 'PostgreSQL', histories: 300, timeMaxMs: 15_000, bugs: SHARED_MUTATIONS, found: [] },
  {
    journal: 'nats',
    place: 'a broker',
    histories: 60,
    timeMaxMs: 5000,
    bugs: NATS_MUTATIONS,
    found: [
      {
        seed: 31595,
        fault: 'a stream that was begun without its row, and that is never left once the broker has lost it',
      },
      { seed: 11540, fault: 'a stream without row and record of which nobody says that it is lost' },
      { seed: 3003382, fault: 'a loss that is said while the last group of a left stream is under way' },
    ],
  },
  {
    journal: 'sqs',
    place: 'a queue',
    histories: 60,
    timeMaxMs: 5000,
    bugs: SQS_MUTATIONS,
    found: [
      { seed: 3068, fault: 'a last message that is deleted although its stream is not retired' },
      { seed: 3677, fault: 'a roll-up that receives nothing any more after an outage of PostgreSQL' },
      { seed: 2785, fault: 'a writer that goes on in a stream of which a failover has taken commits back' },
    ],
  },
] as const;

/** `timeMaxMs` of the quick tier. */
const QUICK_MS = 3000;

/** Most histories until a bug is found, from the seed that it names. */
const MUTATED_HISTORIES_MAX = 60;

for (const { journal, place, histories, timeMaxMs, bugs, found } of JOURNALS) {
  describe(`histories of servers with one journal in ${place}`, () => {
    test('count every acknowledged increment once, however the servers take each other over', async (t) => {
      const asked = process.env['SEED'] !== undefined && process.env['SEED'] !== '';
      const first = seedOfRun();
      const most = asked ? 1 : countOfRuns(histories);
      const until = performance.now() + (isQuick ? QUICK_MS : timeMaxMs);
      let ran = 0;
      for (let seed = first; seed < first + most && (ran === 0 || performance.now() < until); seed += 1) {
        await check(seed, journal);
        ran += 1;
      }
      t.diagnostic(`SEED=${first}, ${ran} histories`);
    });

    // The quick tier is fresh histories alone.
    if (isQuick) return;

    test('are the same step by step when a seed is replayed', async () => {
      for (const seed of [1, 2, 3]) {
        const [one, two]: [string[], string[]] = [[], []];
        await runSharedHistory(seed, {}, one, journal);
        await runSharedHistory(seed, {}, two, journal);
        assert.ok(one.length > 10);
        assert.deepEqual(two, one);
      }
    });

    for (const { seed, fault } of found) test(`do not show ${fault}`, () => check(seed, journal));

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

async function check(seed: number, journal: SharedJournal): Promise<void> {
  const { violation } = await runSharedHistory(seed, {}, undefined, journal);
  if (violation === undefined) return;
  await replay(seed, false, journal);
  assert.fail(`SEED=${seed}: ${violation.message}`);
}
