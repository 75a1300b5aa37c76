/** Torn tails, flipped bits, missing segments: what recovery cuts, what stops the start, and the messages. */
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { JournalError, type JournalErrorCode } from '#product/core/errors.js';
import { acceptGaps } from '#product/shard-worker/journal/file/stream-files.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import {
  journalOptions,
  incrementRecord,
  rawRecord,
  replayed,
  replayedLsns,
  segmentPaths,
  temporaryDirectory,
} from '../../../../support/journal-fixtures.js';

interface Written {
  readonly options: FileJournalOptions;
  readonly stream: string;
  /** The last segment. */
  readonly path: string;
}

function write(t: TestContext, keys: readonly string[], changes: Partial<FileJournalOptions> = {}): Written {
  const options = journalOptions(temporaryDirectory(t), changes);
  const journal = createFileJournal(options);
  for (const key of keys) journal.append([incrementRecord(key, 1)]);
  journal.close();
  return { options, stream: journal.stream, path: segmentPaths(options, journal.stream).at(-1) ?? '' };
}

/** Recovers the stream, lists the replayed records, closes. */
function reopen({ options, stream }: Written, checkpoint = 0): string[] {
  const journal = openFileJournal({ ...options, stream });
  journal.recover(checkpoint);
  const lines = replayed(journal, checkpoint);
  journal.close();
  return lines;
}

function refusal(code: JournalErrorCode, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof JournalError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

/** Bytes of an `incrementRecord` with a key of one letter. */
const recordBytes = incrementRecord('a', 1).byteLength;

function offsetOf(lsn: number): number {
  return SEGMENT_HEADER_BYTES + (lsn - 1) * recordBytes;
}

test('a last record that is cut at any byte is dropped, and the records before it stay', (t) => {
  const written = write(t, ['a', 'b', 'c']);
  const whole = readFileSync(written.path);
  for (let bytes = 0; bytes < recordBytes; bytes += 1) {
    for (const zeroFilled of [true, false]) {
      const torn = Buffer.from(whole.subarray(0, zeroFilled ? whole.length : offsetOf(3) + bytes));
      torn.fill(0, offsetOf(3) + bytes, Math.min(torn.length, offsetOf(4)));
      writeFileSync(written.path, torn);
      const lines = reopen(written);
      assert.deepEqual(lines, ['1:a=1', '2:b=1'], `cut at byte ${bytes}`);
    }
  }
  writeFileSync(written.path, whole);
  assert.deepEqual(reopen(written), ['1:a=1', '2:b=1', '3:c=1']);
});

test('a cut tail is reported, and the next record takes its LSN', (t) => {
  const written = write(t, ['a', 'b']);
  truncateSync(written.path, offsetOf(3) - 1);
  const journal = openFileJournal({ ...written.options, stream: written.stream });
  const recovery = journal.recover(0);
  assert.equal(recovery.cutBytes, recordBytes - 1);
  assert.deepEqual(recovery.torn, { path: written.path, offset: offsetOf(2), bytes: recordBytes - 1 });
  assert.equal(journal.append([incrementRecord('c', 1)]), 2);
  journal.close();
  assert.deepEqual(reopen(written), ['1:a=1', '2:c=1']);
});

test('a flipped bit in a record that a later record calls synced stops the start, which names file and offset', (t) => {
  const written = write(t, ['a', 'b', 'c', 'd']);
  const whole = readFileSync(written.path);
  for (let byte = 0; byte < recordBytes; byte += 1) {
    for (let bit = 0; bit < 8; bit += 1) {
      const damaged = Buffer.from(whole);
      damaged[offsetOf(2) + byte] = (damaged[offsetOf(2) + byte] ?? 0) ^ (1 << bit);
      writeFileSync(written.path, damaged);
      assert.throws(
        () => openFileJournal({ ...written.options, stream: written.stream }).recover(0),
        refusal('journal-corrupt', new RegExp(`${written.path} at offset ${offsetOf(2)}: record 2 is damaged`)),
        `bit ${bit} of byte ${byte}`,
      );
      assert.deepEqual(readFileSync(written.path), damaged, 'a refused start changes nothing');
    }
  }
});

test('records of one group that were written out of order are a torn tail, not corruption', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.append([incrementRecord('b', 1), incrementRecord('c', 1), incrementRecord('d', 1)]);
  journal.close();
  const path = segmentPaths(options, journal.stream).at(-1) ?? '';
  const bytes = readFileSync(path);
  bytes.fill(0, offsetOf(2), offsetOf(3));
  writeFileSync(path, bytes);
  assert.deepEqual(reopen({ options, stream: journal.stream, path }), ['1:a=1']);
});

test('a byte flipped anywhere in a header stops the start and names the file', (t) => {
  const written = write(t, ['a']);
  const whole = readFileSync(written.path);
  for (let byte = 0; byte < SEGMENT_HEADER_BYTES; byte += 1) {
    const damaged = Buffer.from(whole);
    damaged[byte] = (damaged[byte] ?? 0) ^ 0x10;
    writeFileSync(written.path, damaged);
    // The version comes before the checksum, so that a later version may move it.
    const code = byte >= 8 && byte < 12 ? 'journal-format' : 'journal-corrupt';
    assert.throws(
      () => openFileJournal({ ...written.options, stream: written.stream }),
      refusal(code, new RegExp(written.path)),
    );
  }
});

test('damage in records that recovery has copied and synced is corruption, even at the end', (t) => {
  const written = write(t, ['a', 'b']);
  reopen(written);
  const bytes = readFileSync(written.path);
  bytes.fill(0, offsetOf(2));
  writeFileSync(written.path, bytes);
  assert.throws(() => reopen(written), refusal('journal-corrupt', /the segment's header says that records up to 2/));
});

/** At least three segments of 64 KiB, with the first LSN of each. */
function threeSegments(t: TestContext): Written & { readonly paths: string[]; readonly end: number } {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: 64 * 1024 });
  const journal = createFileJournal(options);
  while (journal.endLsn < 30) journal.append([rawRecord(5000, journal.endLsn)]);
  journal.close();
  const paths = segmentPaths(options, journal.stream);
  assert.equal(paths.length, 3);
  return { options, stream: journal.stream, path: paths.at(-1) ?? '', paths, end: journal.endLsn };
}

test('damage before the last segment stops the start even at the end of its segment', (t) => {
  const written = threeSegments(t);
  const [, second = ''] = written.paths;
  const bytes = readFileSync(second);
  // The twelfth record of the segment is its last.
  bytes.fill(0, SEGMENT_HEADER_BYTES + 11 * 5000);
  writeFileSync(second, bytes);
  assert.throws(
    () => reopen(written),
    refusal('journal-corrupt', new RegExp(`${second} at offset ${SEGMENT_HEADER_BYTES + 11 * 5000}: record 24`)),
  );
});

test('damage in a segment that is wholly committed does not stop the start', (t) => {
  const written = threeSegments(t);
  const bytes = readFileSync(written.paths[0] ?? '');
  bytes.fill(0xff, SEGMENT_HEADER_BYTES);
  writeFileSync(written.paths[0] ?? '', bytes);
  const journal = openFileJournal({ ...written.options, stream: written.stream, keepSeconds: 60 });
  assert.equal(journal.recover(12).records, 18);
  journal.close();
});

test('records of a segment above the limit that its successor names are void', (t) => {
  const written = write(t, ['a', 'b', 'c', 'd'], { keepSeconds: 60 });
  const before = readFileSync(written.path);
  // Commits b. Recovery copies the rest into a segment that starts with c; e and f follow.
  const journal = openFileJournal({ ...written.options, stream: written.stream });
  journal.recover(2);
  journal.append([incrementRecord('e', 1)]);
  journal.close();
  assert.deepEqual(readFileSync(written.path), before, 'the old segment is kept as it was');
  // Its void records may be anything.
  const damaged = Buffer.from(before);
  damaged.fill(0xff, offsetOf(3));
  writeFileSync(written.path, damaged);
  assert.deepEqual(reopen(written, 1), ['2:b=1', '3:c=1', '4:d=1', '5:e=1']);
});

test('the scan finds a segment that was removed from the middle', (t) => {
  const written = threeSegments(t);
  rmSync(written.paths[1] ?? '');
  assert.throws(() => reopen(written), JournalError);
});

test('a checkpoint below the first record refuses to start until an operator accepts the loss', (t) => {
  const written = threeSegments(t);
  rmSync(written.paths[0] ?? '');
  const directory = join(written.options.directory, written.stream);
  assert.throws(() => reopen(written, 5), refusal('journal-gap', /up to LSN 5, but .* no longer holds LSN 6 to 12/));
  acceptGaps(systemDisk, directory, [{ from: 7, to: 12 }], 0);
  assert.throws(() => reopen(written, 5), refusal('journal-gap', /LSN 6 to 12/), 'more is missing than was accepted');
  acceptGaps(systemDisk, directory, [{ from: 6, to: 12 }], 0);
  const journal = openFileJournal({ ...written.options, stream: written.stream });
  assert.deepEqual(journal.recover(5).acceptedGaps, [{ from: 6, to: 12 }]);
  assert.equal(replayedLsns(journal, 5)[0], 13);
  journal.close();
  assert.ok(existsSync(join(directory, 'accepted-gap')), 'until the checkpoint has passed it');
  reopen(written, 20);
  assert.ok(!existsSync(join(directory, 'accepted-gap')));
});

test('a checkpoint beyond the end of the journal is reported, and the next LSN is above both', (t) => {
  const written = write(t, ['a', 'b']);
  const journal = openFileJournal({ ...written.options, stream: written.stream });
  const recovery = journal.recover(2 ** 33);
  assert.deepEqual(recovery.beyondEnd, { checkpoint: 2 ** 33, journalEnd: 2 });
  assert.equal(journal.append([incrementRecord('c', 1)]), 2 ** 33 + 1);
  // A database id that is known late replaces the empty segment before it. The limit in its header must stay.
  journal.close();
  assert.deepEqual(reopen(written, 2 ** 33), [`${2 ** 33 + 1}:c=1`]);
  assert.throws(() => reopen(written, 2), refusal('journal-gap', new RegExp(`LSN 3 to ${2 ** 33}`)));
});

test('other files are ignored, and a segment under another name stops the start', (t) => {
  const written = write(t, ['a']);
  const directory = join(written.options.directory, written.stream);
  writeFileSync(join(directory, 'notes.txt'), 'mine');
  assert.deepEqual(reopen(written), ['1:a=1']);
  assert.equal(readFileSync(join(directory, 'notes.txt'), 'utf8'), 'mine');
  copyFileSync(written.path, join(directory, '00000000000000000007.wal'));
  assert.throws(() => reopen(written), refusal('journal-corrupt', /00000000000000000007.wal/));
});

test('a stream under the name of another stops the start', (t) => {
  const written = write(t, ['a']);
  const other = '99999999-2222-4333-8444-555555555555';
  cpSync(join(written.options.directory, written.stream), join(written.options.directory, other), { recursive: true });
  assert.throws(() => reopen({ ...written, stream: other }), refusal('journal-corrupt', /says stream/));
});

test('recovery removes a staged segment that a crash left', (t) => {
  const written = write(t, ['a']);
  const staged = join(written.options.directory, written.stream, '00000000000000000001.wal.new');
  writeFileSync(staged, 'half');
  assert.deepEqual(reopen(written), ['1:a=1']);
  assert.ok(!existsSync(staged));
  assert.ok(statSync(written.path).size > SEGMENT_HEADER_BYTES);
});
