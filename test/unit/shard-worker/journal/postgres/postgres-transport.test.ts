import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { CounterError, JournalError } from '#product/core/errors.js';
import {
  postgresWriter,
  type AppendLog,
  type LogOutcome,
} from '#product/shard-worker/journal/postgres/postgres-transport.js';
import type { SharedStreamWriter } from '#product/shard-worker/journal/shared/shared-stream-writer.js';
import type { EncodedGroup } from '#product/shard-worker/journal/postgres/postgres-records.js';
import { incrementRecord } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const LOST: LogOutcome = { kind: 'unknown', error: new Error('the connection was lost') };
const REFUSED: LogOutcome = { kind: 'refused', error: new Error('not now') };

/** A log that answers as it is told, and notes what was sent to it. */
class ScriptedLog {
  readonly clock = new ManualClock();
  readonly outcomes: LogOutcome[] = [];
  readonly sent: { readonly firstLsn: number; readonly time: number; readonly values: readonly unknown[] }[] = [];
  last: number | undefined | 'unavailable' = 0;
  unavailable = 0;
  readonly writer: SharedStreamWriter;

  constructor() {
    const begun = { stream: 'stream', lsn: 0, appendEpoch: '9' };
    const log: AppendLog = {
      append: (_, __, time, firstLsn, group: EncodedGroup) => {
        this.sent.push({ firstLsn, time, values: group.values });
        return Promise.resolve(this.outcomes.shift() ?? { kind: 'appended' });
      },
      lastLsn: () =>
        this.last === 'unavailable'
          ? Promise.reject(new CounterError('database-unavailable', 'gone'))
          : Promise.resolve(this.last),
      advanceAcceptedThrough: () => Promise.resolve(true),
    };
    this.writer = postgresWriter(begun, log, {
      clock: this.clock,
      doubtMaxMs: 4000,
      unavailable: () => (this.unavailable += 1),
    });
  }

  /** Appends two records, while time passes. Resolves to the last LSN, or to the code of the error. */
  async append(time = 5): Promise<number | string> {
    let settled: number | string | undefined;
    const appending = this.writer.append([incrementRecord('a', 1), incrementRecord('b', 2)], time).then(
      (lsn) => (settled = lsn),
      (error: unknown) => {
        assert.ok(error instanceof JournalError);
        settled = `${error.code}${error.nothingKept ? ', nothing kept' : ''}`;
      },
    );
    while (settled === undefined) {
      await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(25);
    }
    await appending;
    return settled;
  }
}

let log: ScriptedLog;
describe('the writer of a stream in PostgreSQL', () => {
  beforeEach(() => {
    log = new ScriptedLog();
  });

  test('groups get LSNs without gaps', async () => {
    assert.equal(await log.append(), 2);
    assert.equal(await log.append(), 4);
    assert.deepEqual(
      log.sent.map(({ firstLsn }) => firstLsn),
      [1, 3],
    );
  });

  test('after a lost reply the same group is sent again, and a group that is present then is that group', async () => {
    log.outcomes.push(LOST, { kind: 'present' });
    assert.equal(await log.append(5), 2);
    const [first, second] = log.sent;
    assert.deepEqual(second, first);
    assert.equal(log.unavailable, 1);
    assert.equal(await log.append(), 4);
  });

  test('a refusal is final for a group sent for the first time, and a group in doubt is sent again', async () => {
    log.outcomes.push(REFUSED);
    assert.equal(await log.append(), 'journal-unavailable, nothing kept');
    log.outcomes.push(LOST, REFUSED, { kind: 'appended' });
    assert.equal(await log.append(), 2);
  });

  test('a record that is present before the first attempt means that another owner has the stream', async () => {
    log.outcomes.push({ kind: 'present' });
    assert.equal(await log.append(), 'journal-fenced, nothing kept');
    assert.equal(log.writer.isOver, true);
    assert.equal(await log.append(), 'journal-fenced, nothing kept');
    assert.equal(log.sent.length, 1);
  });

  test('a group that is fenced at its first attempt is not in the journal, whatever the last LSN is', async () => {
    log.last = 100;
    log.outcomes.push({ kind: 'fenced' });
    assert.equal(await log.append(), 'journal-fenced, nothing kept');
  });

  test('the last LSN decides whether a fenced group in doubt is in the journal', async () => {
    log.last = 2;
    log.outcomes.push(LOST, { kind: 'fenced' });
    assert.equal(await log.append(), 2);
    assert.equal(log.writer.isOver, true);
    log = new ScriptedLog();
    log.last = 0;
    log.outcomes.push(LOST, { kind: 'fenced' });
    assert.equal(await log.append(), 'journal-fenced, nothing kept');
  });

  test('the outcome of a fenced group in doubt is unknown when the stream has no last LSN', async () => {
    log.last = undefined;
    log.outcomes.push(LOST, { kind: 'fenced' });
    assert.equal(await log.append(), 'journal-failed');
  });

  test('a group that is in doubt for too long ends the stream with an unknown outcome', async () => {
    for (let attempt = 0; attempt < 100; attempt += 1) log.outcomes.push(LOST);
    const before = log.clock.monotonic();
    assert.equal(await log.append(), 'journal-failed');
    assert.ok(log.clock.monotonic() - before <= 4500);
    assert.equal(log.writer.isOver, true);
    log = new ScriptedLog();
    log.last = 'unavailable';
    log.outcomes.push(LOST, { kind: 'fenced' });
    assert.equal(await log.append(), 'journal-failed');
  });

  test('a gap before the group reveals which records a failover lost', async () => {
    assert.equal(await log.append(), 2);
    log.clock.advance(1000);
    assert.equal(await log.append(), 4);
    log.last = 2;
    log.outcomes.push({ kind: 'gap' });
    assert.equal(await log.append(), 'journal-fenced, nothing kept');
    assert.equal(log.writer.lostAfterLsn, 2);
    assert.deepEqual(log.writer.incrementsAfter(2), { pending: 2, flushed: 0 });
  });

  test('a group in doubt after records that a failover lost has an unknown outcome', async () => {
    assert.equal(await log.append(), 2);
    log.outcomes.push(LOST, { kind: 'gap' });
    log.last = 1;
    assert.equal(await log.append(), 'journal-failed');
    assert.equal(log.writer.lostAfterLsn, 1);
  });

  test('the backlog is the records above the checkpoint, with the time of the oldest one', async () => {
    assert.equal(log.writer.bytes, 0);
    assert.equal(log.writer.oldestAcceptedAtMs, Number.POSITIVE_INFINITY);
    await log.append();
    const one = log.writer.bytes;
    assert.ok(one > 0);
    log.clock.advance(1000);
    await log.append();
    assert.equal(log.writer.bytes, 2 * one);
    assert.equal(log.writer.oldestAcceptedAtMs, 1000);
    const { pending } = log.writer.incrementsAfter(0);
    assert.ok(pending > 0);
    log.writer.noteCheckpoint(2);
    assert.equal(log.writer.bytes, one);
    // A failover may take back what was flushed.
    assert.deepEqual(log.writer.incrementsAfter(0), { pending: pending / 2, flushed: pending / 2 });
    assert.deepEqual(log.writer.incrementsAfter(2), { pending: pending / 2, flushed: 0 });
    log.writer.noteCheckpoint(4);
    assert.equal(log.writer.bytes, 0);
  });

  test('an idle stream needs no record, and its end is none', async () => {
    assert.equal(log.writer.isBeatDue(false), false);
    assert.equal(await log.writer.close(), true);
    assert.deepEqual([log.writer.isOver, log.sent.length], [true, 0]);
  });
});
