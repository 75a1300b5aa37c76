/** Formats on disk do not change: the newest is written as before, and each is read. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32 } from 'node:zlib';
import { JournalError } from '#product/core/errors.js';
import { openFileJournal, type FileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { newOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import { readableEntries } from '#product/cli/readable-entries.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import {
  GOLDEN_STREAM,
  GOLDEN_VERSIONS,
  goldenDirectory,
  goldenEntries,
  goldenOptions,
  goldenOwnership,
  goldenTimes,
  writeGoldenJournal,
} from '../../../../support/golden-journal.js';
import { incrementRecord, segmentPaths, temporaryDirectory } from '../../../../support/journal-fixtures.js';

type Version = (typeof GOLDEN_VERSIONS)[number];

function copyGolden(dataDir: string, version: Version): void {
  mkdirSync(join(dataDir, 'journal'));
  cpSync(goldenDirectory(version), join(dataDir, 'journal', GOLDEN_STREAM), { recursive: true });
}

function openGolden(dataDir: string): FileJournal {
  return openFileJournal({ ...goldenOptions(dataDir), stream: GOLDEN_STREAM });
}

/** The time of the database of each record. */
function databaseTimes(journal: FileJournal): number[] {
  const times: number[] = [];
  for (const { databaseTime } of journal.replay(0)) times.push(databaseTime);
  return times;
}

test('the writer produces the golden files of the newest version byte for byte', (t) => {
  const dataDir = temporaryDirectory(t);
  writeGoldenJournal(dataDir);
  const written = join(dataDir, 'journal', GOLDEN_STREAM);
  const golden = goldenDirectory(2);
  const names = readdirSync(golden).sort();
  assert.deepEqual(names.length, 4);
  assert.deepEqual(readdirSync(written).sort(), names);
  for (const name of names) {
    assert.deepEqual(readFileSync(join(written, name)), readFileSync(join(golden, name)), name);
  }
});

for (const version of GOLDEN_VERSIONS) {
  test(`reading the golden files of version ${version} gives the records that were written`, (t) => {
    const dataDir = temporaryDirectory(t);
    copyGolden(dataDir, version);
    const journal = openGolden(dataDir);
    assert.equal(journal.findEnd(), goldenEntries.length);
    journal.recover(0);
    const entries: unknown[] = [];
    const times: number[] = [];
    for (const record of journal.replay(0)) {
      entries.push(readableEntries(record.entries));
      times.push(record.acceptedAt);
    }
    assert.deepEqual(entries, goldenEntries);
    assert.deepEqual(
      times.slice(0, 4),
      [0, 1, 2, 3].map((ms) => 1_767_225_600_000 + ms),
    );
    journal.close();
  });
}

test('records of version 2 carry times of the database, and the directory keeps the ownership', (t) => {
  const dataDir = temporaryDirectory(t);
  copyGolden(dataDir, 2);
  const journal = openGolden(dataDir);
  assert.deepEqual(journal.ownership(), goldenOwnership);
  journal.recover(0);
  assert.deepEqual(databaseTimes(journal), goldenTimes);
  journal.close();
});

test('records of version 1 carry no time of the database, its stream is unregistered, and it goes on in version 2', (t) => {
  const dataDir = temporaryDirectory(t);
  copyGolden(dataDir, 1);
  const journal = openGolden(dataDir);
  assert.deepEqual(journal.ownership(), newOwnership(undefined));
  assert.equal(journal.firstLsn, 1);
  journal.recover(0);
  journal.append([incrementRecord('next', 1)], 17);
  journal.close();
  const versions = segmentPaths(goldenOptions(dataDir), GOLDEN_STREAM).map((path) =>
    readFileSync(path).readUInt32LE(8),
  );
  assert.deepEqual([...new Set(versions)], [1, 2]);
  assert.equal(versions.at(-1), 2);
  const next = openGolden(dataDir);
  next.recover(0);
  assert.deepEqual(databaseTimes(next), [0, 0, 0, 0, 0, 0, 17]);
  next.close();
});

for (const version of [0, 3]) {
  test(`a segment of version ${version} is refused, whatever its other fields are`, (t) => {
    const dataDir = temporaryDirectory(t);
    copyGolden(dataDir, 2);
    const path = segmentPaths(goldenOptions(dataDir), GOLDEN_STREAM).at(-1) ?? '';
    const bytes = readFileSync(path);
    bytes.writeUInt32LE(version, 8);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4)), SEGMENT_HEADER_BYTES - 4);
    writeFileSync(path, bytes);
    assert.throws(
      () => openGolden(dataDir),
      (error) =>
        error instanceof JournalError &&
        error.code === 'journal-format' &&
        error.message.includes(`has format version ${version};`),
    );
  });
}
