import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SumArrayEncoder } from '#product/db/binary-array.js';
import { AMOUNT_MAX, type Sum } from '#product/core/increment.js';
import { connectTo, testServerUrl } from '../../support/database.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { seedOfRun } from '../../support/random-runs.js';

const EDGES: readonly Sum[] = [
  0,
  -0,
  1,
  -1,
  9999,
  10000,
  10001,
  99_999_999,
  100_000_000,
  999_999_999_999,
  1e12,
  1e12 + 1,
  AMOUNT_MAX,
  -AMOUNT_MAX,
  AMOUNT_MAX - 1,
  9007199254740993n,
  -9007199254740993n,
  10n ** 16n,
  10n ** 20n - 1n,
  -(10n ** 40n),
  2n ** 4000n,
  0n,
  5n,
];

function randomSum(random: Mulberry32): Sum {
  const digits = 1 + random.below(60);
  let text = '';
  for (let n = 0; n < digits; n += 1) text += String(random.below(10));
  const value = BigInt(text) * (random.below(2) === 0 ? 1n : -1n);
  return value <= AMOUNT_MAX && value >= -AMOUNT_MAX ? Number(value) : value;
}

async function roundTrip(increments: readonly (readonly [string, Sum])[], encoder: SumArrayEncoder): Promise<void> {
  const connection = await connectTo(await testServerUrl());
  try {
    encoder.reset();
    for (const [key, sum] of increments) {
      const bytes = Buffer.from(`..${key}..`);
      encoder.append(bytes, 2, bytes.length - 4, sum);
    }
    assert.equal(encoder.count, increments.length);
    const rows = await connection.query<{ k: string; a: string }>({
      text: 'select k, a::text as a from unnest($1::text[], $2::numeric[]) with ordinality q(k, a, n) order by n',
      values: [encoder.keys(), encoder.amounts()],
    });
    assert.deepEqual(
      rows.map((row) => [row.k, row.a]),
      increments.map(([key, sum]) => [key, BigInt(sum).toString()]),
    );
  } finally {
    await connection.close();
  }
}

test('PostgreSQL reads every edge case of a sum as it was encoded', async () => {
  await roundTrip(
    EDGES.map((sum, index) => [`edge ${index}`, sum] as const),
    new SumArrayEncoder(),
  );
});

test('PostgreSQL reads random keys and sums as they were encoded, also from reused buffers', async (context) => {
  const seed = seedOfRun();
  context.diagnostic(`SEED=${seed}`);
  const random = new Mulberry32(seed);
  const encoder = new SumArrayEncoder();
  for (const count of [1, 20_000, 3, 5_000]) {
    const increments = Array.from({ length: count }, (_, n) => {
      const length = random.below(10) === 0 ? random.below(500) : random.below(30);
      const text = Array.from({ length }, () => ['a', 'Z', 'é', '漢', '😀', '"', '\\', ',', '{'][random.below(9)]).join(
        '',
      );
      return [`${n}${text}`, randomSum(random)] as const;
    });
    await roundTrip(increments, encoder);
  }
});

test('no sums are two empty arrays', async () => {
  await roundTrip([], new SumArrayEncoder());
});

test('a sum with more digits than PostgreSQL takes is refused when it is encoded', () => {
  const encoder = new SumArrayEncoder();
  encoder.append(Buffer.from('k'), 0, 1, 10n ** 131_071n);
  assert.throws(() => encoder.append(Buffer.from('k'), 0, 1, 10n ** 131_072n), RangeError);
  assert.equal(encoder.count, 1);
});
