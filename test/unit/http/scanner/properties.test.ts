/**
 * Random bodies, valid and damaged, compared with the generator's list and with an oracle made of libraries. `SEED`
 * replays a run; `RUNS` is the number of bodies over all tests of this file.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CounterError } from '#product/core/errors.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { mutate, mutationKinds } from '../../../support/body-mutation.js';
import { oracleIncrements, type Increment } from '../../../support/increment-oracle.js';
import {
  AMOUNT_STYLES,
  boundaryAmounts,
  boundaryCodePoints,
  CHARACTER_STYLES,
  spellAmount,
  spellCharacter,
  whiteSpaces,
  whiteSpacesWithNewlines,
} from '../../../support/increment-spelling.js';
import { countOfRuns, seedOfRun } from '../../../support/random-runs.js';
import { scannedIncrements } from '../../../support/scanned-increments.js';

const seed = seedOfRun();
const runs = countOfRuns(100_000);
console.log(`SEED=${seed} RUNS=${runs}`);

const KEY_BYTES_MAX = 40;
const scanner = new IncrementBodyScanner({ keyBytesMax: KEY_BYTES_MAX });

/** A piece of a body: its spelling and its increments. */
interface Spelt {
  readonly text: string;
  readonly increments: readonly Increment[];
}

const codePoint = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.constantFrom(...boundaryCodePoints),
  fc.integer({ min: 0xe000, max: 0x10ffff }),
);
const character = fc.tuple(codePoint, fc.nat(CHARACTER_STYLES - 1));
const knownKeys = ['a', 'page:/home', '__proto__', 'constructor', 'toString', '0', '42', 'ключ'].map((text) => ({
  text,
  key: text,
}));
const generatedKey = fc.array(character, { minLength: 1, maxLength: 10 }).map((characters) => ({
  text: characters.map(([point, style]) => spellCharacter(point, style)).join(''),
  key: String.fromCodePoint(...characters.map(([point]) => point)),
}));
const key = fc.oneof(fc.constantFrom(...knownKeys), generatedKey);
const amount = fc.oneof(
  fc.integer({ min: -1000, max: 1000 }),
  fc.constantFrom(...boundaryAmounts),
  fc.maxSafeInteger(),
);

function objectArbitrary(spaces: readonly string[]): fc.Arbitrary<Spelt> {
  const space = fc.constantFrom(...spaces);
  const member = fc.tuple(key, amount, fc.nat(AMOUNT_STYLES - 1), space, space).map(([name, value, style, a, b]) => ({
    text: `${a}"${name.text}"${b}:${a}${spellAmount(value, style)}${b}`,
    increment: [name.key, value] satisfies Increment,
  }));
  return fc.tuple(fc.array(member, { minLength: 1, maxLength: 4 }), space, space).map(([members, before, after]) => ({
    text: `${before}{${members.map(({ text }) => text).join(',')}}${after}`,
    increments: members.map(({ increment }) => increment),
  }));
}

const plainBody = objectArbitrary(whiteSpacesWithNewlines);
const blankLine: fc.Arbitrary<Spelt> = fc.constantFrom(...whiteSpaces).map((text) => ({ text, increments: [] }));
const ndjsonBody: fc.Arbitrary<Spelt> = fc
  .tuple(
    fc.array(fc.oneof({ weight: 3, arbitrary: objectArbitrary(whiteSpaces) }, blankLine), { maxLength: 3 }),
    objectArbitrary(whiteSpaces),
    fc.boolean(),
  )
  .map(([lines, line, newlineLast]) => ({
    text: [...lines, line].map(({ text }) => text).join('\n') + (newlineLast ? '\n' : ''),
    increments: [...lines, line].flatMap(({ increments }) => increments),
  }));

const mutation = fc.record({
  kind: fc.constantFrom(...mutationKinds),
  at: fc.nat(),
  run: fc.nat(),
  value: fc.nat(),
});

function damaged(body: fc.Arbitrary<Spelt>): fc.Arbitrary<Uint8Array> {
  return fc.tuple(body, body, fc.array(mutation, { minLength: 1, maxLength: 3 })).map(([whole, other, mutations]) => {
    let bytes: Uint8Array = Buffer.from(whole.text);
    for (const damage of mutations) bytes = mutate(bytes, Buffer.from(other.text), damage);
    return bytes;
  });
}

function assertAsGenerated(body: Spelt, ndjson: boolean): void {
  const scanned = scannedIncrements(scanner, Buffer.from(body.text), ndjson);
  if (scanned instanceof CounterError) throw scanned;
  assert.deepEqual(scanned, body.increments);
}

function assertAsOracle(body: Uint8Array, ndjson: boolean): void {
  const scanned = scannedIncrements(scanner, body, ndjson);
  const expected = oracleIncrements(body, ndjson, KEY_BYTES_MAX);
  if (!(scanned instanceof CounterError)) assert.deepEqual(scanned, expected);
  else if (expected !== undefined) throw scanned;
}

function checked<T>(arbitrary: fc.Arbitrary<T>, share: number, check: (value: T) => void): void {
  fc.assert(fc.property(arbitrary, check), { seed, numRuns: Math.max(1, Math.round(runs * share)) });
}

test('a valid body gives the increments that it was made of, in order, including repeated names', () => {
  checked(plainBody, 0.4, (body) => assertAsGenerated(body, false));
});

test('a valid NDJSON body gives the increments of all its lines in order', () => {
  checked(ndjsonBody, 0.1, (body) => assertAsGenerated(body, true));
});

test('a damaged body is refused, or read, as TextDecoder, JSON.parse and typia do', () => {
  checked(damaged(plainBody), 0.3, (body) => assertAsOracle(body, false));
});

test('a damaged NDJSON body is refused, or read, as the oracle does line by line', () => {
  checked(damaged(ndjsonBody), 0.1, (body) => assertAsOracle(body, true));
});

test('arbitrary bytes are refused, or read, as the oracle does', () => {
  const bytes = fc.uint8Array({ maxLength: 24 });
  checked(fc.tuple(bytes, fc.boolean()), 0.05, ([body, ndjson]) => assertAsOracle(body, ndjson));
});

test('arbitrary JSON is refused, or read, as the oracle does', () => {
  checked(fc.tuple(fc.json(), fc.boolean()), 0.05, ([text, ndjson]) => assertAsOracle(Buffer.from(text), ndjson));
});
