/**
 * Crashes at any call of the disk, power losses, failing calls: acknowledged records that are not committed are
 * replayed once and in order, and no record is replayed that was never appended.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import {
  createFileJournal,
  openFileJournal,
  type FileJournal,
} from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import { listStreams } from '#product/shard-worker/journal/file/journal-directory.js';
import { journalOptions, rawRecord } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../../../support/random-runs.js';
import {
  SimulatedCrash,
  SimulatedDisk,
  type DiskCall,
  type Fault,
  type PowerLoss,
} from '../../../../support/simulated-disk.js';

/** What is known outside of the journal: the checkpoint in PostgreSQL and the acknowledgements. */
class Model {
  checkpoint = 0;
  /** Content of each LSN that may be in the journal: the byte that fills it, and its length. */
  readonly attempted = new Map<number, string[]>();
  /** Content of each acknowledged LSN. */
  readonly acknowledged = new Map<number, string>();
  /** Acknowledged records up to this LSN must survive a power loss. */
  durableLsn = 0;
}

interface World {
  readonly disk: SimulatedDisk;
  readonly clock: ManualClock;
  readonly random: Mulberry32;
  readonly model: Model;
  readonly options: FileJournalOptions;
}

function makeWorld(seed: number, changes: Partial<FileJournalOptions> = {}): World {
  const random = new Mulberry32(seed);
  const disk = new SimulatedDisk(random, ['/data']);
  const clock = new ManualClock();
  const options = journalOptions('/data', { disk, clock, bytesMax: 400_000, segmentBytes: 40_000, ...changes });
  return { disk, clock, random, model: new Model(), options };
}

function randomGroup({ random, model }: World, journal: FileJournal): ReturnType<typeof rawRecord>[] {
  const group: ReturnType<typeof rawRecord>[] = [];
  for (let lsn = journal.endLsn + 1; group.length <= random.below(3); lsn += 1) {
    const bytes = 41 + random.below(random.below(10) === 0 ? 50_000 : 3000);
    const fill = random.below(256);
    group.push(rawRecord(bytes, fill));
    model.attempted.set(lsn, [...(model.attempted.get(lsn) ?? []), `${bytes}:${fill}`]);
  }
  return group;
}

function acknowledge(world: World, journal: FileJournal, group: readonly Uint8Array[]): void {
  const first = journal.endLsn - group.length + 1;
  for (const [index, record] of group.entries()) {
    world.model.acknowledged.set(first + index, `${record.byteLength}:${record[40] ?? 0}`);
  }
}

/** One random step of a shard. */
function step(world: World, journal: FileJournal): void {
  const { random, model, clock } = world;
  switch (random.below(8)) {
    case 0: {
      // A flush: synced first, then committed, then pruned.
      journal.sync();
      model.durableLsn = journal.syncedLsn;
      model.checkpoint = Math.max(
        model.checkpoint,
        random.below(2) === 0 ? journal.endLsn : journal.endLsn - random.below(5),
      );
      journal.prune(model.checkpoint);
      break;
    }
    case 1:
      clock.advance(random.below(3000));
      break;
    case 2:
      journal.setDatabaseId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee');
      break;
    default: {
      const group = randomGroup(world, journal);
      journal.append(group);
      acknowledge(world, journal, group);
    }
  }
  model.durableLsn = Math.max(model.durableLsn, journal.syncedLsn);
}

/** Recovers and compares the replay with the model. Undefined if there was no stream to recover. */
function recover(world: World): FileJournal | undefined {
  const { options, model } = world;
  const { checkpoint } = model;
  const pending = [...model.acknowledged.keys()].filter((lsn) => lsn > checkpoint);
  const [info] = listStreams(options.disk, options.directory);
  if (info === undefined) {
    assert.deepEqual(pending, [], 'acknowledged records and no stream');
    assert.equal(checkpoint, 0, 'a checkpoint and no stream');
    return undefined;
  }
  const journal = openFileJournal({ ...options, stream: info.stream });
  const { journalEndLsn, endLsn } = journal.recover(checkpoint);
  assert.ok(journalEndLsn >= Math.max(0, ...pending), `ends at ${journalEndLsn} below acknowledged ${String(pending)}`);
  assert.equal(endLsn, Math.max(journalEndLsn, checkpoint));
  let expected = checkpoint + 1;
  const content = new Map<number, string>();
  for (const { lsn, entries } of journal.replay(checkpoint)) {
    assert.equal(lsn, expected, 'replayed in order, without a gap');
    expected += 1;
    content.set(lsn, `${entries.byteLength + 40}:${entries[0] ?? 0}`);
    const acknowledged = model.acknowledged.get(lsn);
    const possible = acknowledged === undefined ? model.attempted.get(lsn) : [acknowledged];
    assert.ok(possible?.includes(content.get(lsn) ?? ''), `LSN ${lsn} is ${content.get(lsn) ?? ''}`);
  }
  assert.ok(expected > Math.max(0, ...pending), `replayed up to ${expected - 1} of ${String(pending)}`);
  // From here on the replayed records count: the journal has synced them, and they will be committed.
  model.acknowledged.clear();
  for (const [lsn, text] of content) model.acknowledged.set(lsn, text);
  model.durableLsn = journal.syncedLsn;
  return journal;
}

/** The process has ended. After a power loss, records that were acknowledged before their sync may be lost. */
function restart({ disk, model }: World, loss: PowerLoss | undefined): void {
  disk.restart(loss);
  if (loss === undefined) return;
  for (const lsn of [...model.acknowledged.keys()]) if (lsn > model.durableLsn) model.acknowledged.delete(lsn);
}

/** One process: opens or creates a stream and works until the fault or its end. */
function live(world: World, steps: number, fault: Fault | undefined): void {
  const { disk, model, options } = world;
  let journal: FileJournal | undefined;
  try {
    disk.fault = fault;
    journal = recover(world);
    journal ??= createFileJournal(options);
    // After a full disk the stream can only be read.
    for (let n = 0; n < steps && journal.takesRecords; n += 1) step(world, journal);
    const { takesRecords } = journal;
    journal.close();
    if (takesRecords) model.durableLsn = journal.endLsn;
    disk.fault = undefined;
  } catch (error) {
    // The journal reports the fault as a JournalError; the process ends, as the shard would.
    if (!(error instanceof SimulatedCrash) && !(error instanceof JournalError)) throw error;
    if (!(error instanceof JournalError)) return;
    assert.ok(['journal-unavailable', 'journal-failed', 'journal-full'].includes(error.code), error.message);
    try {
      journal?.close();
    } catch {
      // It may fail, too.
    }
  }
}

test('a crash at every call of the disk loses nothing that was acknowledged', () => {
  const seed = seedOfRun();
  console.log(`SEED=${seed}`);
  for (const loss of ['nothing', 'everything', 'some', undefined] as const) {
    for (let atCall = 1, reached = true; reached; atCall += 1) {
      const world = makeWorld(seed);
      live(world, 12, { kind: 'crash', atCall });
      reached = world.disk.fault !== undefined;
      restart(world, loss);
      // Recovery crashes as well, at some call.
      live(world, 3, { kind: 'crash', atCall: 1 + world.random.below(60) });
      restart(world, loss);
      live(world, 3, undefined);
    }
  }
});

test('random runs with crashes, power losses and failing calls lose nothing and invent nothing', () => {
  const firstSeed = seedOfRun();
  for (let run = 0; run < countOfRuns(200); run += 1) {
    const seed = (firstSeed + run) % 0x8000_0000;
    try {
      randomLife(seed);
    } catch (error) {
      console.log(`SEED=${seed} RUNS=1`);
      throw error;
    }
  }
});

function randomLife(seed: number): void {
  const choice = new Mulberry32(seed);
  const world = makeWorld(choice.next(), {
    syncPolicy: choice.pick(['always', 'everysec']),
    keepSeconds: choice.pick([0, 2]),
    databaseId: choice.pick([undefined, 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee']),
  });
  for (let lives = 0; lives < 6; lives += 1) {
    live(world, 2 + choice.below(25), randomFault(choice));
    restart(world, choice.pick(['nothing', 'everything', 'some', undefined]));
  }
  live(world, 1, undefined);
}

function randomFault(choice: Mulberry32): Fault | undefined {
  const atCall = 1 + choice.below(120);
  const calls: readonly DiskCall[] | undefined = choice.pick([
    undefined,
    ['sync'],
    ['write'],
    ['rename'],
    ['syncDirectory'],
  ]);
  return choice.pick<Fault | undefined>([
    { kind: 'crash', atCall },
    { kind: 'error', atCall, code: choice.pick(['ENOSPC', 'EIO', 'EROFS']), ...(calls !== undefined && { calls }) },
    undefined,
  ]);
}
