/** Failures of the disk: what was kept, and what can be tried again. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { JournalError, type JournalErrorCode } from '#product/core/errors.js';
import {
  createFileJournal,
  openFileJournal,
  type FileJournal,
} from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import { FileJournalStreams } from '#product/shard-worker/journal/file/file-journal-streams.js';
import { readOwnership } from '#product/shard-worker/journal/file/stream-files.js';
import { newOwnership, type StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import { listStreams } from '#product/shard-worker/journal/file/journal-directory.js';
import { findSegments, scanStream } from '#product/shard-worker/journal/file/stream-scan.js';
import {
  journalOptions,
  incrementRecord,
  rawRecord,
  replayed,
  replayedLsns,
  temporaryDirectory,
} from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedDisk, type DiskCall } from '../../../../support/simulated-disk.js';

function simulated(changes: Partial<FileJournalOptions> = {}): { disk: SimulatedDisk; options: FileJournalOptions } {
  const disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
  return { disk, options: journalOptions('/data', { disk, segmentBytes: 64 * 1024, ...changes }) };
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof JournalError, String(error));
    return error.code;
  }
  return 'none';
}

/** Lets the next of these calls fail, or all of them until the fault is removed. */
function failNext(
  disk: SimulatedDisk,
  calls: readonly DiskCall[],
  code: string,
  lasting: { readonly lasting?: true } = {},
): void {
  disk.fault = { kind: 'error', atCall: disk.calls + 1, code, calls, ...lasting };
}

function assertRefused(code: JournalErrorCode, action: () => unknown, message?: string): void {
  assert.equal(codeOf(action), code, message);
}

for (const call of ['write', 'sync'] as const) {
  test(`after a failed ${call} of records the journal has failed, and recovery continues in a new segment`, () => {
    const { disk, options } = simulated();
    const journal = createFileJournal(options);
    journal.append([incrementRecord('a', 1)]);
    failNext(disk, [call], 'EIO');
    assertRefused('journal-failed', () => journal.append([incrementRecord('b', 1)]));
    const { calls } = disk;
    assertRefused('journal-failed', () => journal.append([incrementRecord('c', 1)]));
    assertRefused('journal-failed', () => journal.sync());
    assertRefused('journal-failed', () => journal.prune(1));
    assert.equal(disk.calls, calls, 'the disk is not touched again');
    assert.equal(disk.openFiles, 0);
    assert.throws(() => journal.close(), JournalError);

    const recovered = openFileJournal({ ...options, stream: journal.stream });
    recovered.recover(0);
    recovered.append([incrementRecord('d', 1)]);
    recovered.close();
    disk.restart('nothing');
    const after = openFileJournal({ ...options, stream: journal.stream });
    after.recover(0);
    const lines = replayed(after).map((line) => line.replace(/^\d+:/, ''));
    assert.deepEqual(
      lines.filter((line) => line !== 'b=1'),
      ['a=1', 'd=1'],
    );
    after.close();
  });
}

/** Unsynced records of `everysec`, and what a loss of power leaves of them. */
function deferred(): {
  readonly disk: SimulatedDisk;
  readonly clock: ManualClock;
  readonly journal: FileJournal;
  readonly warnings: string[];
  readonly afterPowerLoss: () => string[];
} {
  const clock = new ManualClock();
  const warnings: string[] = [];
  const warn = (_: unknown, message: string): number => warnings.push(message);
  const { disk, options } = simulated({ clock, syncPolicy: 'everysec', keepSeconds: 60, warn });
  const journal = createFileJournal(options);
  const afterPowerLoss = (): string[] => {
    disk.restart('nothing');
    const found = openFileJournal({ ...options, stream: journal.stream });
    found.recover(0);
    const lines = replayed(found);
    found.close();
    return lines;
  };
  return { disk, clock, journal, warnings, afterPowerLoss };
}

for (const synced of [0, 1]) {
  test(`after a failed deferred sync the records are durable in a new segment, behind ${synced} synced ones`, () => {
    const { disk, clock, journal, warnings, afterPowerLoss } = deferred();
    const first = synced === 0 ? [] : ['1:s=1'];
    if (synced === 1) journal.append([incrementRecord('s', 1)]);
    clock.advance(1000);
    journal.append([incrementRecord('a', 1), incrementRecord('b', 1)]);
    journal.append([incrementRecord('c', 1)]);
    assert.deepEqual(journal.kept(0, synced + 3), { throughLsn: synced, increments: synced });
    failNext(disk, ['sync'], 'EIO');
    clock.advance(1000);
    assert.equal(disk.fault, undefined);
    assert.equal(journal.syncedLsn, synced + 3);
    assert.deepEqual(journal.kept(0, synced + 3), { throughLsn: synced + 3, increments: synced + 3 });
    assert.match(warnings.join('\n'), /^A sync of the journal failed; its records are in a new segment now.*$/);
    journal.append([incrementRecord('d', 1)]);
    journal.close();
    assert.equal(disk.openFiles, 0);
    const rest = ['a', 'b', 'c', 'd'].map((key, index) => `${synced + index + 1}:${key}=1`);
    assert.deepEqual(afterPowerLoss(), [...first, ...rest]);
  });
}

test('while the disk refuses a new segment as well, unsynced records stay in memory and appends are refused', () => {
  const { disk, clock, journal, warnings, afterPowerLoss } = deferred();
  journal.append([incrementRecord('a', 1)]);
  const calls: readonly DiskCall[] = ['sync', 'create'];
  failNext(disk, calls, 'EIO', { lasting: true });
  clock.advance(1000);
  assertRefused('journal-unavailable', () => journal.append([incrementRecord('b', 1)]));
  assertRefused('journal-unavailable', () => journal.sync());
  assert.equal(journal.syncedLsn, 0);
  assert.deepEqual(journal.kept(0, 1), { throughLsn: 0, increments: 0 });
  assert.equal(warnings.length, 1, 'it is said once');
  clock.advance(5000);
  disk.fault = undefined;
  clock.advance(1000);
  assert.equal(journal.syncedLsn, 1, 'tried again without a call');
  journal.append([incrementRecord('c', 1)]);
  journal.close();
  assert.deepEqual(afterPowerLoss(), ['1:a=1', '2:c=1']);
});

test('a close that cannot sync says so, and leaves no file open', () => {
  const { disk, journal } = deferred();
  journal.append([incrementRecord('a', 1)]);
  failNext(disk, ['sync', 'create'], 'EIO', { lasting: true });
  assertRefused('journal-unavailable', () => journal.close());
  assert.equal(disk.openFiles, 0);
});

for (const syncPolicy of ['always', 'everysec'] as const) {
  test(`with ${syncPolicy} a journal whose segment was moved away takes nothing until it is back`, () => {
    const { disk, options } = simulated({ syncPolicy });
    const journal = createFileJournal(options);
    journal.append([incrementRecord('a', 1)]);
    journal.requireInPlace();
    const [segment] = findSegments(disk, journal.location);
    assert.ok(segment !== undefined);
    disk.rename(segment.path, `${segment.path}.away`);
    // The write itself succeeds.
    journal.append([incrementRecord('b', 1)]);
    assertRefused('journal-unavailable', () => journal.requireInPlace());
    assertRefused('journal-unavailable', () => journal.append([incrementRecord('c', 1)]));
    assert.deepEqual(journal.kept(0, 2), { throughLsn: 0, increments: 0 });
    disk.rename(`${segment.path}.away`, segment.path);
    journal.append([incrementRecord('d', 1)]);
    journal.close();
    const next = openFileJournal({ ...options, stream: journal.stream });
    next.recover(0);
    assert.deepEqual(replayed(next), ['1:a=1', '2:b=1', '3:d=1']);
    next.close();
  });
}

test('records of a removed segment are missing, those of earlier segments are kept', () => {
  const { disk, options } = simulated({ keepSeconds: 60 });
  const journal = createFileJournal(options);
  for (let n = 0; n < 7; n += 1) journal.append([rawRecord(11_000)]);
  const [first, last] = findSegments(disk, journal.location);
  assert.ok(first !== undefined && last !== undefined);
  disk.remove(last.path);
  // It needs a new segment, which would leave a gap behind it.
  assertRefused('journal-unavailable', () => journal.append([rawRecord(60_000)]));
  assert.deepEqual(journal.kept(2, 5), { throughLsn: last.header.firstLsn - 1, increments: last.header.firstLsn - 3 });
  disk.remove(first.path);
  assert.deepEqual(journal.kept(2, 5), { throughLsn: 0, increments: 0 });
  journal.close();
});

test('a stream that is only read is missed as well when its files are removed', () => {
  const { disk, options } = simulated();
  const journal = createFileJournal(options);
  journal.append([incrementRecord('a', 1)]);
  journal.close();
  const next = openFileJournal({ ...options, stream: journal.stream, forFinishing: true });
  next.recover(0);
  next.requireInPlace();
  const [segment] = findSegments(disk, next.location);
  disk.remove(segment?.path ?? '');
  assertRefused('journal-unavailable', () => next.requireInPlace());
  assert.deepEqual(next.kept(0, 1), { throughLsn: 0, increments: 0 });
  next.close();
});

test('with everysec a failed write keeps nothing of its group and all records before it', () => {
  const { disk, journal, afterPowerLoss } = deferred();
  journal.append([incrementRecord('a', 1)]);
  failNext(disk, ['write'], 'EIO');
  assertRefused('journal-unavailable', () => journal.append([incrementRecord('b', 1)]));
  assert.equal(journal.syncedLsn, 1);
  assert.equal(journal.append([incrementRecord('c', 1)]), 2);
  journal.close();
  assert.deepEqual(afterPowerLoss(), ['1:a=1', '2:c=1']);
});

test('with everysec the journal has failed after a failed write if the disk refuses a new segment', () => {
  const { disk, journal } = deferred();
  journal.append([incrementRecord('a', 1)]);
  failNext(disk, ['write'], 'EIO', { lasting: true });
  assertRefused('journal-failed', () => journal.append([incrementRecord('b', 1)]));
  assertRefused('journal-failed', () => journal.close());
});

for (const [how, forFinishing, checkpoint] of [
  ['a recovery that only reads them', true, 0],
  ['a takeover that finds them committed', false, 3],
  ['a takeover that finds the checkpoint beyond them', false, 5],
] as const) {
  test(`records whose sync failed are durable after ${how}`, () => {
    const { disk, options } = simulated({ keepSeconds: 60 });
    const journal = createFileJournal(options);
    journal.append([rawRecord(600)]);
    failNext(disk, ['sync'], 'EIO');
    assertRefused('journal-failed', () => journal.append([rawRecord(600), rawRecord(600)]));
    const next = openFileJournal({ ...options, stream: journal.stream, forFinishing });
    next.recover(checkpoint);
    next.close();
    disk.restart('nothing');
    // The database went back to an earlier state.
    assert.equal(scanStream(disk, findSegments(disk, journal.location), 0).pendingRecords, 3);
  });
}

test('committed records whose sync failed are copied if they cannot be written again in their place', () => {
  const { disk, options } = simulated({ keepSeconds: 60 });
  const journal = createFileJournal(options);
  journal.append([rawRecord(600)]);
  failNext(disk, ['sync'], 'EIO');
  assertRefused('journal-failed', () => journal.append([rawRecord(600)]));
  const next = openFileJournal({ ...options, stream: journal.stream });
  failNext(disk, ['openWritable'], 'EIO');
  next.recover(2);
  assert.equal(next.takesRecords, true);
  next.close();
  disk.restart('nothing');
  const last = openFileJournal({ ...options, stream: journal.stream });
  last.recover(0);
  assert.deepEqual(replayedLsns(last), [1, 2]);
  last.close();
});

test('a disk failure at any call while a segment is created keeps nothing, and the next append succeeds', () => {
  for (const code of ['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EMFILE']) {
    for (let offset = 1; ; offset += 1) {
      const { disk, options } = simulated();
      const journal = createFileJournal(options);
      // The sixth does not fit the first segment.
      for (let n = 0; n < 5; n += 1) journal.append([rawRecord(11_000)]);
      disk.fault = { kind: 'error', atCall: disk.calls + offset, code };
      const outcome = codeOf(() => journal.append([rawRecord(12_000)]));
      // These calls come after the creation of the segment: the record itself is written and synced.
      if (outcome === 'journal-failed' || outcome === 'none') {
        assert.ok(offset > 5, `only ${offset} calls`);
        break;
      }
      assert.equal(outcome, 'journal-unavailable', `${code} at call ${offset}`);
      assert.equal(journal.endLsn, 5);
      assert.equal(journal.append([rawRecord(100)]), 6, `${code} at call ${offset}`);
      assert.equal(journal.append([rawRecord(12_000)]), 7);
      journal.close();
      assert.equal(disk.openFiles, 0, `files left open after ${code} at call ${offset}`);
      disk.restart('nothing');
      const reopened = openFileJournal({ ...options, stream: journal.stream });
      reopened.recover(0);
      assert.deepEqual(replayedLsns(reopened), [1, 2, 3, 4, 5, 6, 7], `${code} at call ${offset}`);
      reopened.close();
    }
  }
});

test('after a failed sync of zeros a new segment starts, and records in the old one are not lost', () => {
  const { disk, options } = simulated({ segmentBytes: 1024 * 1024 });
  const journal = createFileJournal(options);
  // The first 256 KiB are zeros already.
  for (let n = 0; n < 25; n += 1) journal.append([rawRecord(10_000)]);
  failNext(disk, ['sync'], 'EIO');
  assertRefused('journal-unavailable', () => journal.append([rawRecord(10_000)]));
  assert.equal(journal.append([rawRecord(100)]), 26);
  assert.equal(listStreams(disk, options.directory)[0]?.segments, 2);
  disk.restart('nothing');
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(0);
  assert.equal(replayedLsns(reopened).length, 26);
  reopened.close();
});

test('after a failed sync of zeros, unsynced records of everysec are moved to a new segment', () => {
  const { disk, options } = simulated({ segmentBytes: 1024 * 1024, syncPolicy: 'everysec' });
  const journal = createFileJournal(options);
  for (let n = 0; n < 25; n += 1) journal.append([rawRecord(10_000)]);
  failNext(disk, ['sync'], 'EIO');
  assertRefused('journal-unavailable', () => journal.append([rawRecord(10_000)]));
  assert.equal(journal.append([rawRecord(100)]), 26);
  assert.equal(journal.syncedLsn, 25);
  journal.close();
  disk.restart('nothing');
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(0);
  assert.equal(replayedLsns(reopened).length, 26);
  reopened.close();
});

test('after a disk failure at the first append, the append can be tried again', () => {
  for (let offset = 1; offset < 9; offset += 1) {
    const { disk, options } = simulated();
    const journal = createFileJournal(options);
    disk.fault = { kind: 'error', atCall: offset, code: 'ENOSPC' };
    assertRefused('journal-unavailable', () => journal.append([incrementRecord('a', 1)]), `call ${offset}`);
    assert.equal(journal.append([incrementRecord('a', 1)]), 1, `call ${offset}`);
    assert.equal(listStreams(disk, options.directory).length, 1);
  }
});

test('after a disk failure during recovery, recovery can be tried again', () => {
  for (let offset = 1; ; offset += 1) {
    const { disk, options } = simulated();
    const journal = createFileJournal(options);
    for (let n = 0; n < 12; n += 1) journal.append([rawRecord(11_000)]);
    journal.close();
    const found = openFileJournal({ ...options, stream: journal.stream });
    disk.fault = { kind: 'error', atCall: disk.calls + offset, code: 'EIO' };
    const outcome = codeOf(() => found.recover(3));
    if (outcome === 'none') break;
    assert.equal(outcome, 'journal-unavailable', `call ${offset}`);
    assert.equal(found.recover(3).records, 9, `call ${offset}`);
    assert.equal(found.takesRecords, true);
    assert.deepEqual(replayedLsns(found, 3), [4, 5, 6, 7, 8, 9, 10, 11, 12], `call ${offset}`);
    found.close();
  }
});

test('a recovery without room on the disk leaves a journal that is only read', () => {
  const calls: readonly DiskCall[] = ['create', 'write', 'sync', 'rename', 'syncDirectory'];
  for (const call of calls) {
    for (let offset = 1; ; offset += 1) {
      const { disk, options } = simulated();
      const journal = createFileJournal(options);
      for (let n = 0; n < 12; n += 1) journal.append([rawRecord(11_000)]);
      journal.close();
      const found = openFileJournal({ ...options, stream: journal.stream });
      disk.fault = { kind: 'error', atCall: disk.calls + offset, code: 'ENOSPC', calls: [call] };
      assert.equal(found.recover(3).records, 9, `${call} ${offset}`);
      const wasRefused = disk.fault === undefined;
      disk.fault = undefined;
      assert.equal(found.takesRecords, !wasRefused, `${call} ${offset}`);
      assert.deepEqual(replayedLsns(found, 3), [4, 5, 6, 7, 8, 9, 10, 11, 12], `${call} ${offset}`);
      assert.equal(
        codeOf(() => found.append([rawRecord(100)])),
        wasRefused ? 'journal-unavailable' : 'none',
      );
      found.close();
      assert.equal(disk.openFiles, 0);
      disk.restart('nothing');
      const next = openFileJournal({ ...options, stream: journal.stream });
      assert.equal(next.recover(3).records, wasRefused ? 9 : 10, `${call} ${offset}`);
      assert.equal(next.takesRecords, true);
      next.close();
      if (!wasRefused) break;
    }
  }
});

test('a takeover on a full disk removes the reserve, which is written again once there is room', () => {
  const clock = new ManualClock();
  const { disk, options } = simulated({ clock });
  const streams = new FileJournalStreams({ ...options, shards: 1 });
  const journal = streams.create();
  journal.append([rawRecord(100)], 0);
  streams.tend();
  assert.ok(disk.list(options.directory).includes('reserve-0'));
  const next = new FileJournalStreams({ ...options, shards: 1 });
  next.existing();
  const found = next.open(journal.stream);
  const ownership = (): StreamOwnership => ({
    ...newOwnership(undefined),
    claims: [{ id: randomUUID(), lsn: 1, epoch: undefined }],
  });
  const claimed = ownership();
  failNext(disk, ['write'], 'ENOSPC');
  found.keepOwnership(claimed);
  assert.deepEqual(found.ownership(), claimed);
  assert.deepEqual(readOwnership(disk, join(options.directory, journal.stream)), claimed);
  assert.ok(!disk.list(options.directory).includes('reserve-0'));
  // There is no reserve any more.
  failNext(disk, ['write'], 'ENOSPC');
  assertRefused('journal-unavailable', () => found.keepOwnership(ownership()));
  assert.deepEqual(found.ownership(), claimed, 'what could not be kept is not known');
  failNext(disk, ['write'], 'ENOSPC');
  next.tend();
  assert.ok(!disk.list(options.directory).includes('reserve-0'), 'what was begun is removed');
  next.tend();
  assert.ok(!disk.list(options.directory).includes('reserve-0'), 'it is not tried all the time');
  clock.advance(10_000);
  next.tend();
  assert.ok(disk.list(options.directory).includes('reserve-0'));
});

/** A file system of `bytes` bytes; undefined if this user cannot mount one. */
function tinyFileSystem(t: TestContext, bytes: number): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'summing-counters-tiny-'));
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', directory]);
  t.after(() => {
    if (status === 0) spawnSync('umount', [directory]);
    rmSync(directory, { recursive: true });
  });
  return status === 0 ? directory : undefined;
}

test('an append to a full file system keeps nothing, and succeeds once there is room again', (t) => {
  const dataDir = tinyFileSystem(t, 512 * 1024);
  if (dataDir === undefined) {
    limitedByFileSize(t);
    return;
  }
  const options = journalOptions(dataDir, { segmentBytes: 128 * 1024 });
  const journal = createFileJournal(options);
  const ballast = join(dataDir, 'ballast');
  writeFileSync(ballast, Buffer.alloc(200 * 1024));
  let code = 'none';
  while (code === 'none') code = codeOf(() => journal.append([rawRecord(10_000)]));
  assert.equal(code, 'journal-unavailable');
  const { endLsn } = journal;
  assert.ok(endLsn > 10);
  assertRefused('journal-unavailable', () => journal.append([rawRecord(10_000)]));
  rmSync(ballast);
  assert.equal(journal.append([rawRecord(10_000)]), endLsn + 1);
  journal.close();
  const reopened = openFileJournal({ ...options, stream: journal.stream });
  reopened.recover(0);
  assert.equal(replayedLsns(reopened).length, endLsn + 1);
  reopened.close();
});

/** The same with a limit on the size of files, for users who cannot mount. */
function limitedByFileSize(t: TestContext): void {
  const script = `
    const { createFileJournal } = await import('#product/shard-worker/journal/file/file-journal.js');
    const { journalOptions, rawRecord } = await import(${JSON.stringify(new URL('../../../../support/journal-fixtures.js', import.meta.url).href)});
    const journal = createFileJournal(journalOptions(process.argv[1], { segmentBytes: 1024 * 1024 }));
    try { for (;;) journal.append([rawRecord(10_000)]); } catch (error) { console.log(error.code, journal.endLsn); }
    console.log(journal.append([rawRecord(100)]) > 0);`;
  const node = `exec "${process.execPath}" --input-type=module -e "$0" "$1"`;
  const { stdout } = spawnSync('sh', ['-c', `trap '' XFSZ; ulimit -f 600; ${node}`, script, temporaryDirectory(t)], {
    encoding: 'utf8',
    cwd: join(import.meta.dirname, '../../../../../..'),
  });
  assert.match(stdout, /^journal-unavailable \d+\ntrue/);
}

test('an append beyond a limit on the size of files keeps nothing', (t) => {
  limitedByFileSize(t);
});

test('an append to a directory that cannot be written keeps nothing', (t) => {
  const dataDir = temporaryDirectory(t);
  // A file is in the place of the directory. This fails for root as well, unlike missing permissions.
  writeFileSync(join(dataDir, 'journal'), '');
  const journal = createFileJournal(journalOptions(dataDir));
  assertRefused('journal-unavailable', () => journal.append([incrementRecord('a', 1)]));
  rmSync(join(dataDir, 'journal'));
  assert.equal(journal.append([incrementRecord('a', 1)]), 1);
});
