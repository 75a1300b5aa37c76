/** What a round of the pruner retires and deletes, and what it must leave. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach, before, describe, test } from 'node:test';
import type { DatabaseConnection, Statement } from '#product/db/connection.js';
import { IdempotencyPruner, type PrunerSession } from '#product/db/idempotency-pruner.js';
import { EXPIRE_STREAM, LOCK_PRUNING, TRY_PRUNER_LOCK } from '#product/db/upkeep-statements.js';
import { connectTo } from '../../support/database.js';
import { runStatements } from '../../support/database-connection.js';
import { eventually } from '../../support/eventually.js';
import { TestShard } from '../../support/flushes.js';
import { createMigratedDatabase, SuiteDatabase } from '../../support/migrated-database.js';

describe('The pruner of idempotency keys', () => {
  const database = new SuiteDatabase();
  let session: DatabaseConnection;

  before(async () => {
    session = database.closing(await connectTo(database.url, 'pruner'));
    await settled();
  });

  afterEach(async () => {
    await runStatements(
      database.url,
      'truncate journal_checkpoints, journal_claims, counter_resets, idempotency_keys, rejected_increments',
    );
    await settled();
  });

  /** As if the pruner had run once a minute for hours, and nothing had been pruned. */
  async function settled(): Promise<void> {
    await database.query(`update idempotency_pruning set pruned_before = '-infinity', pruned_at = now() - interval '1 minute',
                                            gap_at = now() - interval '61 minutes'`);
  }

  interface Line {
    readonly level: 'warn' | 'info';
    readonly fields: Record<string, unknown>;
    readonly message: string;
  }

  interface Round {
    readonly heldSeconds: number | undefined;
    readonly lines: readonly Line[];
  }

  /** One round of a new pruner with a window of 24 hours. */
  async function round(expiryDays = 7, on: PrunerSession = session): Promise<Round> {
    const lines: Line[] = [];
    const log = (level: Line['level']) => (fields: object, message: string) =>
      lines.push({ level, fields: { ...fields }, message });
    const logger = { warn: log('warn'), info: log('info') };
    const pruner = new IdempotencyPruner({ windowHours: 24, expiryDays, logger });
    return { heldSeconds: await pruner.round(on), lines };
  }

  interface StreamOptions {
    readonly journal?: string;
    /** Intervals of PostgreSQL before now. */
    readonly accepted?: string;
    readonly heard?: string;
    readonly closed?: string;
    readonly retired?: string;
  }

  async function makeStream({
    journal = 'file',
    accepted,
    heard,
    closed,
    retired,
  }: StreamOptions = {}): Promise<string> {
    const stream = randomUUID();
    await database.query(
      `insert into journal_checkpoints
               (stream, epoch, lsn, shard, journal, accepted_through, heard_at, closed_at, retired_at)
             values ($1, 7, 42, 3, $2, now() - coalesce($3, '0')::interval, now() - coalesce($4, '0')::interval,
                     now() - $5::interval, now() - $6::interval)`,
      stream,
      journal,
      accepted ?? null,
      heard ?? null,
      closed ?? null,
      retired ?? null,
    );
    await database.query('insert into journal_claims (stream, epoch, claim, lsn) values ($1, 7, $1, 0)', stream);
    return stream;
  }

  async function streamsWhere(condition: string): Promise<ReadonlySet<string>> {
    const rows = await database.query<{ stream: string }>(
      `select stream::text from journal_checkpoints where ${condition}`,
    );
    return new Set(rows.map(({ stream }) => stream));
  }

  async function record(...ages: readonly string[]): Promise<void> {
    await database.query(
      `insert into idempotency_keys (token, digest, claimed_at)
             select age, '', now() - age::interval from unnest($1::text[]) age`,
      ages,
    );
  }

  async function ages(): Promise<ReadonlySet<string>> {
    const rows = await database.query<{ token: string }>('select token from idempotency_keys');
    return new Set(rows.map(({ token }) => token));
  }

  /** How long before now `pruned_before` is, in seconds; infinite where nothing was pruned. */
  async function prunedSecondsAgo(): Promise<number> {
    const [row] = await database.query<{ seconds: number }>(
      'select extract(epoch from now() - greatest(pruned_before, to_timestamp(0)))::float8 as seconds from idempotency_pruning',
    );
    return row === undefined ? Number.NaN : row.seconds;
  }

  function assertSeconds(actual: number | undefined, expected: number): void {
    assert.ok(actual !== undefined && Math.abs(actual - expected) < 30, `${actual} s, expected ${expected} s`);
  }

  const HOUR = 3600;

  test('keys are pruned after the window and five minutes, and pruned_before is now where no open stream holds it back', async () => {
    await record('23 hours', '24 hours 4 minutes', '24 hours 6 minutes', '25 hours');
    const { heldSeconds, lines } = await round();
    assert.deepEqual(await ages(), new Set(['23 hours', '24 hours 4 minutes']));
    assertSeconds(heldSeconds, 0);
    assertSeconds(await prunedSecondsAgo(), 0);
    assert.deepEqual(lines, []);
  });

  test('an open stream holds the pruning back as far as it has committed what it accepted, other streams do not', async () => {
    await makeStream({ accepted: '2 hours' });
    await makeStream({ accepted: '1 hour' });
    await makeStream({ accepted: '9 hours', closed: '1 hour' });
    await makeStream({ accepted: '9 hours', retired: '1 hour' });
    await record('25 hours', '26 hours 4 minutes', '26 hours 6 minutes', '30 hours');
    const { heldSeconds } = await round();
    assert.deepEqual(await ages(), new Set(['25 hours', '26 hours 4 minutes']));
    assertSeconds(heldSeconds, 2 * HOUR);
    assertSeconds(await prunedSecondsAgo(), 2 * HOUR);
  });

  test('a stream that was open at the migration to database times holds all pruning back until it is heard of', async () => {
    const stream = await makeStream();
    await database.query(`update journal_checkpoints set accepted_through = '-infinity'`);
    await record('10000 days');
    await round();
    assert.deepEqual([await ages(), (await prunedSecondsAgo()) > 1e9], [new Set(['10000 days']), true]);
    await database.query('update journal_checkpoints set accepted_through = now() where stream = $1', stream);
    await round();
    assert.deepEqual(await ages(), new Set());
  });

  test('a time of the database that is ahead of now holds nothing back, and prunes no more than now does', async () => {
    await makeStream({ accepted: '-5 hours' });
    await record('20 hours', '25 hours');
    const { heldSeconds } = await round();
    assert.deepEqual(await ages(), new Set(['20 hours']));
    assertSeconds(heldSeconds, 0);
    assertSeconds(await prunedSecondsAgo(), 0);
  });

  test('pruned_before never goes back, and nothing is deleted by a value that an earlier round has left', async () => {
    await makeStream({ accepted: '2 hours' });
    await database.query(`update idempotency_pruning set pruned_before = now() - interval '1 hour'`);
    await record('25 hours 30 minutes', '27 hours');
    const { heldSeconds } = await round();
    assertSeconds(await prunedSecondsAgo(), HOUR);
    assertSeconds(heldSeconds, 2 * HOUR);
    assert.deepEqual(await ages(), new Set(['25 hours 30 minutes']));
  });

  test('pruned_before is committed before anything is deleted', async () => {
    await record('25 hours');
    const blocker = await connectTo(database.url, 'blocker');
    try {
      await blocker.query({ text: 'begin' });
      await blocker.query({ text: 'select 1 from idempotency_keys for update' });
      const pruning = round();
      await database.waitsForLock('pruner');
      assertSeconds(await prunedSecondsAgo(), 0);
      await blocker.query({ text: 'rollback' });
      await pruning;
      assert.deepEqual(await ages(), new Set());
    } finally {
      await blocker.close();
    }
  });

  test('the pruner waits for a process that takes a stream, and sees the row that it has made', async () => {
    const taker = await connectTo(database.url, 'taker');
    try {
      await record('25 hours');
      await taker.query({ text: 'begin' });
      await taker.query({ text: 'select 1 from idempotency_pruning for share' });
      const pruning = round();
      await database.waitsForLock('pruner');
      await taker.query({
        text: `insert into journal_checkpoints (stream, epoch, lsn, journal, accepted_through)
               values (gen_random_uuid(), 1, 0, 'file', now() - interval '3 hours')`,
      });
      await taker.query({ text: 'commit' });
      assertSeconds((await pruning).heldSeconds, 3 * HOUR);
      assert.deepEqual(await ages(), new Set(['25 hours']));
    } finally {
      await taker.close();
    }
  });

  test('a stream that expires no longer holds the pruning back; one that is heard of or closed needs no expiry for that', async () => {
    const expired = await makeStream({ accepted: '8 days', heard: '7 days 1 hour' });
    const kept = [
      await makeStream({ heard: '6 days 23 hours' }),
      await makeStream({ journal: 'nats', heard: '1 year' }),
      await makeStream({ journal: 'memory', heard: '59 minutes' }),
    ];
    await record('25 hours');
    const { heldSeconds, lines } = await round();
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set([expired]));
    assert.deepEqual(await streamsWhere('retired_at is null'), new Set(kept));
    assertSeconds(heldSeconds, 0);
    assert.deepEqual(await ages(), new Set());
    const [line] = lines;
    assert.deepEqual([lines.length, line?.level], [1, 'warn']);
    const { stream, shard, journal, checkpoint } = line?.fields ?? {};
    assert.deepEqual([stream, shard, journal, checkpoint], [expired, 3, 'file', 42]);
    assert.match(line?.message ?? '', new RegExp(`Retired stream ${expired} at LSN 42`));
  });

  test('an expired stream gets a new epoch, so that an owner who comes back late is fenced, and keeps its claims and its LSN', async () => {
    const shard = new TestShard(database.url, { applicationName: 'shard' });
    const { stream, epoch } = await shard.newStream();
    await database.query(`update journal_checkpoints set heard_at = now() - interval '8 days'`);
    await round();
    const row = await shard.readBack(stream);
    assert.ok(row !== undefined && row.epoch > epoch);
    assert.deepEqual([row.lsn, row.isOver], [0, true]);
    assert.equal(await shard.database.touch(stream, { epoch, lsn: 0 }, undefined), false);
    assert.equal((await shard.database.readClaims(stream)).length, 1);
    const { epoch: again } = row;
    await round();
    assert.equal((await shard.readBack(stream))?.epoch, again, 'once');
    await shard.close();
  });

  test('streams that have nothing left to flush expire without a warning: closed ones, and those of memory journals after an hour', async () => {
    const streams = [
      await makeStream({ heard: '8 days', closed: '8 days' }),
      await makeStream({ journal: 'memory', heard: '61 minutes' }),
    ];
    const { lines } = await round();
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set(streams));
    assert.deepEqual(
      lines.map(({ level }) => level),
      ['info', 'info'],
    );
  });

  test('a stream in a queue expires after 15 days without a record, whatever STREAM_EXPIRY_DAYS is', async () => {
    const expired = await makeStream({ journal: 'sqs', heard: '15 days 1 hour' });
    await makeStream({ journal: 'sqs', heard: '14 days 23 hours' });
    const { lines } = await round(0);
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set([expired]));
    assert.deepEqual(
      lines.map(({ level, message }) => [level, message.slice(0, 41)]),
      [['info', 'Retired a stream of the sqs journal after']],
    );
  });

  test('with STREAM_EXPIRY_DAYS=0 no stream of a file journal expires', async () => {
    const kept = await makeStream({ heard: '5000 days' });
    const memory = await makeStream({ journal: 'memory', heard: '2 hours' });
    await round(0);
    assert.deepEqual(await streamsWhere('retired_at is null'), new Set([kept]));
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set([memory]));
  });

  test('after a gap between the rounds of all nodes nothing expires for an hour, because nobody could be heard of', async () => {
    const set = (assignments: string): Promise<unknown> =>
      database.query(`update idempotency_pruning set ${assignments}`);
    for (const journal of ['file', 'memory']) await makeStream({ journal, heard: '8 days' });
    const expired = async (): Promise<number> => (await streamsWhere('retired_at is not null')).size;
    await set(`pruned_at = now() - interval '11 minutes'`);
    await round();
    assert.equal(await expired(), 0);
    await set(`gap_at = gap_at - interval '59 minutes'`);
    await round();
    assert.equal(await expired(), 0);
    await set(`gap_at = gap_at - interval '2 minutes', pruned_at = now() - interval '9 minutes'`);
    await round();
    assert.equal(await expired(), 2);
  });

  test('in the first hour of a database nothing expires', async () => {
    const fresh = await createMigratedDatabase();
    const connection = await connectTo(fresh.url);
    try {
      await connection.query({
        text: `insert into journal_checkpoints (stream, epoch, lsn, journal, heard_at)
               values (gen_random_uuid(), 1, 0, 'file', now() - interval '1 year')`,
      });
      await round(7, connection);
      const [row] = await connection.query<{ retired: boolean }>({
        text: 'select retired_at is not null as retired from journal_checkpoints',
      });
      assert.equal(row?.retired, false);
    } finally {
      await connection.close();
      await fresh.drop();
    }
  });

  test('a stream that is heard of after it was found does not expire', async () => {
    const stream = await makeStream({ heard: '8 days' });
    const { lines } = await round(
      7,
      intercepted(async ({ text }) => {
        if (text !== EXPIRE_STREAM) return;
        await database.query('update journal_checkpoints set heard_at = now() where stream = $1', stream);
      }),
    );
    assert.deepEqual(await streamsWhere('retired_at is not null'), new Set());
    assert.deepEqual(lines, []);
  });

  test('a round that fails while it moves pruned_before ends its transaction, and with it the session', async () => {
    await record('25 hours');
    const failing = await connectTo(database.url, 'failing');
    const failure = new Error('the statement was not sent');
    const fail = ({ text }: Statement): Promise<void> =>
      text === LOCK_PRUNING ? Promise.reject(failure) : Promise.resolve();
    await assert.rejects(round(7, intercepted(fail, failing)), failure);
    assert.equal(failing.lost, true);
    await eventually('the lock is free', async () => (await round()).heldSeconds !== undefined);
    assert.deepEqual(await ages(), new Set());
  });

  test('one node prunes at a time', async () => {
    await record('25 hours');
    await makeStream({ heard: '8 days' });
    await database.query(TRY_PRUNER_LOCK);
    try {
      assert.equal((await round()).heldSeconds, undefined);
      assert.deepEqual(await ages(), new Set(['25 hours']));
      assert.equal((await streamsWhere('retired_at is not null')).size, 0);
    } finally {
      await database.query('select pg_advisory_unlock_all()');
    }
    assert.notEqual((await round()).heldSeconds, undefined);
    assert.equal((await round()).heldSeconds === undefined, false, 'a round gives the lock back');
  });

  test('tombstones of memory journals and queues are pruned 15 days after the window, with their claims; all others stay', async () => {
    const old = '16 days 1 second';
    for (const journal of ['memory', 'sqs']) await makeStream({ journal, retired: old });
    const kept = [
      await makeStream({ journal: 'memory', retired: '15 days 23 hours' }),
      await makeStream({ journal: 'memory' }),
      await makeStream({ journal: 'file', retired: old }),
      await makeStream({ journal: 'nats', retired: old }),
      await makeStream({ journal: 'sqs', retired: '15 days 23 hours' }),
    ];
    await round();
    assert.deepEqual(await streamsWhere('true'), new Set(kept));
    const claims = await database.query<{ stream: string }>('select stream::text from journal_claims');
    assert.deepEqual(new Set(claims.map(({ stream }) => stream)), new Set(kept));
  });

  test('deletes of counters that did not exist are pruned after the window, closing sums are not', async () => {
    await database.query(`insert into counter_resets (id, key, sum, at) values
               ('nothing, old', 'k', null, now() - interval '24 hours 6 minutes'),
               ('nothing', 'k', null, now() - interval '24 hours'),
               ('something, old', 'k', 7, now() - interval '1 year')`);
    await round();
    const rows = await database.query<{ id: string }>('select id from counter_resets order by id');
    assert.deepEqual(
      rows.map(({ id }) => id),
      ['nothing', 'something, old'],
    );
  });

  /** The session, with something that happens before each statement. */
  function intercepted(
    beforeStatement: (statement: Statement) => Promise<void>,
    on: DatabaseConnection = session,
  ): PrunerSession {
    return {
      get lost() {
        return on.lost;
      },
      query: async <Row extends Record<string, unknown>>(statement: Statement) => {
        await beforeStatement(statement);
        return on.query<Row>(statement);
      },
      destroy: () => {
        on.destroy();
      },
    };
  }
});
