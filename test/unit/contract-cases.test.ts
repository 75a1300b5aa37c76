/**
 * The list of what users can rely on names tests; here each of them is looked up, so that the list cannot go stale.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '../../..');

/** The text of a test file as the list names it, or nothing where there is none. */
function sourceOf(file: string): string {
  const path = join(root, 'test', file.includes('/') ? file : `integration/server/${file}`);
  return existsSync(`${path}.test.ts`) ? readFileSync(`${path}.test.ts`, 'utf8') : '';
}

/** Names of the tests in a source, as they are written there, whatever quotes them. */
function testNames(source: string): Set<string> {
  const calls = source.matchAll(/\btest\w*\(\s*(?:'((?:[^'\\]|\\.)*)'|`([^`]*)`)/g);
  return new Set(Array.from(calls, ([, quoted, template]) => quoted ?? template ?? ''));
}

const cases = readFileSync(join(root, 'docs/contract-cases.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| case |') && !line.startsWith('| --- |'))
  .map((line) => line.slice(2, -2).split(' | '))
  .map(([what = '', file = '', name = '']) => ({ what, file, name }));

const sources = new Map([...new Set(cases.map(({ file }) => file))].map((file) => [file, testNames(sourceOf(file))]));

test('every test that the list of cases names exists', () => {
  assert.ok(cases.length > 50);
  const missing = cases.filter(({ file, name }) => sources.get(file)?.has(name) !== true);
  assert.deepEqual(missing, []);
});

test('every test of the files that the list names is on it', () => {
  const listed = new Set(cases.map(({ file, name }) => `${file}: ${name}`));
  const unlisted = [...sources]
    .flatMap(([file, names]) => [...names].map((name) => `${file}: ${name}`))
    .filter((entry) => !listed.has(entry));
  assert.deepEqual(unlisted, []);
});
