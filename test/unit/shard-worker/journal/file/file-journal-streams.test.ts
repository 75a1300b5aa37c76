import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  FileJournalStreams,
  type FileJournalStreamsOptions,
} from '#product/shard-worker/journal/file/file-journal-streams.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';
import { createFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
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

/** A stream of `shard` that was created at `createdAt` and holds one record. */
async function leave(options: FileJournalStreamsOptions, shard: number, createdAt: number): Promise<string> {
  const journal = createFileJournal({ ...options, shard, clock: new ManualClock(createdAt) });
  journal.append([incrementRecord(`of ${shard}`, createdAt)]);
  await journal.close();
  return journal.stream;
}

test('streams are listed by shard and age, with the fields of their headers', async (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const second = await leave(options, 1, 10);
  const first = await leave(options, 0, 20);
  const third = await leave(options, 1, 30);
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

test('a shard continues its newest stream, and one of the shards finishes each orphaned stream', async (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 2 };
  const streams = {
    oldOfZero: await leave(options, 0, 10),
    ofZero: await leave(options, 0, 20),
    ofOne: await leave(options, 1, 10),
    ofTwo: await leave(options, 2, 10),
    ofThree: await leave(options, 3, 10),
  };
  const zero = new FileJournalStreams({ ...options, shard: 0 });
  const one = new FileJournalStreams({ ...options, shard: 1 });
  const found = (stream: string): unknown => ({ stream, bytes: 256 * 1024 });
  assert.deepEqual(zero.existing(), {
    own: found(streams.ofZero),
    orphaned: [found(streams.oldOfZero), found(streams.ofTwo)],
  });
  assert.deepEqual(one.existing(), { own: found(streams.ofOne), orphaned: [found(streams.ofThree)] });

  const own = zero.open(streams.ofZero);
  own.recover(0);
  assert.equal(own.append([incrementRecord('next', 1)]), 2);
  await own.close();
  const orphaned = zero.open(streams.ofTwo);
  orphaned.recover(0);
  assert.equal(orphaned.bytes, 256 * 1024, 'all of it, until the stream is removed');
  assert.deepEqual(await replayed(orphaned), ['1:of 2=10']);
  await orphaned.close();
  zero.remove(orphaned);
  assert.ok(!existsSync(join(options.directory, streams.ofTwo)));
  assert.deepEqual(zero.existing().orphaned, [found(streams.oldOfZero)]);
});

test('the next start completes the removal of a stream that a crash interrupted', async (t) => {
  const options = { ...journalOptions(temporaryDirectory(t)), shards: 1 };
  const stream = await leave(options, 0, 10);
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

test('the database id reaches streams that are open and those opened later', async (t) => {
  const options = { ...journalOptions(temporaryDirectory(t), { databaseId: undefined }), shards: 1 };
  const streams = new FileJournalStreams(options);
  const journal = streams.create();
  await journal.append([incrementRecord('a', 1)]);
  streams.setDatabaseId(DATABASE_ID);
  await journal.append([incrementRecord('b', 1)]);
  await journal.close();
  assert.equal(listStreams(systemDisk, options.directory)[0]?.databaseId, DATABASE_ID);
});
