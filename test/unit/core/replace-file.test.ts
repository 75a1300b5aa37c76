import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { replaceFile } from '#product/core/replace-file.js';

test('a file is created or replaced as a whole, with its mode, even after an interrupted call', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'replace-file-'));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  const file = join(dir, 'id');
  replaceFile(file, 'first\n', 0o640);
  writeFileSync(`${file}.new`, 'half of', { mode: 0o644 });
  replaceFile(file, 'second\n', 0o600);
  assert.equal(readFileSync(file, 'utf8'), 'second\n');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(dir), ['id']);
});

test('a missing directory throws the system error', () => {
  assert.throws(() => {
    replaceFile('/nonexistent/id', 'text', 0o600);
  }, /ENOENT/);
});
