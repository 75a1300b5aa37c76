/** What a stop says of streams that this process never recovered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { createFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { FileJournalStreams } from '#product/shard-worker/journal/file/file-journal-streams.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import type { ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import { closeDrained, findUntaken } from '#product/shard-worker/thread/streams/stopped-streams.js';
import { incrementRecord, journalOptions } from '../../../../support/journal-fixtures.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedCrash, SimulatedDisk } from '../../../../support/simulated-disk.js';

const unavailable = new CounterError('database-unavailable', 'unavailable');

/** A directory with a stream of three records, and a database whose checkpoint of it is at `lsn`; undefined: it is away. */
function makeScene(lsn: number | undefined, failure: Error = unavailable) {
  const disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
  const options = journalOptions('/data', { disk });
  const journal = createFileJournal(options);
  for (let n = 1; n <= 3; n += 1) journal.append([incrementRecord(`k${n}`, n)]);
  journal.close();
  const { stream } = journal;
  const readBack = () => (lsn === undefined ? Promise.reject(failure) : Promise.resolve({ epoch: 1, lsn }));
  const database = { readBack } as unknown as ShardDatabase;
  const journals = new FileJournalStreams({ ...options, shards: 1 });
  const said: string[] = [];
  const find = () => findUntaken(journals, database, (level, _, message) => said.push(`${level}: ${message}`));
  return { disk, stream, said, find };
}

for (const { name, lsn, ranges } of [
  { name: 'a stream whose records are committed is not named', lsn: 3, ranges: [] },
  {
    name: 'a stream with records above its checkpoint is named with their LSNs',
    lsn: 1,
    ranges: [{ afterLsn: 1, throughLsn: 3 }],
  },
  {
    name: 'a stream is named as unread while the database is away',
    lsn: undefined,
    ranges: [{ afterLsn: 0, throughLsn: undefined }],
  },
]) {
  test(name, async () => {
    const { stream, said, find } = makeScene(lsn);
    assert.deepEqual(
      await find(),
      ranges.map((range) => ({ stream, increments: undefined, ...range })),
    );
    assert.deepEqual(said, []);
  });
}

test('a directory that cannot be listed is said, and nothing in it is named', async () => {
  const { disk, said, find } = makeScene(1);
  disk.fault = { kind: 'error', atCall: 1, code: 'EIO', calls: ['list'], lasting: true };
  assert.deepEqual(await find(), []);
  assert.deepEqual(said, ['warn: Cannot list the streams of the journal; their records stay in it']);
});

test('an unexpected failure of the database or the disk is no answer', async () => {
  const { disk, find } = makeScene(undefined, new TypeError('a mistake'));
  await assert.rejects(find(), TypeError);
  disk.fault = { kind: 'crash', atCall: 1 };
  await assert.rejects(find(), SimulatedCrash);
});

for (const { name, fault, left } of [
  { name: 'a drained journal whose disk works keeps what is pending', fault: false, left: 2 },
  { name: 'a drained journal that cannot sync keeps what is synced, and says what is lost', fault: true, left: 1 },
]) {
  test(name, () => {
    const disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
    const journal = createFileJournal(journalOptions('/data', { disk, syncPolicy: 'everysec' }));
    const pendingSums = new PendingSums(journal.stream, undefined);
    for (const n of [1, 2]) {
      const record = incrementRecord(`k${n}`, n);
      pendingSums.apply(journal.append([record]), record, RECORD_HEADER_BYTES, record.length, 0, 0);
      if (n === 1) journal.sync();
    }
    const said: string[] = [];
    if (fault) disk.fault = { kind: 'error', atCall: 1, code: 'EIO', calls: ['sync', 'create'], lasting: true };
    const range = closeDrained(journal, pendingSums, (level, fields, message) =>
      said.push(`${level} ${JSON.stringify(fields)}: ${message}`),
    );
    assert.deepEqual(range, { stream: journal.stream, afterLsn: 0, throughLsn: left, increments: left });
    assert.equal(said.length, fault ? 1 : 0);
    if (fault) assert.match(said.join(''), /^error .*"lost":1,"afterLsn":1}: Acknowledged increments are lost/);
  });
}
