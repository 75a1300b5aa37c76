import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SumArrayEncoder } from '#product/db/binary-array.js';
import { StatementRefusedError } from '#product/db/database-errors.js';
import {
  findPoison,
  PROBE_KEYS_MAX,
  rejectedIncrements,
  type Poison,
} from '#product/shard-worker/thread/flush/poison-search.js';
import type { SummingMap } from '#product/shard-worker/thread/summing-map.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { decodeIntegers, decodeTexts } from '../../../../simulation/binary-arrays.js';
import { incrementEntries, idempotentEntry } from '../../../../support/record-entries.js';

function rangeOf(...entries: readonly Buffer[]): FrozenRange {
  const pendingSums = new PendingSums('00000000-0000-4000-8000-000000000001', { epoch: 1, lsn: 0, coveredFrom: 0 });
  const bytes = Buffer.concat(entries);
  pendingSums.apply(1, bytes, 0, bytes.length, 0);
  return pendingSums.freeze();
}

/** Searches with a database that refuses keys with the prefix "bad". `tried` gets the number of keys of each probe. */
function search(range: FrozenRange, tried: number[] = []): Promise<Poison> {
  const probe = (rows: SumArrayEncoder): Promise<StatementRefusedError | undefined> => {
    const names = decodeTexts(rows.keys());
    tried.push(names.length);
    const isBad = names.some((name) => name.startsWith('bad'));
    return Promise.resolve(isBad ? new StatementRefusedError('refused', '23514', 'poison') : undefined);
  };
  return findPoison(range, probe);
}

/** The poison keys by name: the plain ones, then those of idempotent requests. */
function keysOf({ sums, idempotent }: FrozenRange, poison: Poison): readonly string[] {
  const name = (map: SummingMap, entry: number): string => {
    const start = map.keyStart(entry);
    return Buffer.from(map.arena.subarray(start, start + map.keyBytes(entry))).toString();
  };
  return [
    ...Array.from(poison.plain.keys(), (entry) => name(sums, entry)),
    ...Array.from(poison.totals.keys(), (entry) => name(idempotent.totals, entry)),
  ];
}

/** A range of many plain keys, as a long outage leaves it. */
function backlog(keys: number, bad: number): FrozenRange {
  const pendingSums = new PendingSums('00000000-0000-4000-8000-000000000001', { epoch: 1, lsn: 0, coveredFrom: 0 });
  for (let first = 0, lsn = 1; first < keys; first += 10_000, lsn += 1) {
    const names = Array.from({ length: Math.min(10_000, keys - first) }, (_, index) => {
      const number = first + index;
      return [`${number === bad ? 'bad' : 'key'} ${number}`, 1] as [string, number];
    });
    const bytes = incrementEntries(names);
    pendingSums.apply(lsn, bytes, 0, bytes.length, 0);
  }
  return pendingSums.freeze();
}

test('a backlog is probed in parts of limited size, and the poison keys of every part are found', async () => {
  const keys = Array.from({ length: 2 * PROBE_KEYS_MAX + 5 }, (_, n) => [`key ${n}`, 1] as [string, number]);
  const bad = [0, PROBE_KEYS_MAX - 1, PROBE_KEYS_MAX, 2 * PROBE_KEYS_MAX + 4];
  for (const n of bad) keys[n] = [`bad ${n}`, 1];
  const tried: number[] = [];
  const range = rangeOf(incrementEntries(keys));
  assert.deepEqual(
    keysOf(range, await search(range, tried)),
    bad.map((n) => `bad ${n}`),
  );
  assert.equal(Math.max(...tried), PROBE_KEYS_MAX);
});

test('nothing is found where PostgreSQL refuses no key, or there are no keys', async () => {
  assert.equal((await search(rangeOf(incrementEntries([['good', 1]])))).size, 0);
  const tried: number[] = [];
  assert.equal((await search(rangeOf(), tried)).size, 0);
  assert.deepEqual(tried, []);
});

test('increments that are set aside are counted, except those of idempotent requests that counted before', async () => {
  const range = rangeOf(
    incrementEntries([
      ['bad', 1],
      ['bad', 2],
      ['good', 3],
    ]),
    idempotentEntry('whole', [
      ['bad', 1],
      ['bad', 1],
      ['bad too', 1],
    ]),
    idempotentEntry('part', [
      ['bad', 1],
      ['good', 1],
    ]),
    idempotentEntry('good', [['good', 1]]),
  );
  const poison = await search(range);
  assert.deepEqual(keysOf(range, poison), ['bad', 'bad', 'bad too']);
  assert.equal(poison.size, 2);
  assert.equal(rejectedIncrements(range, poison, []), 2 + 3 + 1);
  assert.equal(rejectedIncrements(range, poison, ['part']), 2 + 3);
  assert.equal(rejectedIncrements(range, poison, ['whole', 'part']), 2);
});

test('a key that is plain and in idempotent requests is tried once, with everything that the range adds to it', async () => {
  const range = rangeOf(
    idempotentEntry('first', [
      ['both', 10],
      ['request only', 20],
    ]),
    incrementEntries([
      ['plain only', 1],
      ['both', 2],
    ]),
    idempotentEntry('second', [['both', 30]]),
  );
  const tried: [string, bigint][][] = [];
  await findPoison(range, (rows) => {
    const sums = decodeIntegers(rows.amounts());
    tried.push(decodeTexts(rows.keys()).map((key, index) => [key, sums[index] ?? 0n]));
    return Promise.resolve(undefined);
  });
  assert.deepEqual(tried, [
    [
      ['plain only', 1n],
      ['both', 42n],
      ['request only', 20n],
    ],
  ]);
});

test('the search of a million keys takes memory for the keys of one probe, not for the backlog', async () => {
  const range = backlog(1_000_000, 765_432);
  const used = (): number => process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;
  const before = used();
  let most = before;
  const poison = await findPoison(range, (rows) => {
    most = Math.max(most, used());
    const isRefused = rows.keys().includes('bad 765432');
    return Promise.resolve(isRefused ? new StatementRefusedError('refused', 'P0001', 'other') : undefined);
  });
  assert.deepEqual(keysOf(range, poison), ['bad 765432']);
  assert.ok(most - before < 32 * 1024 * 1024, `${most - before} bytes`);
});

test('different reasons beyond a hundred are left out, and the SQLSTATE stays', async () => {
  const keys = Array.from({ length: 300 }, (_, n) => [`bad ${n}`, 1] as [string, number]);
  const range = rangeOf(incrementEntries(keys));
  const poison = await findPoison(range, (rows) => {
    const [first = ''] = decodeTexts(rows.keys());
    return Promise.resolve(new StatementRefusedError(`no ${first} ${'x'.repeat(10_000)}`, 'P0001', 'other'));
  });
  const reasons = new Set(poison.plain.values());
  assert.deepEqual([poison.size, reasons.size], [300, 101]);
  for (const { reason, sqlState } of reasons) assert.ok(reason.length <= 500 && sqlState === 'P0001');
});
