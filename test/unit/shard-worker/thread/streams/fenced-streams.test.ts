/** What a shard does about a row that is not where it left it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import type { JournalStreams } from '#product/shard-worker/journal/journal.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import type { ShardContext } from '#product/shard-worker/thread/shard-context.js';
import { FencedStreams } from '#product/shard-worker/thread/streams/fenced-streams.js';
import type { OwnedStream } from '#product/shard-worker/thread/streams/owned-stream.js';
import type { StreamTaker } from '#product/shard-worker/thread/streams/stream-taker.js';

const unavailable = new CounterError('database-unavailable', 'unavailable');
const STREAM = 'stream';

interface Circumstances {
  readonly isVolatile: boolean;
  /** Undefined: the database does not tell. */
  readonly claims?: readonly { id: string; epoch: number; lsn: number }[] | undefined;
  /** Outcomes of takings, in order. */
  readonly takings?: readonly (Error | number)[];
}

/** A shard that left the row of its stream at epoch 5, LSN 7, with what the decision says and does. */
function makeScene({ isVolatile, claims, takings = [] }: Circumstances) {
  const failures: string[] = [];
  const told: string[] = [];
  const rest = [...takings];
  const context = {
    phase: 'serving',
    pauses: { pause: () => Promise.resolve() },
    fail: (error: Error) => failures.push(error.message),
    deps: {
      log: () => undefined,
      tell: ({ kind }: { kind: string }) => told.push(kind),
      database: {
        readClaims: () => (claims === undefined ? Promise.reject(unavailable) : Promise.resolve(claims)),
      },
    },
  } as unknown as ShardContext;
  const taker = {
    take: () => {
      const next = rest.shift();
      if (typeof next !== 'number') return Promise.reject(next ?? assert.fail('one taking too many'));
      return Promise.resolve({ epoch: 6, lsn: next, coveredFrom: 0 });
    },
  } as unknown as StreamTaker;
  const pendingSums = new PendingSums(STREAM, { epoch: 5, lsn: 7, coveredFrom: 0 });
  const owned = { journal: { ownership: () => ({ claims: [] }) }, pendingSums } as unknown as OwnedStream;
  const streams = new FencedStreams(context, { endsWithThread: isVolatile } as JournalStreams, taker);
  return { decide: (row?: { epoch: number; lsn: number }) => streams.decide(owned, row), failures, told, rest };
}

const OTHERS = [{ id: 'other', epoch: 6, lsn: 7 }];

for (const { name, isVolatile, says } of [
  {
    name: 'a journal in memory loses what is pending to another owner, and says so',
    isVolatile: true,
    says: /are lost\.$/,
  },
  { name: 'a journal in files keeps it for the next start, and says so', isVolatile: false, says: /start it again/ },
]) {
  test(name, async () => {
    const { decide, failures, told } = makeScene({ isVolatile, claims: OTHERS });
    assert.equal(await decide({ epoch: 6, lsn: 7 }), 'over');
    assert.deepEqual(told, ['fenced']);
    assert.match(failures.join(), says);
  });
}

for (const { name, row, isVolatile, says } of [
  {
    name: 'a row that is gone ends sums in memory',
    row: undefined,
    isVolatile: true,
    says: /row is missing .* without the/,
  },
  {
    name: 'a row that went back ends sums of files',
    row: { epoch: 5, lsn: 3 },
    isVolatile: false,
    says: /LSN 3\. .* recovers/,
  },
  {
    name: 'without claims to read the recovery decides',
    row: { epoch: 6, lsn: 7 },
    isVolatile: false,
    says: /epoch 6/,
  },
]) {
  test(name, async () => {
    const { decide, failures, told } = makeScene({ isVolatile });
    assert.equal(await decide(row), 'over');
    assert.deepEqual(told, []);
    assert.match(failures.join(), says);
  });
}

test('a row of memory that was only retired is taken again as soon as the database answers', async () => {
  const { decide, failures, rest } = makeScene({ isVolatile: true, claims: [], takings: [unavailable, 7] });
  assert.equal(await decide({ epoch: 6, lsn: 7 }), 'same');
  assert.deepEqual([failures, rest], [[], []]);
});
