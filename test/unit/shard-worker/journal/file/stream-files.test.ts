/**
 * The small files in the directory of a stream, and beside the streams: ownership, accepted checkpoint, time.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import {
  acceptCheckpoint,
  forgetAcceptedCheckpoint,
  keepOwnership,
  keepTime,
  readAcceptedCheckpoint,
  readOwnership,
  readTime,
} from '#product/shard-worker/journal/file/stream-files.js';
import { newOwnership, type StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';

function inDirectory(body: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'stream-files-'));
  try {
    body(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function assertCorrupt(directory: string, name: string, read: () => unknown): void {
  assert.throws(
    read,
    (error) =>
      error instanceof JournalError &&
      error.code === 'journal-corrupt' &&
      error.message.includes(join(directory, name)) &&
      error.message.includes('nonsense'),
  );
}

const noted = { id: randomUUID(), lsn: Number.MAX_SAFE_INTEGER, epoch: Number.MAX_SAFE_INTEGER };
const open = { id: randomUUID(), lsn: 0, epoch: undefined };

test('the ownership is read as it was kept: mark, cover, and claims in their order, noted or not', () => {
  inDirectory((directory) => {
    assert.deepEqual(readOwnership(systemDisk, directory), newOwnership(undefined));
    const all: readonly StreamOwnership[] = [
      newOwnership(undefined),
      newOwnership(randomUUID()),
      { mark: 'open', cover: undefined, claims: [open, noted] },
      { mark: 'closed', cover: undefined, claims: [noted, open] },
    ];
    for (const ownership of all) {
      keepOwnership(systemDisk, directory, ownership);
      assert.deepEqual(readOwnership(systemDisk, directory), ownership);
    }
    assert.deepEqual(readdirSync(directory), ['ownership']);
  });
});

test('the claims of an older version are known, of an unregistered stream, until the ownership is kept', () => {
  inDirectory((directory) => {
    const claims = [0, 7].map((lsn) => ({ id: randomUUID(), lsn }));
    writeFileSync(join(directory, 'claims'), claims.map(({ id, lsn }) => `${id} ${lsn}\n`).join(''));
    assert.deepEqual(readOwnership(systemDisk, directory), {
      mark: 'unregistered',
      cover: undefined,
      claims: claims.map((claim) => ({ ...claim, epoch: 0 })),
    });
    const ownership: StreamOwnership = { mark: 'open', cover: undefined, claims: [noted] };
    keepOwnership(systemDisk, directory, ownership);
    assert.deepEqual(readOwnership(systemDisk, directory), ownership);
  });
});

test('a staged file that a crash left is replaced', () => {
  inDirectory((directory) => {
    writeFileSync(join(directory, 'ownership.new'), 'half');
    assert.deepEqual(readOwnership(systemDisk, directory), newOwnership(undefined));
    const ownership: StreamOwnership = { mark: 'open', cover: undefined, claims: [noted] };
    keepOwnership(systemDisk, directory, ownership);
    assert.deepEqual(readOwnership(systemDisk, directory), ownership);
    assert.deepEqual(readdirSync(directory), ['ownership']);
  });
});

test('a line that cannot be read is corruption, and the error names the file', () => {
  for (const name of ['ownership', 'claims']) {
    inDirectory((directory) => {
      writeFileSync(join(directory, name), `${name === 'ownership' ? 'mark open\n' : ''}nonsense\n`);
      assertCorrupt(directory, name, () => readOwnership(systemDisk, directory));
    });
  }
  for (const line of ['mark nonsense', 'cover nonsense', 'claim nonsense 1 1', `claim ${randomUUID()} 1 nonsense`]) {
    inDirectory((directory) => {
      writeFileSync(join(directory, 'ownership'), `${line}\n`);
      assertCorrupt(directory, 'ownership', () => readOwnership(systemDisk, directory));
    });
  }
});

test('the checkpoint that an operator accepts is there until it is forgotten, and the last one counts', () => {
  inDirectory((directory) => {
    assert.equal(readAcceptedCheckpoint(systemDisk, directory), undefined);
    forgetAcceptedCheckpoint(systemDisk, directory);
    acceptCheckpoint(systemDisk, directory, 17, 0);
    acceptCheckpoint(systemDisk, directory, 0, 1_767_225_600_000);
    assert.equal(readFileSync(join(directory, 'accepted-checkpoint'), 'utf8'), '0 2026-01-01T00:00:00.000Z\n');
    assert.equal(readAcceptedCheckpoint(systemDisk, directory), 0);
    forgetAcceptedCheckpoint(systemDisk, directory);
    assert.deepEqual(readdirSync(directory), []);
    writeFileSync(join(directory, 'accepted-checkpoint'), 'nonsense\n');
    assertCorrupt(directory, 'accepted-checkpoint', () => readAcceptedCheckpoint(systemDisk, directory));
  });
});

test('each shard notes a time of its own, and the largest counts', () => {
  inDirectory((parent) => {
    const directory = join(parent, 'journal');
    assert.equal(readTime(systemDisk, directory), 0);
    keepTime(systemDisk, directory, 0, 1_767_225_600);
    assert.equal(readTime(systemDisk, directory), 1_767_225_600);
    keepTime(systemDisk, directory, 11, 4_294_967_295);
    keepTime(systemDisk, directory, 2, 1_767_225_601);
    assert.equal(readTime(systemDisk, directory), 4_294_967_295);
    writeFileSync(join(directory, 'database-time-2'), 'nonsense\n');
    assertCorrupt(directory, 'database-time-2', () => readTime(systemDisk, directory));
  });
});
