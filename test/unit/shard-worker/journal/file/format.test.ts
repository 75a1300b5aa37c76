/** The format on disk does not change: the golden files are written and read as before. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32 } from 'node:zlib';
import { JournalError } from '#product/core/errors.js';
import { openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { readableEntries } from '#product/cli/readable-entries.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import {
  GOLDEN_STREAM,
  goldenDirectory,
  goldenEntries,
  goldenOptions,
  writeGoldenJournal,
} from '../../../../support/golden-journal.js';
import { segmentPaths, temporaryDirectory } from '../../../../support/journal-fixtures.js';

function copyGolden(dataDir: string): void {
  mkdirSync(join(dataDir, 'journal'));
  cpSync(goldenDirectory, join(dataDir, 'journal', GOLDEN_STREAM), { recursive: true });
}

test('the writer produces the golden files byte for byte', async (t) => {
  const dataDir = temporaryDirectory(t);
  await writeGoldenJournal(dataDir);
  const written = join(dataDir, 'journal', GOLDEN_STREAM);
  const names = readdirSync(goldenDirectory).sort();
  assert.equal(names.length, 3);
  assert.deepEqual(readdirSync(written).sort(), names);
  for (const name of names) {
    assert.deepEqual(readFileSync(join(written, name)), readFileSync(join(goldenDirectory, name)), name);
  }
});

test('reading the golden files gives the records that were written', async (t) => {
  const dataDir = temporaryDirectory(t);
  copyGolden(dataDir);
  const journal = openFileJournal({ ...goldenOptions(dataDir), stream: GOLDEN_STREAM });
  journal.recover(0);
  const entries: unknown[] = [];
  const times: number[] = [];
  for await (const record of journal.replay(0)) {
    entries.push(readableEntries(record.entries));
    times.push(record.acceptedAt);
  }
  assert.deepEqual(entries, goldenEntries);
  assert.deepEqual(
    times.slice(0, 4),
    [0, 1, 2, 3].map((ms) => 1_767_225_600_000 + ms),
  );
  await journal.close();
});

test('a segment of an unknown version is refused, whatever its other fields are', (t) => {
  const dataDir = temporaryDirectory(t);
  copyGolden(dataDir);
  const options = goldenOptions(dataDir);
  const path = segmentPaths(options, GOLDEN_STREAM).at(-1) ?? '';
  const bytes = readFileSync(path);
  bytes.writeUInt32LE(2, 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4)), SEGMENT_HEADER_BYTES - 4);
  writeFileSync(path, bytes);
  assert.throws(
    () => openFileJournal({ ...options, stream: GOLDEN_STREAM }),
    (error) => error instanceof JournalError && error.code === 'journal-format' && error.message.includes('version 2'),
  );
});
