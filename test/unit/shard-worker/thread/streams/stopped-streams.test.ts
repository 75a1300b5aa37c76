/** What a stop says of streams that this process never recovered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { createFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { FileJournalStreams } from '#product/shard-worker/journal/file/file-journal-streams.js';
import type { ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { findUntaken } from '#product/shard-worker/thread/streams/stopped-streams.js';
import { incrementRecord, journalOptions } from '../../../../support/journal-fixtures.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedDisk } from '../../../../support/simulated-disk.js';

const unavailable = new CounterError('database-unavailable', 'unavailable');

/** A directory with a stream of three records, and a database whose checkpoint of it is at `lsn`; undefined: it is away. */
function makeScene(lsn: number | undefined) {
  const disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
  const options = journalOptions('/data', { disk });
  const journal = createFileJournal(options);
  for (let n = 1; n <= 3; n += 1) journal.append([incrementRecord(`k${n}`, n)]);
  journal.close();
  const { stream } = journal;
  const readBack = () => (lsn === undefined ? Promise.reject(unavailable) : Promise.resolve({ epoch: 1, lsn }));
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
