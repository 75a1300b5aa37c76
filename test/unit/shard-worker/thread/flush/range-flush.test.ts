/** What the attempts to commit a range come to. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Checkpoint } from '#product/core/checkpoint.js';
import { CounterError } from '#product/core/errors.js';
import { flushOfCommitted, RangeFlush } from '#product/shard-worker/thread/flush/range-flush.js';
import type { FlushAttempt, StreamRow } from '#product/shard-worker/thread/flush/shard-database.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { idempotentEntry, incrementEntries } from '../../../../support/record-entries.js';

const EPOCH = 3;
const COVERED_FROM = 1000;
const NONE = { requests: 0, increments: 0 };
const lost: FlushAttempt = { kind: 'unknown', error: new Error('lost') };
const poison: FlushAttempt = { kind: 'poison', error: new Error('poison') };
const suspect: FlushAttempt = { kind: 'refused', error: new Error('P0001'), mayBePoison: true };
const timeout: FlushAttempt = { kind: 'refused', error: new Error('57014'), mayBePoison: false };
const committed: FlushAttempt = { kind: 'committed', keys: 2 };
const unavailable = new CounterError('database-unavailable', 'unavailable');

/** A range of LSN 11, with one plain increment and two idempotent requests, and a database that answers as scripted. */
class Scene {
  readonly range: FrozenRange;
  readonly flush: RangeFlush;
  readonly calls: string[] = [];
  readonly attempts: FlushAttempt[] = [];
  readonly rows: (Checkpoint | undefined | Error)[] = [];

  constructor(options: { readonly withUncovered?: boolean } = {}) {
    const pendingSums = new PendingSums('stream', { epoch: EPOCH, lsn: 10, coveredFrom: COVERED_FROM });
    const record = Buffer.concat([
      incrementEntries([['a', 1]]),
      idempotentEntry('first', [
        ['a', 1],
        ['b', 2],
      ]),
      idempotentEntry('second', [['b', 3]]),
    ]);
    pendingSums.apply(11, record, 0, record.length, COVERED_FROM);
    const old = idempotentEntry('old', [
      ['a', 1],
      ['b', 2],
    ]);
    if (options.withUncovered === true) pendingSums.apply(12, old, 0, old.length, COVERED_FROM - 1);
    this.range = pendingSums.freeze();
    const database = {
      flush: () => this.#attempt('flush'),
      flushSettingAside: () => this.#attempt('set aside'),
      readBack: (): Promise<StreamRow | undefined> => {
        this.calls.push('read back');
        const row = this.rows.shift();
        if (row instanceof Error) return Promise.reject(row);
        return Promise.resolve(row === undefined ? undefined : { ...row, coveredFrom: 0, isOver: false });
      },
    };
    this.flush = new RangeFlush(database, this.range);
  }

  #attempt(call: string): Promise<FlushAttempt> {
    this.calls.push(call);
    return Promise.resolve(this.attempts.shift() ?? committed);
  }
}

test('a committed range counts duplicates apart from recorded idempotency keys', async () => {
  const scene = new Scene();
  scene.attempts.push({ kind: 'committed', keys: 2, rejected: 0, duplicates: ['first'], mismatches: 1 });
  assert.deepEqual(await scene.flush.attempt(), {
    kind: 'committed',
    flush: { keys: 2, increments: 4, rejected: 0, uncovered: NONE, deduplicated: 2, recorded: 1, mismatches: 1 },
  });
});

test('requests that are set aside count apart, and their idempotency keys are not recorded', async () => {
  const scene = new Scene({ withUncovered: true });
  const uncovered = { requests: 1, increments: 2 };
  const flush = { keys: 2, increments: 6, rejected: 0, uncovered, deduplicated: 0, recorded: 2, mismatches: 0 };
  assert.deepEqual(await scene.flush.attempt(), { kind: 'committed', flush });
  // Also where only the row says that it is committed; then it is not known what were duplicates.
  assert.deepEqual(flushOfCommitted(scene.range), { ...flush, keys: 1 });
});

for (const [what, row, kind] of [
  ['at the end of the range: it is committed', { epoch: EPOCH, lsn: 11 }, 'committed'],
  ['at the start of the range: it can be sent again', { epoch: EPOCH, lsn: 10 }, 'refused'],
  ['at another LSN: the stream is fenced', { epoch: EPOCH, lsn: 9 }, 'fenced'],
  ['at another epoch: the stream is fenced', { epoch: EPOCH + 1, lsn: 11 }, 'fenced'],
  ['gone: the stream is fenced', undefined, 'fenced'],
] as const) {
  test(`after a lost reply the row is ${what}`, async () => {
    const scene = new Scene();
    scene.attempts.push(lost);
    scene.rows.push(row);
    assert.equal((await scene.flush.attempt()).kind, kind);
    assert.deepEqual(scene.calls, ['flush', 'read back']);
  });
}

test('after a lost reply of a flush that set rows aside, they count as rejected where the row says that it is committed', async () => {
  const scene = new Scene();
  const setAside = { rejected: 1, rejectedKeys: { keys: 1, key: 'a', sqlState: '23514', reason: 'refused' } };
  scene.attempts.push(poison, { ...lost, setAside });
  scene.rows.push(unavailable, { epoch: EPOCH, lsn: 11 });
  assert.equal((await scene.flush.attempt()).kind, 'unknown');
  const outcome = await scene.flush.attempt();
  assert.ok(outcome.kind === 'committed');
  assert.equal(outcome.flush.rejected, 1);
  assert.deepEqual(outcome.flush.rejectedKeys, setAside.rejectedKeys);
});

test('after a lost reply the range is not sent again before the row was read', async () => {
  const scene = new Scene();
  scene.attempts.push(lost);
  scene.rows.push(unavailable, unavailable, { epoch: EPOCH, lsn: 10 });
  assert.deepEqual(await scene.flush.attempt(), { kind: 'unknown', error: unavailable });
  assert.deepEqual(await scene.flush.attempt(), { kind: 'unknown', error: unavailable });
  assert.equal((await scene.flush.attempt()).kind, 'refused');
  assert.equal((await scene.flush.attempt()).kind, 'committed');
  assert.deepEqual(scene.calls, ['flush', 'read back', 'read back', 'read back', 'flush']);
});

test('a range with a poison row is sent at once with poison rows set aside, and so is every retry', async () => {
  const scene = new Scene();
  scene.attempts.push(poison, poison, lost);
  scene.rows.push({ epoch: EPOCH, lsn: 10 });
  assert.deepEqual(await scene.flush.attempt(), poison);
  assert.equal((await scene.flush.attempt()).kind, 'refused');
  assert.equal((await scene.flush.attempt()).kind, 'committed');
  assert.deepEqual(scene.calls, ['flush', 'set aside', 'set aside', 'read back', 'set aside']);
});

test('an error that a row may have caused is searched after three refusals of the range, a timeout never', async () => {
  const scene = new Scene();
  scene.attempts.push(timeout, suspect, timeout, suspect, timeout, suspect);
  for (let attempt = 0; attempt < 5; attempt += 1) assert.equal((await scene.flush.attempt()).kind, 'refused');
  assert.deepEqual(new Set(scene.calls), new Set(['flush']));
  assert.equal((await scene.flush.attempt()).kind, 'committed');
  assert.deepEqual(scene.calls.slice(5), ['flush', 'set aside']);
});

test('a search that does not help is repeated ever more rarely, and the range is sent as a whole between', async () => {
  const scene = new Scene();
  scene.attempts.push(...Array<FlushAttempt>(40).fill(suspect));
  for (let attempt = 0; attempt < 24; attempt += 1) assert.equal((await scene.flush.attempt()).kind, 'refused');
  const searches = scene.calls.flatMap((call, index) => (call === 'set aside' ? [index] : []));
  assert.deepEqual(searches, [3, 7, 14, 27]);
});

test('however long a refusal lasts, the rows are searched within 48 refusals after it', async () => {
  const scene = new Scene();
  scene.attempts.push(...Array<FlushAttempt>(5_000).fill(suspect));
  while (scene.attempts.length > 100) await scene.flush.attempt();
  scene.calls.length = 0;
  for (let attempt = 0; attempt < 48; attempt += 1) await scene.flush.attempt();
  assert.equal(scene.calls.filter((call) => call === 'set aside').length, 1);
});
