/**
 * The crash test finds the bugs that it is made for: each of these builds has one mistake that a reader could overlook.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { breakBuild, type Mistake } from '../support/broken-build.js';
import { seededRandom } from '../support/random.js';
import { runCrashes, type CrashRunOptions } from './crash-run.js';

interface BrokenCase {
  readonly name: string;
  readonly mistakes: readonly Mistake[];
  readonly options: Omit<CrashRunOptions, 'random' | 'durationMs'>;
  readonly finds: RegExp;
}

const cases: readonly BrokenCase[] = [
  {
    name: 'the crash test finds an acknowledgement before the journal has the increment',
    mistakes: [
      {
        file: 'shard-worker/thread/group-commit.js',
        from: 'lsn = this.#target.append(records, heardTime);',
        to: `this.#succeed(taken, refusals); taken = []; refusals = [];
             Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
             lsn = this.#target.append(records, heardTime);`,
      },
    ],
    options: { database: 'given', killDatabase: false, serverKillsLeast: 4 },
    finds: /acknowledged, was counted 0 times/,
  },
  {
    name: 'the crash test finds a checkpoint that moves in a transaction of its own',
    mistakes: [
      {
        file: 'db/statements.js',
        from: `  update journal_checkpoints set lsn = $4, heard_at = now(),
    accepted_through = greatest(accepted_through, least($5::timestamptz, now()))
  where stream = $1 and epoch = $2 and lsn = $3 and closed_at is null and retired_at is null
  returning 1
`,
        to: `  select 1, $4::bigint, $5::timestamptz from journal_checkpoints
  where stream = $1 and epoch = $2 and lsn = $3 for update
`,
      },
      {
        file: 'db/flush-statement.js',
        from: "throw new OutcomeUnknownError('a flush was answered without its row');",
        to: `throw new OutcomeUnknownError('a flush was answered without its row');
             await new Promise((resolve) => setTimeout(resolve, 20));
             await this.#connection.run({ text: 'update journal_checkpoints set lsn = $2 where stream = $1', values: [request.stream, request.toLsn] });`,
      },
    ],
    options: { database: 'given', killDatabase: false, serverKillsLeast: 4 },
    finds: /was counted 2 times/,
  },
  {
    name: 'the crash test finds sums that are added in any order, by the deadlocks of two nodes',
    mistakes: [
      {
        file: 'db/statements.js',
        from: `
  select key, amount, now() from sums order by key collate "C"`,
        // Also slower: otherwise the mistake needs more nodes to show within seconds.
        to: `
  select key, amount + length(pg_sleep(0.001)::text), now() from sums order by random()`,
      },
    ],
    options: {
      database: 'given',
      nodes: 2,
      shards: 1,
      killServers: false,
      killDatabase: false,
      env: { FLUSH_INTERVAL_MS: '1' },
    },
    finds: /deadlocks/,
  },
];

for (const { name, mistakes, options, finds } of cases) {
  test(name, { timeout: 400_000 }, async () => {
    const build = await breakBuild(mistakes);
    const random = seededRandom(name);
    try {
      // Some mistakes show only by chance; at least one of these runs shows this one.
      for (let runs = 1; ; runs += 1) {
        const { violations } = await runCrashes({ ...options, random, main: build.main, durationMs: 5_000, restMs: 5 });
        if (violations.some((violation) => finds.test(violation))) return;
        assert.ok(runs < 4, `${runs} runs found: ${violations.join('\n')}`);
      }
    } finally {
      await build.remove();
    }
  });
}
