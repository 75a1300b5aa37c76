import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import {
  FileJournalStreams,
  type FileJournalStreamsOptions,
} from '#product/shard-worker/journal/file/file-journal-streams.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';
import { createFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { newOwnership, type StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import { listStreams } from '#product/shard-worker/journal/file/journal-directory.js';
import {
  DATABASE_ID,
  journalOptions,
  NODE_ID,
  incrementRecord,
  replayed,
  temporaryDirectory,
} from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedDisk } from '../../../../support/simulated-disk.js';

/** A stream of `shard` that was created at `createdAt` and holds one record. */
function leave(options: FileJournalStreamsOptions, shard: number, createdAt: number): string {
  const journal = createFileJournal({ ...options, shard, clock: new ManualClock(createdAt) });
  journal.append([incrementRecord(`of ${shard}`, createdAt)]);
  journal.close();
  return journal.stream;
}

test('streams are listed by shard and age, with the fields of their headers', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const second = leave(options, 1, 10);
  const first = leave(options, 0, 20);
  const third = leave(options, 1, 30);
  mkdirSync(join(options.directory, '99999999-2222-4333-8444-555555555555'));
  const infos = listStreams(systemDisk, options.directory);
  assert.deepEqual(
    infos.map(({ stream }) => stream),
    [first, second, third],
  );
  const { bytes, ...info } = infos[1] ?? { bytes: 0 };
  assert.deepEqual(info, {
    stream: second,
    nodeId: NODE_ID,
    shard: 1,
    databaseId: DATABASE_ID,
    createdAt: 10,
    firstLsn: 1,
    segments: 1,
  });
  assert.ok(bytes > 0);
});

test('a segment that its owner removes while streams are listed is looked for once more', () => {
  const disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
  const options = { ...journalOptions('/data', { disk }), shards: 1 };
  const stream = leave(options, 0, 10);
  disk.fault = { kind: 'error', atCall: 1, code: 'ENOENT', calls: ['open'] };
  const found = listStreams(disk, options.directory);
  assert.deepEqual(
    found.map((info) => info.stream),
    [stream],
  );
});

test('a shard continues its newest stream, and one of the shards finishes each orphaned stream', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 2 };
  const streams = {
    oldOfZero: leave(options, 0, 10),
    ofZero: leave(options, 0, 20),
    ofOne: leave(options, 1, 10),
    ofTwo: leave(options, 2, 10),
    ofThree: leave(options, 3, 10),
  };
  const zero = new FileJournalStreams({ ...options, shard: 0 });
  const one = new FileJournalStreams({ ...options, shard: 1 });
  const found = (stream: string): unknown => ({ stream, bytes: 256 * 1024, mark: 'unregistered' });
  assert.deepEqual(zero.existing(), {
    own: found(streams.ofZero),
    orphaned: [found(streams.oldOfZero), found(streams.ofTwo)],
  });
  assert.deepEqual(one.existing(), { own: found(streams.ofOne), orphaned: [found(streams.ofThree)] });

  const own = zero.open(streams.ofZero);
  own.recover(0);
  assert.equal(own.append([incrementRecord('next', 1)], 0), 2);
  own.close();
  const orphaned = zero.open(streams.ofTwo);
  orphaned.recover(0);
  assert.equal(orphaned.bytes, 256 * 1024, 'all of it, until the stream is removed');
  assert.deepEqual(replayed(orphaned), ['1:of 2=10']);
  orphaned.close();
  zero.remove(orphaned);
  assert.ok(!existsSync(join(options.directory, streams.ofTwo)));
  assert.deepEqual(zero.existing().orphaned, [found(streams.oldOfZero)]);
});

test('the mark of a stream is that of its directory, also while it is open and once it is removed', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const [old, own] = [leave(options, 0, 10), leave(options, 0, 20)];
  const streams = new FileJournalStreams(options);
  streams.existing();
  const journal = streams.open(old);
  assert.deepEqual([streams.markOf(old), streams.markOf(own)], ['unregistered', 'unregistered']);
  journal.keepOwnership({ ...newOwnership(undefined), mark: 'open' });
  assert.equal(streams.markOf(old), 'open');
  const again = new FileJournalStreams(options);
  assert.deepEqual(
    again.existing().orphaned.map(({ stream, mark }) => [stream, mark]),
    [[old, 'open']],
  );
  assert.equal(again.markOf(old), 'open');
  journal.recover(0);
  journal.close();
  streams.remove(journal);
  assert.equal(streams.markOf(old), undefined);
  assert.equal(streams.markOf('99999999-2222-4333-8444-555555555555'), undefined);
});

test('a new stream keeps its cover with its first segment, and is stored by its first claim', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const streams = new FileJournalStreams(options);
  const cover = '99999999-2222-4333-8444-555555555555';
  const first = streams.create(cover);
  assert.ok(!existsSync(options.directory), 'a start writes nothing');
  assert.deepEqual(first.ownership(), newOwnership(cover));
  first.append([incrementRecord('a', 1)], 17);
  assert.deepEqual(openOwnership(options, first.stream), newOwnership(cover));
  first.close();

  const second = streams.create();
  const claim = { id: cover, lsn: 0, epoch: undefined };
  second.keepOwnership({ ...newOwnership(undefined), claims: [claim] });
  assert.deepEqual(openOwnership(options, second.stream).claims, [claim]);
  assert.deepEqual([second.endLsn, second.findEnd(), second.firstLsn], [0, 0, 1]);
  second.append([incrementRecord('b', 1)], 17);
  assert.deepEqual(openOwnership(options, second.stream).claims, [claim]);
  second.close();
});

function openOwnership(options: FileJournalStreamsOptions, stream: string): StreamOwnership {
  return new FileJournalStreams(options).open(stream).ownership();
}

test('the time of a shard is the largest that any shard has noted, or that is in a record of its streams', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 2 };
  const start = (shard = 0): FileJournalStreams => {
    const streams = new FileJournalStreams({ ...options, shard });
    streams.existing();
    return streams;
  };
  assert.equal(start().notedTime(), 0);
  const noting = start();
  noting.noteTime(1000);
  noting.noteTime(999);
  assert.equal(noting.notedTime(), 1000);
  assert.deepEqual([start().notedTime(), start(1).notedTime()], [1000, 1000]);
  const journal = start().create();
  for (const time of [1500, 2000, 1999]) journal.append([incrementRecord('a', 1)], time);
  journal.close();
  assert.deepEqual([start().notedTime(), start(1).notedTime()], [2000, 1000]);
  const next = start();
  assert.equal(next.notedTime(), 2000);
  next.noteTime(2000);
  // Recovery behind the last record leaves a segment without one.
  const recovered = next.open(journal.stream);
  recovered.recover(3);
  recovered.close();
  assert.equal(start().notedTime(), 2000, 'what only a record had is noted, too');
});

test('a time that cannot be read counts as none, and one that the disk refuses is journal-unavailable', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const fail = (): never => {
    throw Object.assign(new Error('EIO'), { code: 'EIO' });
  };
  new FileJournalStreams(options).noteTime(1000);
  const unreadable = new FileJournalStreams({ ...options, disk: { ...systemDisk, open: fail } });
  assert.equal(unreadable.notedTime(), 0);
  const full = new FileJournalStreams({ ...options, disk: { ...systemDisk, create: fail } });
  assert.throws(
    () => {
      full.noteTime(2000);
    },
    (error) => error instanceof JournalError && error.code === 'journal-unavailable',
  );
  assert.equal(full.notedTime(), 1000);
});

test('the next start completes the removal of a stream that a crash interrupted', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const stream = leave(options, 0, 10);
  const streams = new FileJournalStreams({
    ...options,
    disk: {
      ...systemDisk,
      remove() {
        throw Object.assign(new Error('EIO'), { code: 'EIO' });
      },
    },
  });
  streams.remove(streams.open(stream));
  assert.deepEqual(readdirSync(options.directory), [`${stream}.removed`]);
  assert.deepEqual(new FileJournalStreams(options).existing(), { own: undefined, orphaned: [] });
  assert.deepEqual(readdirSync(options.directory), []);
});

test('the database id reaches streams that are open and those opened later', (t) => {
  const options = { ...journalOptions(temporaryDirectory(t), { databaseId: undefined }), shards: 1 };
  const streams = new FileJournalStreams(options);
  const journal = streams.create();
  journal.append([incrementRecord('a', 1)], 0);
  streams.setDatabaseId(DATABASE_ID);
  journal.append([incrementRecord('b', 1)], 0);
  journal.close();
  assert.equal(listStreams(systemDisk, options.directory)[0]?.databaseId, DATABASE_ID);
});
