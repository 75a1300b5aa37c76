/**
 * The structure of bodies on both sides of each rule, errors, and the columns.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { DECODED_BYTES_KEPT_MAX, ROWS_KEPT_MAX } from '#product/http/scanner/parsed-increments.js';
import { assertIncrements, KEY_BYTES_MAX, refusalOf, scan } from '../../../support/increment-cases.js';
import type { Increment } from '../../../support/increment-oracle.js';
import { scannedIncrements } from '../../../support/scanned-increments.js';

test('an object of keys and integers gives its increments in order', () => {
  assertIncrements('{"page:/home": 1}', [['page:/home', 1]]);
  assertIncrements('{"a": 1, "b": -2, "c": 40}', [
    ['a', 1],
    ['b', -2],
    ['c', 40],
  ]);
});

test('a name that occurs twice gives two increments, in any spelling', () => {
  assertIncrements('{"a":1,"a":2}', [
    ['a', 1],
    ['a', 2],
  ]);
  assertIncrements('{"a":1,"\\u0061":2}', [
    ['a', 1],
    ['a', 2],
  ]);
});

test('JSON white space is accepted around every token, other white space nowhere', () => {
  for (const space of [' ', '\t', '\r', '\n', ' \r\n\t ']) {
    const idempotencyKeys = ['', '{', '"a"', ':', '1', ',', '"b"', ':', '2', '}', ''];
    const increments: Increment[] = [
      ['a', 1],
      ['b', 2],
    ];
    assertIncrements(idempotencyKeys.join(space), increments);
  }
  for (const space of ['\f', '\v', '\0', '\u00a0', '\u2028', '\ufeff', '/**/', '//\n']) {
    for (const body of [
      `${space}{"a":1}`,
      `{${space}"a":1}`,
      `{"a"${space}:1}`,
      `{"a":${space}1}`,
      `{"a":1${space}}`,
      `{"a":1}${space}`,
    ]) {
      refusalOf(body);
    }
  }
});

test('every cut of a valid body is refused', () => {
  for (const [body, ndjson] of [
    ['{"a\\u00e9é": -1.0e1 , "b":2}', false],
    ['{"a\\n😀":10}', true],
  ] as const) {
    const bytes = Buffer.from(body);
    assert.ok(!(scan(bytes, ndjson) instanceof CounterError));
    for (let length = 0; length < bytes.length; length += 1) refusalOf(bytes.subarray(0, length), ndjson);
  }
});

test('a body that is not one object of members is refused', () => {
  const bodies = [
    '1',
    '"a"',
    'null',
    'true',
    '[]',
    '[1]',
    '[{"a":1}]',
    '{',
    '}',
    '{"a"}',
    '{"a":}',
    '{"a":1',
    '{:1}',
    '{1:1}',
  ];
  const commas = [
    '{,}',
    '{"a":1,}',
    '{,"a":1}',
    '{"a":1,,"b":2}',
    '{"a":1 "b":2}',
    '{"a":1;"b":2}',
    '{"a",1}',
    '{"a"::1}',
  ];
  const others = [
    "{'a':1}",
    '{a:1}',
    '{"a":1}}',
    '{"a":1}{"b":2}',
    '{"a":1},',
    '{"a":1}x',
    '{"a":1}\n{"b":2}',
    '{{"a":1}}',
  ];
  for (const body of [...bodies, ...commas, ...others]) refusalOf(body);
});

test('a body with nothing to count is refused', () => {
  for (const body of ['', ' ', '\r\n', '{}', ' { } ']) {
    assert.match(refusalOf(body), /nothing to count/);
    assert.match(refusalOf(body, true), /nothing to count/);
  }
});

test('a leading byte order mark is refused and named', () => {
  assert.match(refusalOf('\ufeff{"a":1}'), /byte order mark/);
  assert.match(refusalOf('\ufeff{"a":1}', true), /byte order mark/);
  assertIncrements('{"\ufeffa":1}', [['\ufeffa', 1]]);
});

test('one bad member at any place refuses the whole body', () => {
  refusalOf('{"a":1,"b":null}');
  refusalOf('{"a":null,"b":1}');
  refusalOf('{"a":1}\n{"b":2}\n{"c":1.5}\n', true);
});

test('a refusal names the member and the byte offset', () => {
  assert.equal(
    refusalOf('{"a":1,"é":"x"}'),
    'Member "é": expected the digit of a JSON number, found \'"\' at byte 12.',
  );
  assert.equal(refusalOf('{"a":1.5}'), 'Member "a": the amount is not an integer within ±(2^53−1) at byte 5.');
  assert.equal(refusalOf('{"a":01}'), "Member \"a\": expected ',' or '}' after the amount, found '1' at byte 6.");
  assert.equal(refusalOf('{"a" 1}'), "Member \"a\": expected ':' after the key, found '1' at byte 5.");
  assert.equal(
    refusalOf('{"a":1'),
    "Member \"a\": expected ',' or '}' after the amount, found the end of the body at byte 6.",
  );
  assert.equal(refusalOf('{"a":1,}'), "Expected a key in double quotes at byte 7, found '}'.");
  assert.equal(
    refusalOf('{"a":1}\n{"b":1\n}', true),
    "Member \"b\": expected ',' or '}' after the amount, found the end of the line at byte 14.",
  );
  assert.equal(refusalOf('{"a\\u0000b":1}'), 'Member "a": the key has U+0000, which is not allowed, at byte 3.');
});

test('a refusal quotes at most 64 units of the body, and is well-formed text', () => {
  const units = ['k', 'é', '€', '😀', 'k😀', '\\n'];
  for (const key of [...units.map((unit) => unit.repeat(200)), `k${'😀'.repeat(200)}`]) {
    const detail = refusalOf(`{"${key}":null}`, false, 2048);
    const echoed = /^Member "(.*)…": expected/.exec(detail)?.[1];
    assert.ok(echoed !== undefined && echoed.length <= 64 && echoed.length >= 62, detail);
    assert.ok(key.startsWith(echoed), detail);
  }
  assert.match(refusalOf(`{"${'k'.repeat(64)}":null}`), /^Member "k{64}":/);
  assert.match(
    refusalOf(Buffer.concat([Buffer.from('{"'), Buffer.alloc(100_000, 0xff)])),
    /^Member "": the key is not valid UTF-8/,
  );
});

test('a body may be a part of a larger buffer', () => {
  const around = Buffer.from('9{"k\\u00e9":12e0}9');
  assert.deepEqual(scannedIncrements(new IncrementBodyScanner({ keyBytesMax: 512 }), around.subarray(1, -1), false), [
    ['ké', 12],
  ]);
});

test('a scan does not depend on earlier scans, including refused ones', () => {
  const scanner = new IncrementBodyScanner({ keyBytesMax: 512 });
  const bodies = ['{"a":1,"\\u0062":2', '{"c":3}', '{"\\u0064":4,"e":', '{"\\u0066":5}'].map((text) =>
    Buffer.from(text),
  );
  const outcomes = bodies.map((body) => scannedIncrements(scanner, body, false));
  assert.ok(outcomes[0] instanceof CounterError && outcomes[2] instanceof CounterError);
  assert.deepEqual([outcomes[1], outcomes[3]], [[['c', 3]], [['f', 5]]]);
});

test('columns grow with the body, and the next scan releases those of a huge body', () => {
  const scanner = new IncrementBodyScanner({ keyBytesMax: 512 });
  const expected = Array.from({ length: ROWS_KEPT_MAX + 1 }, (_, n): Increment => [`é${n}`, n % 2 === 0 ? n : -n]);
  const members = expected.map(([key, amount]) => `"${key.replace('é', '\\u00e9')}":${amount}`);
  const body = Buffer.from(`{${members.join(',')}}`);
  assert.deepEqual(scannedIncrements(scanner, body, false), expected);
  const huge = scanner.scan(body, false);
  assert.ok(huge.amount.length > ROWS_KEPT_MAX && huge.amount.length < 4 * ROWS_KEPT_MAX);
  assert.ok(huge.decoded.length > DECODED_BYTES_KEPT_MAX);
  const small = scanner.scan(Buffer.from('{"a":1}'), false);
  for (const column of [small.keyStart, small.keyBytes, small.hash, small.amount])
    assert.ok(column.length <= ROWS_KEPT_MAX);
  assert.ok(small.decoded.length <= DECODED_BYTES_KEPT_MAX);
});

test('decoded keys use no more memory for a thousand bodies than for one', () => {
  const scanner = new IncrementBodyScanner({ keyBytesMax: KEY_BYTES_MAX });
  const body = Buffer.from(`{"\\n${'k'.repeat(500)}":1}`);
  const roomForOne = scanner.scan(body, false).decoded.length;
  for (let scans = 1; scans < 1000; scans += 1) assert.equal(scanner.scan(body, false).decoded.length, roomForOne);
});
