import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { parseSum, prefixSuccessor } from '#product/db/counter-store.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';

test('a sum is a number where a double holds it exactly, else a bigint, and refused where it is not an integer', () => {
  assert.equal(parseSum('9007199254740991'), Number.MAX_SAFE_INTEGER);
  assert.equal(parseSum('-9007199254740992'), -(2n ** 53n));
  for (const text of ['NaN', '-Infinity', '1.5', ''])
    assert.throws(
      () => parseSum(text),
      (error) => error instanceof CounterError && error.code === 'internal-error',
    );
});

test('the successor of a prefix is its last code point plus one, without the surrogates', () => {
  assert.equal(prefixSuccessor('a'), 'b');
  assert.equal(prefixSuccessor('page:'), 'page;');
  assert.equal(prefixSuccessor('a\u007f'), 'a\u0080');
  assert.equal(prefixSuccessor('\ud7ff'), '\ue000');
  assert.equal(prefixSuccessor('\uffff'), '\u{10000}');
  assert.equal(prefixSuccessor('😀'), '😁');
});

test('a prefix that ends with the last code point has the successor of the part before it, if there is one', () => {
  assert.equal(prefixSuccessor('a\u{10ffff}\u{10ffff}'), 'b');
  assert.equal(prefixSuccessor('\u{10ffff}'), undefined);
  assert.equal(prefixSuccessor(''), undefined);
});

test('bytewise, exactly the strings with the prefix are between it and its successor', () => {
  const seed = seedOfRun();
  console.log(`SEED=${seed}`);
  const random = new Mulberry32(seed);
  const alphabet = [
    '\u0001',
    'a',
    'b',
    '\u007f',
    '\u0080',
    '\u07ff',
    '\u0800',
    '\ud7ff',
    '\ue000',
    '\uffff',
    '\u{10000}',
    '\u{10ffff}',
  ];
  const word = (): string => Array.from({ length: random.below(4) }, () => random.pick(alphabet)).join('');
  for (let round = 0; round < countOfRuns(20_000); round += 1) {
    const prefix = word();
    const text = word();
    const successor = prefixSuccessor(prefix);
    const bytes = Buffer.from(text);
    const isBetween =
      bytes.compare(Buffer.from(prefix)) >= 0 && (successor === undefined || bytes.compare(Buffer.from(successor)) < 0);
    assert.equal(isBetween, text.startsWith(prefix), JSON.stringify({ prefix, text, successor }));
  }
});
