/**
 * A rebind that is interrupted at any point: either nothing has changed, or the next command or start does the rest. No
 * record is in both streams or in none.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import { listStreams } from '#product/shard-worker/journal/file/journal-directory.js';
import { finishRebind, rebindStream, type Rebind } from '#product/shard-worker/journal/file/stream-rebind.js';
import { keepOwnership, readOwnership } from '#product/shard-worker/journal/file/stream-files.js';
import { newOwnership, type StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import {
  DATABASE_ID,
  incrementRecord,
  journalOptions,
  NODE_ID,
  OTHER_DATABASE_ID,
  replayed,
} from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedCrash, SimulatedDisk, type PowerLoss } from '../../../../support/simulated-disk.js';

const OWNERSHIP: StreamOwnership = {
  mark: 'open',
  cover: undefined,
  claims: [{ id: '11111111-aaaa-4bbb-8ccc-000000000001', lsn: 0, epoch: 7 }],
};

interface Scene {
  readonly disk: SimulatedDisk;
  readonly options: FileJournalOptions;
  readonly stream: string;
}

/** Records `k1` to `k6` in segments of a few records each, and what was kept of the ownership. */
function write(seed: number): Scene {
  const disk = new SimulatedDisk(new Mulberry32(seed), ['/data']);
  const options = journalOptions('/data', { disk, segmentBytes: 4096 + 300 });
  const journal = createFileJournal(options);
  for (let n = 1; n <= 6; n += 1) journal.append([incrementRecord(`k${n}`, n)], n);
  journal.keepOwnership(OWNERSHIP);
  journal.close();
  disk.restart('everything');
  return { disk, options, stream: journal.stream };
}

function rebind({ disk, options, stream }: Scene, after: number): Rebind {
  return rebindStream(disk, options.directory, stream, after, NODE_ID, { clock: new ManualClock(5) });
}

/** The records of each stream, the old one first. */
function streamsOf({ disk, options, stream }: Scene): readonly (readonly string[])[] {
  const found: (readonly string[])[] = [];
  const streams = listStreams(disk, options.directory).map((info) => info.stream);
  for (const each of streams.sort((a, b) => Number(b === stream) - Number(a === stream))) {
    const journal = openFileJournal({ ...options, stream: each });
    journal.recover(0);
    found.push(replayed(journal));
    journal.close();
  }
  return found;
}

const WHOLE = ['1:k1=1', '2:k2=2', '3:k3=3', '4:k4=4', '5:k5=5', '6:k6=6'];

test('a journal that ends below the LSN of a rebind stays as it is, and the next start finishes the rebind', () => {
  const scene = write(1);
  const { disk, options } = scene;
  assert.deepEqual(rebind(scene, 8), {
    stream: undefined,
    records: 0,
    kept: join(options.directory, scene.stream),
  });
  finishRebind(disk, options.directory);
  assert.deepEqual(streamsOf(scene), [WHOLE]);
});

for (const after of [0, 1, 3, 6]) {
  test(`records above LSN ${after} move, with their times, and the old stream ends there and can go on`, () => {
    const scene = write(1);
    const { disk, options, stream } = scene;
    const { stream: moved, records } = rebindStream(disk, options.directory, stream, after, NODE_ID);
    assert.deepEqual([records, moved === undefined], [6 - after, after === 6]);
    assert.deepEqual(disk.list(options.directory).sort(), [stream, ...(moved === undefined ? [] : [moved])].sort());
    if (moved !== undefined) {
      const journal = openFileJournal({ ...options, stream: moved });
      assert.deepEqual(journal.ownership(), newOwnership(undefined));
      journal.recover(0);
      const times: number[] = [];
      for (const { databaseTime } of journal.replay(0)) times.push(databaseTime);
      assert.deepEqual(times, [1, 2, 3, 4, 5, 6].slice(after));
      journal.close();
    }
    const old = openFileJournal({ ...options, stream });
    assert.deepEqual([old.findEnd(), old.ownership()], [after, OWNERSHIP]);
    old.recover(0);
    assert.deepEqual(replayed(old), WHOLE.slice(0, after));
    assert.equal(old.append([incrementRecord('next', 1)], 9), after + 1);
    old.close();
    assert.equal(disk.openFiles, 0);
  });
}

for (const loss of [undefined, 'nothing', 'some', 'everything'] as const satisfies (PowerLoss | undefined)[]) {
  const what = loss === undefined ? 'the end of the process' : `a loss of power that keeps ${loss}`;
  test(`after ${what} at any call a rebind is undone or done, and it can be called again`, () => {
    let outcomes = '';
    for (let atCall = 1; ; atCall += 1) {
      const scene = write(atCall);
      const { disk, options } = scene;
      disk.fault = { kind: 'crash', atCall };
      let crashed = false;
      try {
        rebind(scene, 3);
      } catch (error) {
        assert.ok(error instanceof SimulatedCrash, String(error));
        crashed = true;
      }
      if (!crashed) break;
      disk.restart(loss);
      // The next start may end at any point, too; the one after that completes.
      disk.fault = { kind: 'crash', atCall: 1 + (atCall % 17) };
      try {
        finishRebind(disk, options.directory);
      } catch (error) {
        assert.ok(error instanceof SimulatedCrash, String(error));
      }
      disk.restart(loss);
      finishRebind(disk, options.directory);
      assert.ok(!disk.list(options.directory).includes('rebind'));
      const found = streamsOf(scene);
      const isDone = found.length === 2;
      outcomes += isDone ? 'd' : 'u';
      assert.deepEqual(
        found,
        isDone ? [WHOLE.slice(0, 3), ['1:k4=4', '2:k5=5', '3:k6=6']] : [WHOLE],
        `at call ${atCall}`,
      );
      rebind(scene, 3);
      assert.deepEqual(streamsOf(scene).flat().length, 6, `at call ${atCall}`);
    }
    assert.match(outcomes, /^u+d+$/, 'undone up to one call, done from there on');
  });
}

test('a stream of another database is set aside as a whole, and its new stream belongs to the database in use', () => {
  const { disk, options, stream } = write(1);
  const origin = { clock: new ManualClock(5), databaseId: OTHER_DATABASE_ID, old: 'aside' } as const;
  const { stream: moved, kept } = rebindStream(disk, options.directory, stream, 3, NODE_ID, origin);
  assert.equal(kept, `${options.directory}/${stream}.rebound`);
  assert.deepEqual(
    listStreams(disk, options.directory).map(({ stream: found, databaseId }) => [found, databaseId]),
    [[moved, OTHER_DATABASE_ID]],
  );
  assert.deepEqual(readOwnership(disk, kept), OWNERSHIP);
  assert.notEqual(OTHER_DATABASE_ID, DATABASE_ID);
});

test('what an older version left of an interrupted rebind is for an operator, and stays as it is', () => {
  const { disk, options, stream } = write(1);
  const staging = `${options.directory}/rebind`;
  disk.makeDirectory(staging);
  disk.makeDirectory(`${staging}/${NODE_ID}`);
  keepOwnership(disk, `${staging}/${NODE_ID}`, newOwnership(undefined));
  assert.throws(
    () => {
      finishRebind(disk, options.directory);
    },
    (error) => error instanceof JournalError && error.code === 'journal-unavailable' && error.message.includes(staging),
  );
  assert.deepEqual(disk.list(options.directory).sort(), [stream, 'rebind'].sort());
  assert.deepEqual(disk.list(staging), [NODE_ID]);
});
