import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PurgeSchedule } from '#product/shard-worker/journal/nats/purge-schedule.js';

const KEEP_MS = 100;
/** More messages than a schedule keeps in mind. */
const LAST_LSN = 5000;

/** Messages with the records up to 2, 4 and 6, and a commit up to 5 at the time 0. */
function committed(): PurgeSchedule {
  const schedule = new PurgeSchedule(KEEP_MS);
  for (const lsn of [2, 4, 6]) schedule.noteMessage(lsn, 10 * lsn);
  schedule.noteCommitted({ epoch: 7, lsn: 5 }, 0);
  return schedule;
}

test('a message goes when all its records have been committed for long enough', () => {
  const schedule = committed();
  assert.equal(schedule.takeDue(KEEP_MS - 1, { epoch: 7, lsn: 5 }), undefined);
  assert.deepEqual(schedule.takeDue(KEEP_MS, { epoch: 7, lsn: 6 }), { sequence: 40, lsn: 4 });
  assert.equal(schedule.takeDue(KEEP_MS, { epoch: 7, lsn: 6 }), undefined);
});

for (const [name, found] of [
  ['below it', { epoch: 7, lsn: 4 }],
  ['under another epoch', { epoch: 8, lsn: 6 }],
  ['nowhere', undefined],
] as const) {
  test(`nothing goes behind a commit that a later look at the checkpoint finds ${name}`, () => {
    const schedule = committed();
    assert.equal(schedule.takeDue(KEEP_MS, found), undefined);
    assert.equal(schedule.takeDue(2 * KEEP_MS, { epoch: 7, lsn: 6 }), undefined);
  });
}

test('commits that are not due yet are looked at again when they are', () => {
  const schedule = committed();
  schedule.noteCommitted({ epoch: 7, lsn: 6 }, 50);
  assert.deepEqual(schedule.takeDue(KEEP_MS, { epoch: 7, lsn: 6 }), { sequence: 40, lsn: 4 });
  assert.equal(schedule.isEmpty, false);
  assert.deepEqual(schedule.takeDue(KEEP_MS + 50, { epoch: 7, lsn: 6 }), { sequence: 60, lsn: 6 });
  assert.equal(schedule.isEmpty, true);
});

test('a message that is read again, or is below what was read, changes nothing', () => {
  const schedule = new PurgeSchedule(0);
  schedule.noteMessage(4, 40);
  schedule.noteMessage(4, 50);
  schedule.noteMessage(6, 30);
  schedule.noteCommitted({ epoch: 7, lsn: 6 }, 0);
  assert.deepEqual(schedule.takeDue(0, { epoch: 7, lsn: 6 }), { sequence: 40, lsn: 4 });
});

test('of many messages not every one is kept in mind, and all go behind the last', () => {
  const schedule = new PurgeSchedule(0);
  for (let lsn = 1; lsn <= LAST_LSN; lsn += 1) schedule.noteMessage(lsn, 10 * lsn);
  schedule.noteCommitted({ epoch: 7, lsn: LAST_LSN }, 0);
  const last = { sequence: 10 * LAST_LSN, lsn: LAST_LSN };
  assert.deepEqual(schedule.takeDue(0, { epoch: 7, lsn: LAST_LSN }), last);
});
