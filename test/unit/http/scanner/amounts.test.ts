/**
 * Each rule for amounts, on both sides of its limit.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { assertIncrements, KEY_BYTES_MAX, refusalOf } from '../../../support/increment-cases.js';
import { scannedIncrements } from '../../../support/scanned-increments.js';

const MAX = Number.MAX_SAFE_INTEGER;

test('an amount is accepted or refused as the double that JSON.parse makes of it', () => {
  const integers = [
    '0',
    '-0',
    '1',
    '-1',
    '10',
    '1.0',
    '1.000',
    '1e3',
    '1E+3',
    '10e-1',
    '-10E-01',
    '0e0',
    '0.0',
    '-0.0e-5',
    '1.5e1',
  ];
  const large = ['999999999999999', '1000000000000000', '9007199254740991', '-9007199254740991', '9007199254740991.0'];
  const rounded = [
    '9007199254740990.9',
    '0.99999999999999999999',
    '1e-400',
    '-1e-400',
    '0e999999999',
    '0.0000000001e10',
  ];
  const zeros = '0'.repeat(400);
  for (const spelt of [...integers, ...large, ...rounded, `1${zeros}e-400`, `0.${zeros}1e401`]) {
    const amount = Number(JSON.parse(spelt));
    assertIncrements(`{"a":${spelt}}`, [['a', amount + 0]]);
    assertIncrements(`{"a":${spelt},"b":1}`, [
      ['a', amount + 0],
      ['b', 1],
    ]);
  }
});

test('amounts that are not integers within ±(2^53−1) are refused', () => {
  const beyond = [
    '9007199254740992',
    '-9007199254740992',
    '9007199254740993',
    '1e16',
    '1e308',
    '1e309',
    '-1e999',
    '9'.repeat(400),
  ];
  const fractions = ['1.5', '0.1', '-0.5', '1e-1', '15e-1', '1e-300', '4503599627370495.5'];
  for (const spelt of [...beyond, ...fractions])
    assert.match(refusalOf(`{"a":${spelt}}`), /Member "a".*not an integer within/);
});

test('an amount that is not a JSON number is refused', () => {
  const numbers = [
    '+1',
    '.5',
    '1.',
    '-',
    '--1',
    '-+1',
    '01',
    '-01',
    '00',
    '1e',
    '1e+',
    '1.e1',
    '1.5e',
    '0x10',
    '1_000',
    '1n',
    '1 0',
  ];
  const names = ['NaN', 'Infinity', '-Infinity', 'null', 'true', 'false', 'undefined'];
  const others = ['"1"', '""', '[]', '[1]', '{}', '{"b":1}', '١', '1,0', '1e1.0', '1e1e1', '1.0.0', '- 1', '1 e3'];
  for (const spelt of [...numbers, ...names, ...others]) refusalOf(`{"a":${spelt}}`);
});

test('a number of a megabyte is read in linear time', () => {
  const scanner = new IncrementBodyScanner({ keyBytesMax: KEY_BYTES_MAX });
  const spend = (zeros: number): number => {
    const body = Buffer.from(`{"a":1.${'0'.repeat(zeros)},"b":1${'0'.repeat(zeros)}e-${zeros}}`);
    const start = process.cpuUsage();
    for (let times = 0; times < 4; times += 1)
      assert.deepEqual(scannedIncrements(scanner, body, false), [
        ['a', 1],
        ['b', 1],
      ]);
    return process.cpuUsage(start).user;
  };
  spend(65_536);
  // 16 times the digits would take 256 times as long if time grew with the square; the limit leaves room for noise.
  const small = Math.max(spend(65_536), 1000);
  assert.ok(spend(1_048_576) < small * 128);
});

test('the largest amounts of either sign pass the scanner unchanged', () => {
  assertIncrements(`{"a":${MAX},"b":-${MAX}}`, [
    ['a', MAX],
    ['b', -MAX],
  ]);
});
