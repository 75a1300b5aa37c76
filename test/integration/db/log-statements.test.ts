import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach, describe, test } from 'node:test';
import { systemClock } from '#product/core/clock.js';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { PRUNE_LOG, PRUNE_LOG_TOMBSTONES } from '#product/db/log-statements.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresJournal } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import type { BegunStream } from '#product/shard-worker/journal/stream-log.js';
import { GroupEncoder } from '#product/shard-worker/journal/postgres/postgres-records.js';
import { RECORD_HEADER_BYTES, RECORD_OFFSET, writeUint64 } from '#product/shard-worker/protocol/record-layout.js';
import { incrementRecord } from '../../support/journal-fixtures.js';
import { SuiteDatabase } from '../../support/migrated-database.js';
import { own } from '../../support/own.js';
import { idempotentEntry, incrementEntries } from '../../support/record-entries.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

describe('The increment log in PostgreSQL', () => {
  const database = new SuiteDatabase();

  const connections: ShardConnection[] = [];

  afterEach(async () => {
    for (const connection of connections.splice(0)) await connection.close();
  });

  function logOf(url = database.url): PostgresJournal {
    const open = (): ShardConnection => {
      const connection = new ShardConnection(parseDatabaseUrl(url), { applicationName: 'log' });
      connections.push(connection);
      return connection;
    };
    return new PostgresJournal({
      ...{ statements: open(), flushes: open(), flushTurns: new Turns() },
      owner: { node: randomUUID(), shard: 0, flusher: randomUUID() },
    });
  }

  /** A record of entries, as group commit gets it. */
  function recordOf(entries: Buffer, acceptedAt: number): Uint8Array {
    const record = new Uint8Array(RECORD_HEADER_BYTES + entries.length);
    record.set(entries, RECORD_HEADER_BYTES);
    writeUint64(new DataView(record.buffer), RECORD_OFFSET.acceptedAt, acceptedAt);
    return record;
  }

  async function appendTo(log: PostgresJournal, { stream }: BegunStream, lsn: number, key: string) {
    const group = new GroupEncoder().encode([incrementRecord(key, 1)]);
    return (await log.append(stream, log.appendEpochOf(stream), 1_700_000_000, lsn, group)).kind;
  }

  async function checkpointTo(stream: string, lsn: number): Promise<void> {
    await database.query('update journal_checkpoints set lsn = $2 where stream = $1', stream, lsn);
  }

  test('only a stream that this thread has begun or adopted can be written', () => {
    const begun = { stream: randomUUID(), lsn: 0, epoch: 1, coveredFrom: 0, time: 0, isRegistered: true };
    const deps = { clock: systemClock, doubtMaxMs: 1000, unavailable: () => undefined };
    assert.throws(() => logOf().makeWriter(begun, deps), TypeError);
  });

  test('an append writes the next record, does not write a present record again, and refuses a gap', async () => {
    const log = logOf();
    const begun = await log.begin(randomUUID());
    assert.equal(await appendTo(log, begun, 1, 'a'), 'appended');
    assert.equal(await appendTo(log, begun, 2, 'b'), 'appended');
    assert.equal(await appendTo(log, begun, 2, 'c'), 'present');
    assert.equal(await appendTo(log, begun, 4, 'd'), 'gap');
    assert.equal(await log.lastLsn(begun.stream), 2);
    const records = (await log.read([{ stream: begun.stream, lsn: 1 }], 10)).get(begun.stream) ?? [];
    assert.deepEqual(
      records.map(({ lsn, databaseTime }) => [lsn, databaseTime]),
      [[2, 1_700_000_000]],
    );
  });

  test('a record that is found is in doubt until a later commit, which waits for a synchronous standby, is answered', async (t) => {
    const proxy = own(t, await TcpProxy.start(database.url));
    const log = logOf(proxy.urlOf(database.url));
    const begun = await log.begin(randomUUID());
    assert.equal(await appendTo(log, begun, 1, 'a'), 'appended');
    proxy.setRule((bytes) => (bytes.includes('pg_logical_emit_message') ? 'lose-answer' : 'forward'));
    assert.equal(await appendTo(log, begun, 1, 'a'), 'unknown');
    proxy.setRule();
    assert.equal(await appendTo(log, begun, 1, 'a'), 'present');
  });

  test('records are read as they were appended', async () => {
    const log = logOf();
    const { stream } = await log.begin(randomUUID());
    const appendEpoch = log.appendEpochOf(stream);
    const safe = Number.MAX_SAFE_INTEGER;
    const keys = ['a', '"{,}\\', 'NULL', ' ', '__proto__', '\u{1f600}'.repeat(100), 'k'.repeat(2048), '\t\n'];
    const amounts = [0, 1, -1, 9999, 10_000, -123_456_789, safe, -safe];
    const plain = incrementEntries(keys.map((key, index) => [key, amounts[index] ?? 0]));
    const idempotent = Buffer.concat([
      idempotentEntry(
        'first',
        [
          ['x', 1],
          ['y', -2],
          ['x', 3],
        ],
        1,
      ),
      idempotentEntry('"second",{}', [['z', safe]], 2),
    ]);
    const groups = [[plain], [idempotent, plain], [plain, idempotent, idempotent]];
    let lsn = 0;
    for (const entries of groups) {
      const records = entries.map((bytes, index) => recordOf(bytes, 1_700_000_000_123 + index));
      const outcome = await log.append(stream, appendEpoch, 1_700_000_100, lsn + 1, new GroupEncoder().encode(records));
      assert.equal(outcome.kind, 'appended');
      lsn += records.length;
    }
    const found = (await log.read([{ stream, lsn: 0 }], 100)).get(stream) ?? [];
    assert.deepEqual(
      found.map(({ lsn: at, acceptedAt, databaseTime }) => [at, acceptedAt, databaseTime]),
      [0, 0, 1, 0, 1, 2].map((index, at) => [at + 1, 1_700_000_000_123 + index, 1_700_000_100]),
    );
    for (const [index, expected] of groups.flat().entries())
      assert.deepEqual(Buffer.from(found[index]?.entries ?? []), expected, `record ${index + 1}`);
  });

  test('an append succeeds after the last record was flushed and removed', async () => {
    const log = logOf();
    const begun = await log.begin(randomUUID());
    assert.equal(await appendTo(log, begun, 1, 'a'), 'appended');
    await checkpointTo(begun.stream, 1);
    await database.query('delete from increment_log where stream = $1', begun.stream);
    assert.equal(await log.lastLsn(begun.stream), 1);
    assert.equal(await appendTo(log, begun, 2, 'b'), 'appended');
  });

  test('an adoption fences the owner of a stream, and reads what the owner had appended', async () => {
    const [writer, adopter] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    assert.equal(await appendTo(writer, begun, 1, 'a'), 'appended');
    const taken = await adopter.take(begun.stream, begun.epoch, true);
    assert.ok(taken !== undefined && taken.epoch !== begun.epoch && taken.isAdopted);
    assert.equal(await appendTo(writer, begun, 2, 'b'), 'fenced');
    const found = await adopter.read([{ stream: begun.stream, lsn: 0 }], 10);
    assert.equal(found.get(begun.stream)?.length, 1);
    assert.equal(await writer.take(begun.stream, begun.epoch, true), undefined, 'it was taken meanwhile');
  });

  test('a roll-up that takes a stream does not fence its writer, and cannot retire the stream', async () => {
    const [writer, rollUp] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    const taken = await rollUp.take(begun.stream, begun.epoch, false);
    assert.equal(taken?.isAdopted, false);
    assert.equal(await appendTo(writer, begun, 1, 'a'), 'appended');
    await checkpointTo(begun.stream, 1);
    const at = { epoch: taken.epoch, lsn: 1 };
    assert.equal(await rollUp.retire(begun.stream, at), false);
    assert.equal(await rollUp.retireUnder('0', begun.stream, at), false);
  });

  test('a stream is retired only under both epochs and at the end of its log', async () => {
    const [writer, adopter] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    assert.equal(await appendTo(writer, begun, 1, 'a'), 'appended');
    const taken = await adopter.take(begun.stream, begun.epoch, true);
    const epoch = taken?.epoch ?? 0;
    assert.equal(await adopter.retire(begun.stream, { epoch, lsn: 0 }), false, 'the log goes on');
    await checkpointTo(begun.stream, 1);
    assert.equal(
      await adopter.retireUnder(writer.appendEpochOf(begun.stream), begun.stream, { epoch, lsn: 1 }),
      false,
      'another append epoch',
    );
    assert.equal(await adopter.retire(begun.stream, { epoch, lsn: 1 }), true);
    assert.equal(await adopter.retire(begun.stream, { epoch, lsn: 1 }), true, 'its reply may have been lost');
    assert.equal(
      (await adopter.survey()).streams.some(({ stream }) => stream === begun.stream),
      false,
    );
    assert.equal(await writer.ask(begun.stream), undefined);
  });

  test('an adoption waits for an append that is under way', async (context) => {
    const [writer, adopter] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    const holder = await database.connect(context, 'holder');
    await holder.query({ text: 'begin' });
    await holder.query({ text: 'select 1 from journal_streams where stream = $1 for share', values: [begun.stream] });
    let isTaken = false;
    const taking = adopter.take(begun.stream, begun.epoch, true).then((taken) => {
      isTaken = taken !== undefined;
    });
    await database.waitsForLock('log');
    assert.equal(isTaken, false);
    await holder.query({ text: 'commit' });
    await taking;
    assert.equal(isTaken, true);
  });

  test("accepted_through of an idle stream follows the writer's heartbeat, but not while records are unflushed", async () => {
    const [writer, rollUp] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    const taken = await rollUp.take(begun.stream, begun.epoch, false);
    const at = { epoch: taken?.epoch ?? 0, lsn: 0 };
    const through = async (): Promise<number> => {
      const text =
        'select extract(epoch from accepted_through)::float8 as at from journal_checkpoints where stream = $1';
      const [row] = await database.query<{ at: number }>(text, begun.stream);
      return row?.at ?? Number.NaN;
    };
    const first = await through();
    assert.equal(await rollUp.touch(begun.stream, at), true);
    assert.equal(await through(), first, 'no word was given');
    const word = begun.time;
    await writer.advanceAcceptedThrough(begun.stream, writer.appendEpochOf(begun.stream), word);
    assert.equal(await appendTo(writer, begun, 1, 'a'), 'appended');
    assert.equal(await rollUp.touch(begun.stream, at), true);
    assert.equal(await through(), first, 'a record is not flushed');
    await checkpointTo(begun.stream, 1);
    assert.equal(await rollUp.touch(begun.stream, { ...at, lsn: 1 }), true);
    assert.equal(await through(), Math.max(first, word));
    assert.equal(await rollUp.touch(begun.stream, { ...at, lsn: 0 }), false);
  });

  test('a survey reports owners without a heartbeat, and streams without an owner', async () => {
    const [writer, other] = [logOf(), logOf()];
    const begun = await writer.begin(randomUUID());
    const look = async () => (await other.survey()).streams.find(({ stream }) => stream === begun.stream);
    await writer.sendHeartbeats([begun.stream]);
    const first = await look();
    assert.deepEqual([first?.isOwned, first?.isWritten, first?.isSelfFlushed], [true, true, true]);
    await database.query("update journal_heartbeats set alive_at = now() - interval '7 seconds'");
    const silent = await look();
    assert.deepEqual([silent?.isOwned, silent?.isWritten, silent?.isSelfFlushed], [false, false, true]);
    await writer.sendHeartbeats([begun.stream]);
    const alive = await look();
    assert.deepEqual([alive?.isOwned, alive?.isWritten], [true, true]);
    assert.equal(await writer.release(begun.stream, begun), true);
    assert.equal((await look())?.owner, undefined);
  });

  test('a survey counts flushers of its own journal and store, and those of earlier versions', async () => {
    const [log, other] = [logOf(), logOf()];
    await other.begin(randomUUID());
    const flushers = async (): Promise<number> => (await log.survey()).flushers;
    const others = await flushers();
    await log.sendHeartbeats([]);
    assert.equal(await flushers(), others + 1);
    const add = (journal: string | null, store: string | null): Promise<unknown> =>
      database.query(
        'insert into journal_heartbeats (id, flushes, journal, store) values ($1, true, $2, $3)',
        ...[randomUUID(), journal, store],
      );
    await add('nats', randomUUID());
    await add('nats', null);
    assert.equal(await flushers(), others + 1, 'they take streams of another journal');
    await add(null, null);
    assert.equal(await flushers(), others + 2);
  });

  test('pruning removes committed records after their time, oldest first, and ended streams after the window', async () => {
    const log = logOf();
    const begun = await log.begin(randomUUID());
    for (let lsn = 1; lsn <= 3; lsn += 1) assert.equal(await appendTo(log, begun, lsn, 'a'), 'appended');
    await checkpointTo(begun.stream, 2);
    const prune = async (keepSeconds: number): Promise<number | undefined> => {
      const [row] = await database.query<{ pruned: number }>(PRUNE_LOG, keepSeconds, 100, 100);
      return row?.pruned;
    };
    const left = async (): Promise<number[]> => {
      const text = 'select lsn::int from increment_log where stream = $1 order by lsn';
      const rows = await database.query<{ lsn: number }>(text, begun.stream);
      return rows.map(({ lsn }) => lsn);
    };
    await prune(60);
    assert.deepEqual(await left(), [1, 2, 3], 'they are younger');
    await prune(0);
    assert.deepEqual(await left(), [3], 'what is not committed stays');
    await checkpointTo(begun.stream, 3);
    await prune(0);
    const retire = "update journal_checkpoints set retired_at = now() - interval '16 days 1 hour' where stream = $1";
    await database.query(retire, begun.stream);
    await database.query(PRUNE_LOG_TOMBSTONES, 24, 100);
    assert.equal(await log.lastLsn(begun.stream), undefined);
    const [history] = await database.query<{ incomplete_because: string | null }>(
      'select incomplete_because from increment_log_history',
    );
    assert.match(history?.incomplete_because ?? '', /ended streams/);
  });
});
