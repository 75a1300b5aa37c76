/**
 * The list of what users can rely on names tests; here each of them is looked up, so that the list cannot go stale.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '../../..');
const folder = join(root, 'test/integration/server');

/** Names of the tests in a source, as they are written there, whatever quotes them. */
function testNames(source: string): Set<string> {
  const calls = source.matchAll(/\btest\(\s*(?:'((?:[^'\\]|\\.)*)'|`([^`]*)`)/g);
  return new Set(Array.from(calls, ([, quoted, template]) => quoted ?? template ?? ''));
}

const sources = new Map(
  readdirSync(folder)
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => [file.replace(/\.test\.ts$/, ''), testNames(readFileSync(join(folder, file), 'utf8'))]),
);

const cases = readFileSync(join(root, 'docs/contract-cases.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| case |') && !line.startsWith('| --- |'))
  .map((line) => line.slice(2, -2).split(' | '))
  .map(([what = '', file = '', name = '']) => ({ what, file, name }));

test('every test that the list of cases names exists', () => {
  assert.ok(cases.length > 50);
  const missing = cases.filter(({ file, name }) => sources.get(file)?.has(name) !== true);
  assert.deepEqual(missing, []);
});

test('every test of the files that the list names is on it', () => {
  const listed = new Set(cases.map(({ file, name }) => `${file}: ${name}`));
  const files = new Set(cases.map(({ file }) => file));
  const unlisted = [...sources]
    .filter(([file]) => files.has(file))
    .flatMap(([file, names]) => [...names].map((name) => `${file}: ${name}`))
    .filter((entry) => !listed.has(entry));
  assert.deepEqual(unlisted, []);
});
