/**
 * Records that are missing in the log, as whoever flushes it sees them: because somebody deleted them, or because another thread
 * has taken the stream, flushed them and removed them while this one slept. Only the first is an error.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { GroupEncoder } from '#product/shard-worker/journal/postgres/postgres-records.js';
import type { ControlMessage } from '#product/shard-worker/protocol/control-messages.js';
import { connectTo } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { incrementRecord } from '../support/journal-fixtures.js';
import { createLogDatabase, makeSharedShard, openLog, type ShardLine } from '../support/shared-shard.js';

/** A later look than many reads. */
const INTERVALS = { roundMs: 500, readMs: 10 };

/** Runs statements in one transaction while a shard flushes a stream up to LSN 1; then `after` waits. */
async function withGap(
  statements: string,
  after: (state: { readonly lines: readonly ShardLine[]; readonly isHeld: () => boolean }) => Promise<void>,
): Promise<void> {
  const database = await createLogDatabase();
  const connection = await connectTo(database.url);
  const [writer, rollUp] = [openLog(database.url, false), openLog(database.url, true)];
  const lines: ShardLine[] = [];
  const messages: ControlMessage[] = [];
  const shard = makeSharedShard('roll-up', rollUp, INTERVALS, lines, messages);
  const isHeld = (): boolean => {
    const last = messages.findLast(({ kind }) => kind === 'streams');
    return last?.kind === 'streams' && last.streams.length > 0;
  };
  try {
    const { stream, time } = await writer.incrementLog.begin(randomUUID());
    const appendEpoch = writer.incrementLog.appendEpochOf(stream);
    const append = async (lsn: number): Promise<void> => {
      const group = new GroupEncoder().encode([incrementRecord('key', 1)]);
      const { kind } = await writer.incrementLog.append(stream, appendEpoch, time, lsn, group);
      assert.equal(kind, 'appended');
    };
    await append(1);
    await shard.start();
    const text = 'select lsn::int as lsn from journal_checkpoints where stream = $1';
    await eventually('the flush of the first record', async () => {
      const [row] = await connection.query<{ lsn: number }>({ text, values: [stream] });
      return row?.lsn === 1;
    });
    assert.ok(isHeld());
    await connection.query({ text: `begin; ${statements.replaceAll('$1', `'${stream}'`)}; commit` });
    await after({ lines, isHeld });
  } finally {
    await shard.drain();
    await writer.incrementLog.close();
    await writer.database.close();
    await connection.close();
    await database.drop();
  }
}

/** A record 3 without a record 2. */
const GAP = `insert into increment_log (stream, lsn, accepted_at, accepted_after, keys, amounts)
             values ($1, 3, now(), now(), '{key}', '{1}')`;
const OTHER = randomUUID();
const TAKEN = `insert into journal_heartbeats (id, flushes) values ('${OTHER}', true);
               update journal_checkpoints set epoch = nextval('journal_epochs'), lsn = 2, owner = '${OTHER}' where stream = $1`;

test('a gap in the log is an error that is said once', async () => {
  await withGap(GAP, async ({ lines, isHeld }) => {
    const errors = (): readonly ShardLine[] => lines.filter(({ level }) => level === 'error');
    await eventually('the error', () => Promise.resolve(errors().length > 0));
    assert.match(errors()[0]?.message ?? '', /lacks records in increment_log/);
    assert.equal(errors().length, 1);
    assert.ok(isHeld());
  });
});

test('a gap in the log of a stream that another thread has taken is no error', async () => {
  await withGap(`${TAKEN}; ${GAP}`, async ({ lines, isHeld }) => {
    await eventually('the loss of the stream', () => Promise.resolve(!isHeld()));
    assert.deepEqual(
      lines.filter(({ level }) => level === 'error'),
      [],
    );
  });
});
