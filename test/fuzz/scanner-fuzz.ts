/**
 * Mutation fuzzer of the body scanner: valid bodies are damaged byte by byte and read by the scanner and by an oracle
 * made of library functions. Both must refuse, or find the same increments in the same order.
 *
 *     node dist-test/test/fuzz/scanner-fuzz.js --bodies 10000000 [--seed N]
 *
 * At the first difference it prints the body and exits 1. It prints the seed and also takes it from SEED.
 */
import { parseArgs } from 'node:util';
import { CounterError } from '#product/core/errors.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { mutate, mutationKinds } from '../support/body-mutation.js';
import { oracleIncrements, type Increment } from '../support/increment-oracle.js';
import * as spelling from '../support/increment-spelling.js';
import { Mulberry32 } from '../support/mulberry32.js';
import { seedOfRun } from '../support/random-runs.js';
import { scannedIncrements } from '../support/scanned-increments.js';

/** Short, so that generated keys are on both sides of it. */
const KEY_BYTES_MAX = 20;
/** Damaged copies made of each valid body. */
const COPIES = 8;
const PROGRESS_EVERY = 250_000;

const names = ['a', 'b', 'page:/home', '__proto__', 'constructor', '0', '10', 'ключ', '计数', 'clé', '😀'];

/** A body as text; its keys may be too long, everything else is valid. */
function randomBody(random: Mulberry32, ndjson: boolean): string {
  const lines = ndjson ? 1 + random.below(3) : 1;
  let text = '';
  for (let line = 0; line < lines; line += 1) {
    if (ndjson && random.below(8) === 0) text += `${random.pick(spelling.whiteSpaces)}\n`;
    text += randomObject(random, ndjson);
    if (ndjson && (line < lines - 1 || random.below(2) === 0)) text += '\n';
  }
  return text;
}

function randomObject(random: Mulberry32, ndjson: boolean): string {
  const spaces = ndjson ? spelling.whiteSpaces : spelling.whiteSpacesWithNewlines;
  const space = (): string => (random.below(4) === 0 ? random.pick(spaces) : '');
  const members = 1 + random.below(3);
  let text = `${space()}{`;
  for (let member = 0; member < members; member += 1) {
    const amount = random.below(3) === 0 ? random.pick(spelling.boundaryAmounts) : random.below(2000) - 1000;
    const spelt = spelling.spellAmount(amount, random.below(2) === 0 ? 0 : random.below(spelling.AMOUNT_STYLES));
    text += `${member > 0 ? ',' : ''}${space()}"${randomKey(random)}"${space()}:${space()}${spelt}${space()}`;
  }
  return `${text}}${space()}`;
}

function randomKey(random: Mulberry32): string {
  let key = random.below(3) === 0 ? '' : random.pick(names);
  for (let extra = key === '' ? 1 + random.below(6) : random.below(3); extra > 0; extra -= 1) {
    const codePoint = random.below(2) === 0 ? random.pick(spelling.boundaryCodePoints) : 0x20 + random.below(0x60);
    key += spelling.spellCharacter(codePoint, random.below(spelling.CHARACTER_STYLES));
  }
  return key;
}

function sameIncrements(ours: Increment[] | CounterError, theirs: Increment[] | undefined): boolean {
  if (ours instanceof CounterError) return theirs === undefined;
  if (ours.length !== theirs?.length) return false;
  return ours.every(([key, amount], n) => key === theirs[n]?.[0] && amount === theirs[n][1]);
}

function damaged(random: Mulberry32, body: Uint8Array, other: Uint8Array): Uint8Array {
  let copy = body;
  for (let times = random.below(4); times > 0; times -= 1) {
    copy = mutate(copy, other, {
      kind: random.pick(mutationKinds),
      at: random.next(),
      run: random.next(),
      value: random.next(),
    });
  }
  return copy;
}

/** The body within a larger buffer, as a network stack may pass it. */
function within(random: Mulberry32, body: Uint8Array): Uint8Array {
  const before = random.below(5);
  const buffer = new Uint8Array(before + body.length + 3).fill(0x31);
  buffer.set(body, before);
  return buffer.subarray(before, before + body.length);
}

function reportDifference(body: Uint8Array, ndjson: boolean, ours: unknown, theirs: Increment[] | undefined): void {
  console.log(`DIFFERENCE in ${ndjson ? 'NDJSON' : 'JSON'}`);
  console.log(`body as Latin-1: ${JSON.stringify(Buffer.from(body).toString('latin1'))}`);
  console.log(`body in base64:  ${Buffer.from(body).toString('base64')}`);
  console.log(`scanner: ${ours instanceof Error ? String(ours) : JSON.stringify(ours)}`);
  console.log(`oracle:  ${theirs === undefined ? 'refused' : JSON.stringify(theirs)}`);
}

function scanOrThrown(
  scanner: IncrementBodyScanner,
  body: Uint8Array,
  ndjson: boolean,
): Increment[] | CounterError | Error {
  try {
    return scannedIncrements(scanner, body, ndjson);
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** Returns whether no difference was found. */
function fuzz(bodies: number, seed: number): boolean {
  const random = new Mulberry32(seed);
  const scanner = new IncrementBodyScanner({ keyBytesMax: KEY_BYTES_MAX });
  const started = performance.now();
  let accepted = 0;
  let base: Uint8Array = Buffer.from('{"a":1}');
  let other = base;
  let ndjson = false;
  for (let done = 0; done < bodies; done += 1) {
    if (done % COPIES === 0) {
      ndjson = random.below(3) === 0;
      other = base;
      base = Buffer.from(randomBody(random, ndjson));
    }
    const body = within(random, damaged(random, base, other));
    const ours = scanOrThrown(scanner, body, ndjson);
    const theirs = oracleIncrements(body, ndjson, KEY_BYTES_MAX);
    const unexpected = ours instanceof Error && !(ours instanceof CounterError);
    if (unexpected || !sameIncrements(ours, theirs)) {
      reportDifference(body, ndjson, ours, theirs);
      return false;
    }
    if (theirs !== undefined) accepted += 1;
    if ((done + 1) % PROGRESS_EVERY === 0) process.stderr.write(`\r${done + 1} of ${bodies} bodies`);
  }
  const perSecond = Math.round(bodies / ((performance.now() - started) / 1000));
  process.stderr.write('\n');
  console.log(
    `seed ${seed}: ${bodies} bodies, ${perSecond} a second, ${accepted} accepted, ${bodies - accepted} refused, no difference`,
  );
  return true;
}

const { values } = parseArgs({ options: { bodies: { type: 'string', default: '1000000' }, seed: { type: 'string' } } });
const bodies = Number(values.bodies);
const seed = values.seed === undefined ? seedOfRun() : Number(values.seed);
if (!Number.isSafeInteger(bodies) || bodies < 1 || !Number.isSafeInteger(seed)) {
  console.error('usage: scanner-fuzz.js [--bodies COUNT] [--seed INTEGER]');
  process.exitCode = 64;
} else {
  console.log(`seed ${seed}`);
  // Most bodies end in a SyntaxError of JSON.parse, and its stack trace would cost more than everything else.
  Error.stackTraceLimit = 0;
  process.exitCode = fuzz(bodies, seed) ? 0 : 1;
}
