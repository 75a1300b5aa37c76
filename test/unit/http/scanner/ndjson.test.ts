/**
 * Each rule for bodies in NDJSON, on both sides of its limit.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isNdjson } from '#product/http/scanner/increment-body-scanner.js';
import { assertIncrements, refusalOf } from '../../../support/increment-cases.js';
import type { Increment } from '../../../support/increment-oracle.js';

test('NDJSON gives the increments of all lines, with or without a last newline', () => {
  const increments: Increment[] = [
    ['a', 1],
    ['b', -2],
    ['a', 3],
  ];
  assertIncrements('{"a":1}\n{"b":-2,"a":3}', increments, true);
  assertIncrements('{"a":1}\r\n{"b":-2,"a":3}\r\n', increments, true);
  assertIncrements('\n \t\r\n { "a" : 1 } \n\n\r\n{"b":-2,\r"a":3}\n \n', increments, true);
});

test('an NDJSON line holds exactly one object, and no object spans lines', () => {
  const spanning = ['{\n"a":1}', '{"a"\n:1}', '{"a":\n1}', '{"a":1\n}', '{"a":1,\n"b":2}', '{"a\n":1}', '{"a":1\n0}'];
  const crowded = [
    '{"a":1}{"b":2}',
    '{"a":1} {"b":2}',
    '{"a":1},\n{"b":2}',
    '[{"a":1}]',
    '{"a":1}\n1',
    '{"a":1}\nx\n',
    '{"a":1}\n\f\n',
  ];
  const empty = ['{"a":1}\n{}', '{}\n{"a":1}', '{"a":1}\n{ }\n', '\n', ' \r\n\t\n'];
  const marked = ['{"a":1}\n\ufeff{"b":1}'];
  for (const body of [...spanning, ...crowded, ...empty, ...marked]) refusalOf(body, true);
});

test('NDJSON is recognized by its media type in any case and with any parameters', () => {
  for (const type of [
    'application/x-ndjson',
    'Application/X-NDJSON',
    'application/x-ndjson; charset=utf-8',
    ' application/x-ndjson ;a=b',
    'application/x-ndjson;',
  ]) {
    assert.equal(isNdjson(type), true, type);
  }
  for (const type of [
    '',
    'application/json',
    'application/ndjson',
    'application/x-ndjsonx',
    'x/y; z=application/x-ndjson',
    'application/json; charset=utf-8',
    'application/x-ndjson, text/plain',
  ]) {
    assert.equal(isNdjson(type), false, type);
  }
});
