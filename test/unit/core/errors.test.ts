import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { CounterError, errorCatalogue, errorCodes, JournalError, StartError } from '#product/core/errors.js';

const root = join(import.meta.dirname, '../../../..');
const page = readFileSync(join(root, 'docs/errors.md'), 'utf8');
const [requestPart = ''] = page.split('\n## ');
const [, journalPart = ''] = page.split('## Errors of the journal');

/** Cells of the rows of the first table in `part`, without its two head lines. */
function tableRows(part: string): string[][] {
  const lines = part.split('\n').filter((line) => line.startsWith('|'));
  return lines.slice(2).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('`', '')),
  );
}

test('docs/errors.md and the catalogue list the same codes, in the same order, with the same properties', () => {
  const documented = tableRows(requestPart).map((cells) => cells.slice(0, 4));
  const catalogued = Object.entries(errorCatalogue).map(([code, { status, retryable, counted }]) => [
    String(status),
    code,
    retryable ? 'yes' : 'no',
    counted,
  ]);
  assert.deepEqual(documented, catalogued);
  assert.deepEqual(errorCodes, Object.keys(errorCatalogue));
});

test('the codes of journal errors in docs/errors.md are those of the type', () => {
  const source = readFileSync(join(root, 'src/core/errors.ts'), 'utf8');
  const union = /export type JournalErrorCode =([^;]+);/.exec(source)?.[1] ?? '';
  const typed = Array.from(union.matchAll(/'([a-z-]+)'/g), ([, code]) => code);
  assert.ok(typed.length > 0);
  assert.deepEqual(
    tableRows(journalPart).map(([code]) => code),
    typed,
  );
});

test('retryable and counted follow from the status as documented', () => {
  for (const [code, { status, title, retryable, counted }] of Object.entries(errorCatalogue)) {
    assert.match(code, /^[a-z]+(-[a-z]+)*$/);
    assert.match(title, /^[A-Z][^.]*[^.]$/);
    assert.equal(retryable, status === 503 || code === 'outcome-unknown', code);
    assert.equal(counted, code === 'outcome-unknown' ? 'unknown' : 'no', code);
  }
});

test('an error keeps its code, detail and cause', () => {
  const cause = new Error('EIO');
  const error = new CounterError('overloaded', 'The journal is full.', { cause });
  assert.deepEqual([error.code, error.detail, error.cause], ['overloaded', 'The journal is full.', cause]);
});

test('a start error lists its problems and has the exit code 78 by default', () => {
  const error = new StartError(['One.', 'Two.']);
  assert.deepEqual([error.exitCode, error.message], [78, 'One.\nTwo.']);
  assert.equal(new StartError(['One.'], { exitCode: 1 }).exitCode, 1);
});

test('only journal errors that kept nothing allow the answer "not counted"', () => {
  const codes = tableRows(journalPart).map(([code]) => code);
  const keptNothing = ['journal-unavailable', 'journal-full', 'journal-fenced'];
  for (const code of [
    'journal-unavailable',
    'journal-full',
    'journal-failed',
    'journal-corrupt',
    'journal-gap',
    'journal-format',
    'journal-foreign',
    'journal-copied',
    'checkpoint-missing',
    'journal-fenced',
  ] as const) {
    assert.ok(codes.includes(code));
    assert.equal(new JournalError(code, 'x').nothingKept, keptNothing.includes(code), code);
  }
});
