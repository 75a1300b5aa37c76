/**
 * The ownership claims in the directory of a stream.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import { keepClaim, readClaims } from '#product/shard-worker/journal/file/stream-files.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';

function inDirectory(body: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'claims-'));
  try {
    body(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test('ownership claims are read in the order in which they were kept', () => {
  inDirectory((directory) => {
    assert.deepEqual(readClaims(systemDisk, directory), []);
    const claims = [0, 7, Number.MAX_SAFE_INTEGER].map((lsn) => ({ id: randomUUID(), lsn }));
    for (const claim of claims) keepClaim(systemDisk, directory, claim, []);
    assert.deepEqual(readClaims(systemDisk, directory), claims);
  });
});

test('of many ownership claims, the last one in the database, those before it and the newest are kept', () => {
  inDirectory((directory) => {
    const claims = Array.from({ length: 1700 }, (_, lsn) => ({ id: randomUUID(), lsn }));
    const lines = claims.slice(0, -1).map(({ id, lsn }) => `${id} ${lsn}\n`);
    writeFileSync(join(directory, 'claims'), lines.join(''));
    keepClaim(systemDisk, directory, claims[1699] ?? { id: '', lsn: 0 }, claims.slice(400, 600));
    assert.deepEqual(readClaims(systemDisk, directory), [...claims.slice(100, 600), ...claims.slice(-500)]);
  });
});

test('a staged file that a crash left is replaced', () => {
  inDirectory((directory) => {
    writeFileSync(join(directory, 'claims.new'), 'half');
    const claim = { id: randomUUID(), lsn: 1 };
    keepClaim(systemDisk, directory, claim, []);
    assert.deepEqual(readClaims(systemDisk, directory), [claim]);
  });
});

test('a line that cannot be read is corruption, and the error names the file', () => {
  inDirectory((directory) => {
    writeFileSync(join(directory, 'claims'), 'nonsense\n');
    assert.throws(
      () => readClaims(systemDisk, directory),
      (error) =>
        error instanceof JournalError &&
        error.code === 'journal-corrupt' &&
        error.message.includes(join(directory, 'claims')),
    );
  });
});
