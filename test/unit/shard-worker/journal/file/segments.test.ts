/** Rotation, removal, limits, deferred syncs: a journal without failures. */
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import { RECORD_BYTES_MAX } from '#product/shard-worker/protocol/record-layout.js';
import {
  decodeSegmentHeader,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
} from '#product/shard-worker/journal/file/segment-header.js';
import { systemDisk, type Disk } from '#product/shard-worker/journal/file/disk.js';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import {
  DATABASE_ID,
  journalOptions,
  OTHER_DATABASE_ID,
  incrementRecord,
  rawRecord,
  replayed,
  replayedLsns,
  segmentPaths,
  temporaryDirectory,
} from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const SEGMENT_BYTES = 64 * 1024;

function headerOf(path: string): SegmentHeader {
  return decodeSegmentHeader(readFileSync(path).subarray(0, SEGMENT_HEADER_BYTES), path);
}

test('a new segment starts when one is full, and its header names the last LSN of the one before', (t) => {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES });
  const journal = createFileJournal(options);
  for (let n = 0; n < 100; n += 1) journal.append([rawRecord(3000)]);
  journal.close();
  const paths = segmentPaths(options, journal.stream);
  assert.equal(paths.length, 5);
  let last = 0;
  for (const path of paths) {
    const header = headerOf(path);
    assert.equal(header.predecessorLsn, last);
    assert.equal(header.firstLsn, last + 1);
    assert.ok(statSync(path).size <= SEGMENT_BYTES);
    last += Math.floor((SEGMENT_BYTES - SEGMENT_HEADER_BYTES) / 3000);
  }
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(0);
  assert.deepEqual(
    replayedLsns(reopened),
    Array.from({ length: 100 }, (_, index) => index + 1),
  );
  reopened.close();
});

test('a segment is removed once all of it is committed; the newest one never', (t) => {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES });
  const journal = createFileJournal(options);
  while (journal.endLsn < 45) journal.append([rawRecord(3000)]);
  assert.equal(segmentPaths(options, journal.stream).length, 3);
  journal.prune(19);
  assert.equal(segmentPaths(options, journal.stream).length, 3, 'its last record, 20, is not committed');
  journal.prune(20);
  assert.equal(segmentPaths(options, journal.stream).length, 2);
  journal.prune(45);
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  journal.close();
});

test('a committed segment is removed when the checkpoint is seen after the keep time, which starts again at recovery', (t) => {
  const clock = new ManualClock();
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES, clock, keepSeconds: 60 });
  const journal = createFileJournal(options);
  while (journal.endLsn < 45) journal.append([rawRecord(3000)]);
  journal.prune(20);
  clock.advance(30_000);
  journal.prune(40);
  clock.advance(29_999);
  journal.prune(40);
  assert.equal(journal.isPruneDue, false);
  assert.equal(segmentPaths(options, journal.stream).length, 3);
  clock.advance(1);
  assert.equal(journal.isPruneDue, true);
  assert.equal(segmentPaths(options, journal.stream).length, 3, 'nobody has seen the checkpoint again');
  journal.prune(40);
  assert.equal(segmentPaths(options, journal.stream).length, 2);
  assert.equal(journal.isPruneDue, false);
  journal.close();
  assert.equal(clock.timers, 0);

  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(42);
  clock.advance(59_999);
  reopened.prune(42);
  assert.equal(segmentPaths(options, journal.stream).length, 3, 'the second, the third, and the one that took over');
  clock.advance(1);
  reopened.prune(42);
  assert.equal(
    segmentPaths(options, journal.stream).length,
    1,
    'of the third only void and committed records are left',
  );
  reopened.close();
});

test('time alone removes nothing, nor does an append: the checkpoint must be seen', (t) => {
  const clock = new ManualClock();
  const options = journalOptions(temporaryDirectory(t), { bytesMax: 256 * 1024, clock, keepSeconds: 60 });
  const journal = createFileJournal(options);
  assert.throws(() => {
    for (;;) journal.append([rawRecord(3000)]);
  }, JournalError);
  const { length } = segmentPaths(options, journal.stream);
  journal.prune(journal.endLsn);
  clock.advance(3_600_000);
  assert.throws(() => journal.append([rawRecord(3000)]), JournalError);
  assert.equal(segmentPaths(options, journal.stream).length, length);
  assert.ok(journal.bytes > 200 * 1024, `${journal.bytes} bytes`);
  journal.prune(journal.endLsn);
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  assert.equal(journal.bytes, SEGMENT_HEADER_BYTES, 'the last one is left behind for the asking');
  journal.append([rawRecord(3000)]);
  journal.close();
});

test('without a keep time a committed segment is removed at once, although the clock moves between calls', (t) => {
  const clock = new ManualClock();
  const ticking = {
    now: () => clock.now(),
    monotonic: () => {
      clock.advance(0.001);
      return clock.monotonic();
    },
    uptime: () => clock.uptime(),
    schedule: clock.schedule.bind(clock),
  };
  const options = journalOptions(temporaryDirectory(t), { bytesMax: 64 * 1024, clock: ticking });
  const journal = createFileJournal(options);
  for (let n = 1; n < 500; n += 1) {
    const lsn = journal.append([rawRecord(400)]);
    if (n % 10 === 0) {
      journal.prune(lsn);
      assert.equal(journal.bytes, SEGMENT_HEADER_BYTES);
    }
  }
  journal.close();
});

test('a segment that could not be removed is removed when the checkpoint is seen the next time', (t) => {
  let refuse = true;
  const disk: Disk = {
    ...systemDisk,
    remove(path) {
      if (refuse) throw Object.assign(new Error('EIO'), { code: 'EIO' });
      systemDisk.remove(path);
    },
  };
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES, disk });
  const journal = createFileJournal(options);
  while (journal.endLsn < 45) journal.append([rawRecord(3000)]);
  journal.prune(45);
  assert.equal(segmentPaths(options, journal.stream).length, 3);
  assert.equal(journal.isPruneDue, true);
  refuse = false;
  journal.prune(45);
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  assert.equal(journal.isPruneDue, false);
  journal.close();
});

test('records whose commit a failover lost are still in the journal', (t) => {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES, keepSeconds: 60 });
  const journal = createFileJournal(options);
  while (journal.endLsn < 45) journal.append([rawRecord(3000)]);
  journal.prune(45);
  journal.close();
  const first = openFileJournal({ ...options, stream: journal.stream });
  first.recover(45);
  first.close();
  const second = openFileJournal({ ...options, stream: journal.stream });
  second.recover(7);
  assert.deepEqual(
    replayedLsns(second, 7),
    Array.from({ length: 38 }, (_, index) => index + 8),
  );
  second.close();
});

test('a slow stream of records that are committed at once keeps at most one segment', (t) => {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES });
  const journal = createFileJournal(options);
  for (let n = 0; n < 200; n += 1) journal.prune(journal.append([rawRecord(1000)]));
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  assert.ok(journal.bytes < SEGMENT_BYTES / 2, `${journal.bytes} bytes`);
  journal.close();
});

test('a segment that must be kept is filled before it gets a successor', (t) => {
  const clock = new ManualClock();
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES, clock, keepSeconds: 60 });
  const journal = createFileJournal(options);
  for (let n = 0; n < 60; n += 1) journal.prune(journal.append([rawRecord(1000)]));
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  clock.advance(60_000);
  journal.prune(60);
  journal.append([rawRecord(100)]);
  assert.equal(segmentPaths(options, journal.stream).length, 1);
  assert.ok(journal.bytes < 2 * SEGMENT_HEADER_BYTES, 'what was kept for long enough is left behind');
  journal.close();
});

test('an append beyond the limit keeps nothing, and succeeds once there is room', (t) => {
  const options = journalOptions(temporaryDirectory(t), { bytesMax: 256 * 1024 });
  const journal = createFileJournal(options);
  const isFull = (error: unknown): boolean =>
    error instanceof JournalError && error.code === 'journal-full' && error.nothingKept;
  assert.throws(() => {
    for (;;) journal.append([rawRecord(3000)]);
  }, isFull);
  const { endLsn, bytes } = journal;
  assert.ok(bytes <= 256 * 1024 && bytes > 200 * 1024, `${bytes} bytes`);
  assert.throws(() => journal.append([rawRecord(3000)]), isFull);
  assert.equal(journal.endLsn, endLsn);
  journal.prune(endLsn);
  assert.equal(journal.append([rawRecord(3000)]), endLsn + 1);
  assert.throws(() => journal.append([rawRecord(300_000)]), isFull, 'a group larger than the bound never fits');
  journal.close();
  const onDisk = segmentPaths(options, journal.stream).reduce((sum, path) => sum + statSync(path).size, 0);
  assert.ok(onDisk <= 256 * 1024, `${onDisk} bytes on disk`);
});

test('a journal with a limit below two segments frees its only segment when all of it is committed', (t) => {
  const options = journalOptions(temporaryDirectory(t), { bytesMax: 64 * 1024 });
  const journal = createFileJournal(options);
  for (let n = 0; n < 500; n += 1) {
    const lsn = journal.append([rawRecord(700)]);
    if (lsn % 50 === 0) journal.prune(lsn);
  }
  assert.equal(journal.endLsn, 500);
  journal.close();
});

test('the largest record, and a group larger than a segment, are written and replayed whole', (t) => {
  const options = journalOptions(temporaryDirectory(t), { segmentBytes: SEGMENT_BYTES });
  const journal = createFileJournal(options);
  journal.append([incrementRecord('small', 1)]);
  journal.append([rawRecord(RECORD_BYTES_MAX, 7)]);
  journal.append([rawRecord(60_000, 1), rawRecord(300_000, 2)]);
  journal.append([incrementRecord('last', 1)]);
  journal.close();
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(0);
  const sizes: string[] = [];
  for (const { lsn, entries } of reopened.replay(0)) {
    if (lsn > 1 && lsn < 5) assert.ok(Buffer.alloc(entries.byteLength, entries[0]).equals(entries));
    sizes.push(`${lsn}:${entries.byteLength + 40}`);
  }
  assert.deepEqual(sizes, ['1:59', `2:${RECORD_BYTES_MAX}`, '3:60000', '4:300000', '5:58']);
  reopened.close();
});

test('LSNs beyond 2^32 are written and read exactly', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.close();
  const far = openFileJournal({ ...options, stream: journal.stream });
  far.recover(2 ** 40 - 2);
  far.append([incrementRecord('b', 1), incrementRecord('c', 1), incrementRecord('d', 1)]);
  far.close();
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(2 ** 40 - 2);
  assert.deepEqual(replayed(reopened, 2 ** 40 - 1), [`${2 ** 40}:c=1`, `${2 ** 40 + 1}:d=1`]);
  reopened.close();
});

/** The disk of the machine, with a count of the syncs of files. */
function countingDisk(): { readonly disk: Disk; syncs: number } {
  const counter = { syncs: 0, disk: systemDisk };
  counter.disk = {
    ...systemDisk,
    create(path) {
      const file = systemDisk.create(path);
      return {
        write: (bytes, offset) => file.write(bytes, offset),
        writeAll: (parts, offset) => file.writeAll(parts, offset),
        read: (into, offset) => file.read(into, offset),
        size: () => file.size(),
        isAt: (path) => file.isAt(path),
        close: () => file.close(),
        sync() {
          counter.syncs += 1;
          file.sync();
        },
      };
    },
  };
  return counter;
}

test('always: an append is one sync, however many records the group has', (t) => {
  const counter = countingDisk();
  const journal = createFileJournal(journalOptions(temporaryDirectory(t), { disk: counter.disk }));
  journal.append([rawRecord(100)]);
  const before = counter.syncs;
  for (let n = 0; n < 10; n += 1) journal.append([rawRecord(100), rawRecord(200), rawRecord(300)]);
  assert.equal(counter.syncs - before, 10);
  assert.equal(journal.syncedLsn, 31);
  journal.close();
});

test('everysec: appends are synced by the clock within a second, by sync, and by close', (t) => {
  const counter = countingDisk();
  const clock = new ManualClock();
  const journal = createFileJournal(
    journalOptions(temporaryDirectory(t), { disk: counter.disk, clock, syncPolicy: 'everysec' }),
  );
  journal.append([rawRecord(100)]);
  const before = counter.syncs;
  journal.append([rawRecord(100)]);
  assert.equal(journal.syncedLsn, 0);
  clock.advance(1000);
  assert.equal(journal.syncedLsn, 2);
  clock.advance(10_000);
  assert.equal(counter.syncs - before, 1, 'nothing is synced where nothing was appended');
  journal.append([rawRecord(100)]);
  journal.sync();
  assert.equal(journal.syncedLsn, 3);
  clock.advance(1000);
  assert.equal(counter.syncs - before, 2);
  journal.append([rawRecord(100)]);
  journal.close();
  assert.equal(counter.syncs - before, 3);
  assert.equal(clock.timers, 0);
});

test('a database id that is known late is in later segments, and another id is refused', (t) => {
  const options = journalOptions(temporaryDirectory(t), { databaseId: undefined });
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.setDatabaseId(DATABASE_ID);
  journal.append([incrementRecord('b', 1)]);
  const isForeign = (error: unknown): boolean => error instanceof JournalError && error.code === 'journal-foreign';
  assert.throws(() => journal.setDatabaseId(OTHER_DATABASE_ID), isForeign);
  journal.close();
  assert.deepEqual(
    segmentPaths(options, journal.stream).map((path) => headerOf(path).databaseId),
    [undefined, DATABASE_ID],
  );
  const other = { ...options, stream: journal.stream, databaseId: OTHER_DATABASE_ID };
  assert.throws(() => openFileJournal(other), isForeign);
  const rebound = openFileJournal({ ...other, rebind: true });
  rebound.recover(1);
  rebound.close();
  const again = openFileJournal(other);
  again.recover(1);
  assert.deepEqual(replayed(again, 1), ['2:b=1']);
  again.close();
});

test('a database id that is known after a recovery without records keeps the other fields of the empty segment', (t) => {
  const options = journalOptions(temporaryDirectory(t), { databaseId: undefined, keepSeconds: 60 });
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.close();
  const restored = openFileJournal({ ...options, stream: journal.stream });
  restored.recover(10);
  restored.setDatabaseId(DATABASE_ID);
  restored.append([incrementRecord('b', 1)]);
  restored.close();
  for (let times = 0; times < 2; times += 1) {
    const reopened = openFileJournal({ ...options, stream: journal.stream });
    reopened.recover(10);
    assert.deepEqual(replayed(reopened, 10), ['11:b=1']);
    reopened.close();
    // Records that are not there are reported as missing, not as damage.
    assert.throws(
      () => openFileJournal({ ...options, stream: journal.stream }).recover(0),
      /no longer holds LSN 2 to 10/,
    );
  }
});

test('an orphaned stream is read and never written', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1), incrementRecord('b', 1)]);
  journal.close();
  const [path = ''] = segmentPaths(options, journal.stream);
  const before = readFileSync(path);
  const finishing = openFileJournal({ ...options, stream: journal.stream, forFinishing: true });
  assert.equal(finishing.recover(1).records, 1);
  assert.deepEqual(replayed(finishing, 1), ['2:b=1']);
  assert.throws(() => finishing.append([incrementRecord('c', 1)]), JournalError);
  finishing.prune(2);
  assert.deepEqual(readFileSync(path), before);
  finishing.close();
});

test('a closed journal takes no records, and neither does a found one before recovery', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.close();
  const refuses = (error: unknown): boolean => error instanceof JournalError && error.nothingKept;
  assert.throws(() => journal.append([incrementRecord('b', 1)]), refuses);
  assert.throws(() => journal.sync(), refuses);
  assert.throws(() => journal.prune(1), refuses);
  const found = openFileJournal({ ...options, stream: journal.stream });
  assert.throws(() => found.append([incrementRecord('b', 1)]), refuses);
  found.close();
  journal.close();
});
