/** Taking a stream: what the directory keeps before and after, and when a directory must not go on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError, JournalError } from '#product/core/errors.js';
import type { Journal } from '#product/shard-worker/journal/journal.js';
import {
  createFileJournal,
  openFileJournal,
  type FileJournal,
} from '#product/shard-worker/journal/file/file-journal.js';
import { acceptCheckpoint } from '#product/shard-worker/journal/file/stream-files.js';
import type { ClaimInDatabase } from '#product/shard-worker/journal/ownership-claim.js';
import type {
  LockedStream,
  ShardDatabase,
  StreamRow,
  TakenRow,
  Taking,
} from '#product/shard-worker/thread/flush/shard-database.js';
import { StreamTaker } from '#product/shard-worker/thread/streams/stream-taker.js';
import { incrementRecord, journalOptions } from '../../../../support/journal-fixtures.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { SimulatedDisk } from '../../../../support/simulated-disk.js';

type Fate = 'commits' | 'conflict' | 'lost before the commit' | 'lost, not committed' | 'lost, committed';

const unavailable = new CounterError('database-unavailable', 'unavailable');

/** A journal of three records, and a database with one row at most. */
class Scene {
  readonly disk = new SimulatedDisk(new Mulberry32(1), ['/data']);
  readonly options = journalOptions('/data', { disk: this.disk });
  readonly journal: FileJournal;
  readonly taker: StreamTaker;
  row: StreamRow | undefined;
  claims: ClaimInDatabase[] = [];
  /** Of the next takings; afterwards they commit. */
  readonly fates: Fate[] = [];
  /** What is recorded by each taking, committed or not. */
  readonly takings: Taking[] = [];
  readonly events: string[] = [];
  /** Happens between the decision and the reply. */
  meanwhile: () => void = () => undefined;
  #epoch = 100;

  constructor(records = 3) {
    this.journal = createFileJournal(this.options);
    for (let n = 1; n <= records; n += 1) this.journal.append([incrementRecord(`k${n}`, n)]);
    // The members that a taking uses.
    const database = {
      time: 5000,
      take: (_: string, decide: (found: LockedStream) => Taking, committing: () => void) =>
        Promise.resolve().then(() => this.#take(decide, committing)),
    } as unknown as ShardDatabase;
    this.taker = new StreamTaker({
      database,
      log: (level) => this.events.push(level),
      noteTime: (time) => {
        this.events.push(`time ${time}, ${this.journal.ownership().mark}`);
      },
    });
  }

  /** Another process takes the row, at the end of its own journal. */
  takeElsewhere(lsn: number, id = 'other'): void {
    this.#epoch += 1;
    this.row = { epoch: this.#epoch, lsn: this.row?.lsn ?? 0, coveredFrom: 0, isOver: false };
    this.claims.push({ id, lsn, epoch: this.#epoch });
  }

  async refusal(journal: Journal = this.journal): Promise<JournalError> {
    const before = JSON.stringify([this.row, this.claims]);
    const error = await this.taker.take(journal).then(
      () => assert.fail('it was taken'),
      (reason: unknown) => reason,
    );
    assert.ok(error instanceof JournalError, String(error));
    assert.equal(JSON.stringify([this.row, this.claims]), before, 'the database is as it was');
    return error;
  }

  #take(decide: (found: LockedStream) => Taking, committing: () => void): TakenRow | undefined {
    const { row } = this;
    const before = { row, epoch: row?.epoch, lsn: row?.lsn ?? 0, claims: [...this.claims], isComplete: true };
    const taking = decide(before);
    this.takings.push(taking);
    const fate = this.fates.shift() ?? 'commits';
    if (fate === 'conflict') return undefined;
    if (fate === 'lost before the commit') throw unavailable;
    committing();
    if (fate === 'lost, not committed') throw unavailable;
    this.claims.push(...taking.claims.map((claim) => ({ ...claim, epoch: (this.#epoch += 1) })));
    this.row = { epoch: this.#epoch, lsn: row?.lsn ?? taking.lsn, coveredFrom: 0, isOver: false };
    this.meanwhile();
    if (fate === 'lost, committed') throw unavailable;
    return { row: this.row, before };
  }
}

test('a claim is in the directory before the database gets it, and is noted with its epoch after the reply', async () => {
  const scene = new Scene();
  const { journal } = scene;
  scene.meanwhile = () => {
    assert.deepEqual(
      journal.ownership().claims.map(({ epoch }) => epoch),
      [undefined],
    );
    assert.equal(journal.ownership().mark, 'unregistered');
  };
  const row = await scene.taker.take(journal);
  const [claim] = scene.claims;
  assert.deepEqual(scene.takings, [{ claims: [{ id: claim?.id, lsn: 3 }], lsn: 0 }]);
  assert.deepEqual(journal.ownership(), {
    mark: 'open',
    cover: undefined,
    claims: [{ id: claim?.id, lsn: 3, epoch: row.epoch }],
  });
  assert.deepEqual(scene.events, ['time 5000, unregistered'], 'the time is noted before the row counts as open');
});

test('the end of a claim is the end of the journal or the checkpoint, whichever is higher', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  assert.ok(scene.row !== undefined);
  scene.row = { ...scene.row, lsn: 10 };
  await scene.taker.take(scene.journal);
  assert.deepEqual([scene.takings.at(-1)?.claims[0]?.lsn, scene.journal.ownership().claims.at(-1)?.lsn], [10, 10]);
});

test('an id is used again as long as no commit was sent with it, and never after that', async () => {
  const scene = new Scene();
  scene.fates.push('lost before the commit', 'conflict', 'lost, not committed', 'lost, committed');
  const attempt = (): Promise<StreamRow> => scene.taker.take(scene.journal);
  await assert.rejects(attempt(), unavailable);
  // The second call begins again after the conflict.
  await assert.rejects(attempt(), unavailable);
  await assert.rejects(attempt(), unavailable);
  await attempt();
  const [first, second, third, fourth, fifth] = scene.takings.map(({ claims }) => claims.at(-1)?.id);
  assert.deepEqual([first, first], [second, third]);
  assert.equal(new Set([third, fourth, fifth]).size, 3);
  assert.deepEqual(
    scene.journal.ownership().claims.map(({ id, epoch }) => [id, epoch === undefined]),
    [
      [third, true],
      [fourth, true],
      [fifth, false],
    ],
  );
});

test('noted claims that the database took back are recorded again before the new one', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  const [claims, row] = [[...scene.claims], scene.row];
  await scene.taker.take(scene.journal);
  const lost = scene.claims.at(-1);
  // A failover to a state before the second taking.
  [scene.claims, scene.row] = [claims, row];
  await scene.taker.take(scene.journal);
  const recorded = scene.takings.at(-1)?.claims ?? [];
  assert.deepEqual([recorded.length, recorded[0]], [2, { id: lost?.id, lsn: 3, epoch: lost?.epoch }]);
  assert.deepEqual(
    scene.journal.ownership().claims.map(({ id }) => id),
    scene.claims.map(({ id }) => id),
  );
});

test('another process that stopped where this journal ends has caught nothing up; above that this one must not go on', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  scene.takeElsewhere(3);
  await scene.taker.take(scene.journal);
  assert.equal(scene.events.at(-1), 'warn', 'an older state of a stream that continued elsewhere');
  scene.takeElsewhere(2, 'third');
  const error = await scene.refusal();
  assert.equal(error.code, 'journal-copied');
  assert.match(error.message, /LSN 3 to 3 are here only: .*rebind .*--stream \S+ --above 2/);
});

test('records that were added during the taking above the claim of another are not taken over', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  scene.takeElsewhere(3);
  scene.meanwhile = () => {
    scene.journal.append([incrementRecord('late', 1)]);
  };
  await assert.rejects(scene.taker.take(scene.journal), { code: 'journal-copied' });
  const { claims } = scene.journal.ownership();
  assert.deepEqual(
    claims.map(({ epoch }) => epoch === undefined),
    [false, true],
    'the new claim is not noted',
  );
  scene.meanwhile = () => undefined;
  assert.equal((await scene.refusal()).code, 'journal-copied', 'neither does the next attempt hide it');
});

test('a row that was noted and is missing stops the start, with the choices, and says whether its claims are there', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  scene.row = undefined;
  const deleted = await scene.refusal();
  assert.equal(deleted.code, 'checkpoint-missing');
  assert.match(deleted.message, /still knows the stream, so the row was deleted, or/);
  assert.match(
    deleted.message,
    /LSN 1 to 3.*accept .*--above 0.* if nothing of it is counted, or .*accept .*--above LSN/,
  );
  scene.claims = [];
  const gone = await scene.refusal();
  assert.match(gone.message, /the database is in an earlier state .*, or both were deleted/);
});

test('what an operator accepts makes the row once, at that LSN', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  scene.row = undefined;
  acceptCheckpoint(scene.disk, `${scene.options.directory}/${scene.journal.stream}`, 2, 0);
  assert.equal((await scene.taker.take(scene.journal)).lsn, 2);
  assert.deepEqual(
    scene.takings.at(-1)?.claims.map(({ lsn }) => lsn),
    [3],
  );
  scene.row = undefined;
  assert.equal((await scene.refusal()).code, 'checkpoint-missing');
});

test('a journal that begins above LSN 1 had a row, whatever its directory keeps; one that was never noted had none', async () => {
  const scene = new Scene();
  const { journal, options } = scene;
  journal.close();
  const pruned = openFileJournal({ ...options, stream: journal.stream });
  pruned.recover(3);
  pruned.close();
  const next = openFileJournal({ ...options, stream: journal.stream });
  assert.equal(next.firstLsn, 4);
  const error = await scene.refusal(next);
  assert.equal(error.code, 'checkpoint-missing');
  assert.doesNotMatch(error.message, /--above 0/);
  acceptCheckpoint(scene.disk, `${options.directory}/${journal.stream}`, 2, 0);
  assert.equal((await scene.refusal(next)).code, 'checkpoint-missing', 'below the first record');
  acceptCheckpoint(scene.disk, `${options.directory}/${journal.stream}`, 3, 0);
  assert.equal((await scene.taker.take(next)).lsn, 3);
});

test('claims that were removed leave it unknown who owned the stream, unless this journal holds nothing', async () => {
  const scene = new Scene();
  await scene.taker.take(scene.journal);
  scene.claims = [];
  scene.row = { epoch: 999, lsn: 4, coveredFrom: 0, isOver: false };
  const error = await scene.refusal();
  assert.equal(error.code, 'journal-copied');
  assert.match(error.message, /no longer shows who has owned/);
  const empty = new Scene(0);
  await empty.taker.take(empty.journal);
  empty.claims = [];
  empty.row = { epoch: 999, lsn: 4, coveredFrom: 0, isOver: false };
  assert.equal((await empty.taker.take(empty.journal)).lsn, 4);
});
