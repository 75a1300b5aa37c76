/**
 * The scanner's columns as a list of increments, with the checks that hold for every scan.
 */
import assert from 'node:assert/strict';
import { CounterError } from '#product/core/errors.js';
import { hashKey } from '#product/core/key-hash.js';
import type { ParsedIncrements } from '#product/core/increment.js';
import type { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import type { Increment } from './increment-oracle.js';

/** A refusal repeats at most 64 UTF-16 units of the body; the rest is fixed text. */
const DETAIL_UNITS_MAX = 64 + 160;

/** The increments that the scanner finds, or its refusal. Throws if a hash, an amount or a refusal is wrong. */
export function scannedIncrements(
  scanner: IncrementBodyScanner,
  body: Uint8Array,
  ndjson: boolean,
): Increment[] | CounterError {
  let columns: ParsedIncrements;
  try {
    columns = scanner.scan(body, ndjson);
  } catch (error) {
    if (!(error instanceof CounterError)) throw error;
    assert.equal(error.code, 'invalid-request');
    assert.ok(error.detail.length > 0 && error.detail.length <= DETAIL_UNITS_MAX, `detail too long: ${error.detail}`);
    assert.ok(!/\p{Surrogate}/u.test(error.detail), 'the detail is not well-formed Unicode');
    return error;
  }
  return rowsOf(columns);
}

function rowsOf(columns: ParsedIncrements): Increment[] {
  const increments: Increment[] = [];
  for (let row = 0; row < columns.count; row += 1) {
    const keyStart = columns.keyStart[row];
    const keyBytes = columns.keyBytes[row];
    const amount = columns.amount[row];
    assert.ok(keyStart !== undefined && keyBytes !== undefined && amount !== undefined);
    const inDecoded = keyStart < 0;
    const source = inDecoded ? columns.decoded : columns.body;
    const start = inDecoded ? ~keyStart : keyStart;
    const key = Buffer.from(source.buffer, source.byteOffset + start, keyBytes);
    if (columns.hash[row] !== hashKey(key, 0, keyBytes))
      assert.fail(`wrong hash of key ${JSON.stringify(key.toString())}`);
    if (Object.is(amount, -0)) assert.fail('an amount of -0 was not made 0');
    increments.push([key.toString('utf8'), amount]);
  }
  return increments;
}
