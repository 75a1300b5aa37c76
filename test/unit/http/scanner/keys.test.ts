/**
 * Each rule for keys, on both sides of its limit.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { assertIncrements, named, refusalOf, scan } from '../../../support/increment-cases.js';

test('names with a meaning in JavaScript are ordinary keys', () => {
  for (const key of ['__proto__', 'constructor', 'toString', '0', '-1', ' ', '{}', '😀']) {
    assertIncrements(`{"${key}":1}`, [[key, 1]]);
  }
});

test('escapes in keys are decoded', () => {
  assertIncrements('{"\\"\\\\\\/\\b\\f\\n\\r\\t":1}', [['"\\/\b\f\n\r\t', 1]]);
  assertIncrements('{"\\u00e9\\u00E9\\u20ac\\u0001":1}', [['éé€\u0001', 1]]);
  assertIncrements('{"\\ud83d\\ude00\\uD83D\\uDE00":1}', [['😀😀', 1]]);
  assertIncrements('{"\\ud800\\udc00\\udbff\\udfff":1}', [['\u{10000}\u{10ffff}', 1]]);
  assertIncrements('{"\\u007f\\u0080\\u07ff\\u0800\\uffff":1}', [['\x7f\x80\u07ff\u0800\uffff', 1]]);
  assertIncrements('{"é\\u0041€\\n😀z":1,"b":2}', [
    ['éA€\n😀z', 1],
    ['b', 2],
  ]);
});

test('escapes that JSON does not define are refused', () => {
  for (const escape of [
    '\\',
    '\\a',
    '\\x41',
    '\\U0041',
    "\\'",
    '\\0',
    '\\u',
    '\\u004',
    '\\u00g1',
    '\\u+041',
    '\\u 041',
    '\\é',
  ]) {
    refusalOf(`{"${escape}":1}`);
    refusalOf(`{"a":1,"é${escape}":1}`);
  }
});

test('surrogate escapes must come in pairs, high before low', () => {
  const unpaired = [
    '\\ud800',
    '\\udbff',
    '\\udc00',
    '\\udfff',
    '\\ud83dx',
    '\\ud83d\\n',
    '\\ud83d\\u0041',
    '\\ud83d\\ud83d',
  ];
  for (const escape of [
    ...unpaired,
    '\\ude00\\ud83d',
    '\\ude00\\ude00',
    '\\ud83d\\ue000',
    '\\ud83dxude00',
    '\\ud83d\\xde00',
    '\\ud83d\\ud83d\\ude00',
    '\\ud83d\\udbff',
    '\\ud83d😀',
  ]) {
    assert.match(refusalOf(`{"${escape}":1}`), /unpaired surrogate/);
  }
  assertIncrements('{"\\ud7ff\\ue000":1}', [['\ud7ff\ue000', 1]]);
});

test('U+0000 is refused in a key, raw control characters too', () => {
  assert.match(refusalOf('{"a\\u0000":1}'), /U\+0000/);
  for (let control = 0; control < 0x20; control += 1) {
    assert.match(refusalOf(named(0x61, control)), /control character/);
    assert.match(refusalOf(named(0xc3, 0xa9, control)), /control character/);
  }
  assertIncrements(named(0x7f), [['\x7f', 1]]);
  assertIncrements('{"\\u0001\\u001f":1}', [['\u0001\u001f', 1]]);
});

test('UTF-8 in keys is accepted up to its limits and refused beyond them', () => {
  const valid = [
    '\u0080',
    '\u07ff',
    '\u0800',
    '\u0fff',
    '\u1000',
    '\ud7ff',
    '\ue000',
    '\uffff',
    '\u{10000}',
    '\u{3ffff}',
    '\u{40000}',
    '\u{10ffff}',
  ];
  for (const key of valid) assertIncrements(`{"${key}":1}`, [[key, 1]]);
  const overlong = [
    [0xc0, 0x80],
    [0xc1, 0xbf],
    [0xe0, 0x80, 0x80],
    [0xe0, 0x9f, 0xbf],
    [0xf0, 0x80, 0x80, 0x80],
    [0xf0, 0x8f, 0xbf, 0xbf],
  ];
  const surrogates = [
    [0xed, 0xa0, 0x80],
    [0xed, 0xaf, 0xbf],
    [0xed, 0xb0, 0x80],
    [0xed, 0xbf, 0xbf],
  ];
  const beyond = [[0xf4, 0x90, 0x80, 0x80], [0xf5, 0x80, 0x80, 0x80], [0xf8, 0x88, 0x80, 0x80, 0x80], [0xfe], [0xff]];
  const stray = [[0x80], [0xbf], [0xc3, 0xa9, 0xa9]];
  const truncated = [
    [0xc3],
    [0xe2, 0x82],
    [0xe2],
    [0xf0, 0x9f, 0x98],
    [0xf0, 0x9f],
    [0xf0],
    [0xe2, 0x28, 0xa1],
    [0xf0, 0x9f, 0x41, 0x80],
  ];
  for (const bytes of [...overlong, ...surrogates, ...beyond, ...stray, ...truncated]) {
    assert.match(refusalOf(named(...bytes)), /not valid UTF-8/);
    assert.match(refusalOf(named(0x5c, 0x6e, ...bytes)), /not valid UTF-8/);
    refusalOf(Buffer.concat([Buffer.from('{"a":1}'), Uint8Array.from(bytes)]));
  }
});

test('a key has 1 byte to keyBytesMax bytes, counted in decoded UTF-8', () => {
  for (const [unit, bytes] of [
    ['k', 1],
    ['é', 2],
    ['€', 3],
    ['😀', 4],
    ['\\n', 1],
    ['\\u00e9', 2],
    ['\\u20ac', 3],
    ['\\ud83d\\ude00', 4],
  ] as const) {
    const fitting = unit.repeat(12 / bytes);
    for (const prefix of ['', 'z', 'é'] as const) {
      const keyBytesMax = 12 + Buffer.byteLength(prefix);
      const accepted = scan(`{"${prefix}${fitting}":1}`, false, keyBytesMax);
      assert.ok(!(accepted instanceof CounterError), `${prefix}${fitting}`);
      assert.match(refusalOf(`{"${prefix}${fitting}":1}`, false, keyBytesMax - 1), /must have 1 to/);
      assert.match(refusalOf(`{"${prefix}${fitting}k":1}`, false, keyBytesMax), /must have 1 to/);
    }
  }
  assert.match(refusalOf('{"":1}'), /must have 1 to 512 bytes/);
  assertIncrements(`{"${'k'.repeat(512)}":1}`, [['k'.repeat(512), 1]]);
  refusalOf(`{"${'k'.repeat(513)}":1}`);
});

test('no setting permits a key longer than 2048 bytes', () => {
  assert.ok(!(scan(`{"${'k'.repeat(2048)}":1}`, false, 100_000) instanceof CounterError));
  refusalOf(`{"${'k'.repeat(2049)}":1}`, false, 100_000);
});
