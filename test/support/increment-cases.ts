/**
 * Single bodies, and the scanner's result for them.
 */
import assert from 'node:assert/strict';
import { CounterError } from '#product/core/errors.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import type { Increment } from './increment-oracle.js';
import { scannedIncrements } from './scanned-increments.js';

/** A body as text or as bytes. */
export type Body = string | Uint8Array;

/** Default maximum of key bytes. */
export const KEY_BYTES_MAX = 512;

/** The increments of the body, or its refusal, from a new scanner. */
export function scan(body: Body, ndjson = false, keyBytesMax = KEY_BYTES_MAX): Increment[] | CounterError {
  return scannedIncrements(new IncrementBodyScanner({ keyBytesMax }), Buffer.from(body), ndjson);
}

/** Asserts that the body is accepted with these increments. */
export function assertIncrements(body: Body, increments: readonly Increment[], ndjson = false): void {
  const scanned = scan(body, ndjson);
  if (scanned instanceof CounterError) assert.fail(`${show(body)} was refused: ${scanned.detail}`);
  assert.deepEqual(scanned, increments, show(body));
}

/** Asserts that the body is refused, and returns the detail. */
export function refusalOf(body: Body, ndjson = false, keyBytesMax = KEY_BYTES_MAX): string {
  const scanned = scan(body, ndjson, keyBytesMax);
  if (!(scanned instanceof CounterError)) assert.fail(`${show(body)} was accepted as ${JSON.stringify(scanned)}`);
  return scanned.detail;
}

function show(body: Body): string {
  return JSON.stringify(Buffer.from(body).toString('latin1').slice(0, 100));
}

/** A body with one member whose name is these bytes. */
export function named(...name: number[]): Uint8Array {
  return Buffer.concat([Buffer.from('{"'), Uint8Array.from(name), Buffer.from('":1}')]);
}
