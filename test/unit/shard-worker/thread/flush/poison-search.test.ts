import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StatementRefusedError } from '#product/db/database-errors.js';
import {
  findPoison,
  PROBE_KEYS_MAX,
  rejectedIncrements,
  type PoisonKey,
} from '#product/shard-worker/thread/flush/poison-search.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { decodeTexts } from '../../../../simulation/binary-arrays.js';
import { incrementEntries, idempotentEntry } from '../../../../support/record-entries.js';

function rangeOf(...entries: readonly Buffer[]): FrozenRange {
  const pendingSums = new PendingSums('00000000-0000-4000-8000-000000000001', { epoch: 0, lsn: 0 });
  const bytes = Buffer.concat(entries);
  pendingSums.apply(1, bytes, 0, bytes.length);
  return pendingSums.freeze(0);
}

/** Searches with a database that refuses keys with the prefix "bad". `tried` gets the number of keys of each probe. */
function search(range: FrozenRange, tried: number[] = []): Promise<readonly PoisonKey[]> {
  const probe = (keys: Buffer): Promise<StatementRefusedError | undefined> => {
    const names = decodeTexts(keys);
    tried.push(names.length);
    const isBad = names.some((name) => name.startsWith('bad'));
    return Promise.resolve(isBad ? new StatementRefusedError('refused', '23514', 'poison') : undefined);
  };
  return findPoison(range, probe);
}

function keysOf(poison: readonly PoisonKey[]): readonly string[] {
  return poison.map(({ key }) => Buffer.from(key.bytes).toString());
}

test('a backlog is probed in parts of limited size, and the poison keys of every part are found', async () => {
  const keys = Array.from({ length: 2 * PROBE_KEYS_MAX + 5 }, (_, n) => [`key ${n}`, 1] as [string, number]);
  const bad = [0, PROBE_KEYS_MAX - 1, PROBE_KEYS_MAX, 2 * PROBE_KEYS_MAX + 4];
  for (const n of bad) keys[n] = [`bad ${n}`, 1];
  const tried: number[] = [];
  assert.deepEqual(
    keysOf(await search(rangeOf(incrementEntries(keys)), tried)),
    bad.map((n) => `bad ${n}`),
  );
  assert.equal(Math.max(...tried), PROBE_KEYS_MAX);
});

test('nothing is found where PostgreSQL refuses no key, or there are no keys', async () => {
  assert.deepEqual(await search(rangeOf(incrementEntries([['good', 1]]))), []);
  const tried: number[] = [];
  assert.deepEqual(await search(rangeOf(), tried), []);
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
  assert.deepEqual(keysOf(poison), ['bad', 'bad too']);
  assert.equal(rejectedIncrements(range, poison, []), 2 + 3 + 1);
  assert.equal(rejectedIncrements(range, poison, ['part']), 2 + 3);
  assert.equal(rejectedIncrements(range, poison, ['whole', 'part']), 2);
});
