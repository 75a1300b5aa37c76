import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before, describe, test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { IdempotentArrayEncoder } from '#product/db/binary-array.js';
import { OutcomeUnknownError, StatementRefusedError } from '#product/db/database-errors.js';
import type { FlushRequest, FlushResult } from '#product/db/flush-statement.js';
import { CLAIMS_MAX } from '#product/db/statements.js';
import type { Checkpoint, DatabaseTime } from '#product/core/checkpoint.js';
import type { OwnershipClaim } from '#product/shard-worker/journal/ownership-claim.js';
import type { LockedStream, TakenRow } from '#product/shard-worker/thread/flush/shard-database.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { flushOf, TestShard } from '../../support/flushes.js';
import { SuiteDatabase } from '../../support/migrated-database.js';
import { idempotentEntry, incrementEntries } from '../../support/record-entries.js';
import { takeStream, type TakenStream } from '../../support/taken-stream.js';

describe('The database of a shard', () => {
  const database = new SuiteDatabase();
  let shard: TestShard;

  before(() => {
    shard = database.closing(new TestShard(database.url, { applicationName: 'shard' }));
  });

  /** Takes the stream under these claims. Undefined where another session has made its row meanwhile. */
  function take(stream: string, claims: readonly OwnershipClaim[], lsn = 0): Promise<TakenRow | undefined> {
    return shard.database.take(
      stream,
      () => ({ claims, lsn }),
      () => undefined,
    );
  }

  /** Takes the stream under a new claim that begins at `lsn`. */
  async function claim(stream: string, lsn: number): Promise<TakenRow & { readonly id: string }> {
    const id = randomUUID();
    const taken = await take(stream, [{ id, lsn }], lsn);
    assert.ok(taken !== undefined);
    return { ...taken, id };
  }

  async function claimsOf(stream: string): Promise<readonly OwnershipClaim[]> {
    return (await shard.database.readClaims(stream)).map(({ id, lsn }) => ({ id, lsn }));
  }

  /** What a flush did, without the time, which is checked here. */
  async function flush(request: FlushRequest): Promise<Omit<FlushResult, 'databaseTime'>> {
    const { databaseTime, ...result } = await shard.flush(request);
    assertNow(databaseTime);
    return result;
  }

  /** Asserts that a time is that of the database, in whole seconds. Its clock is that of this machine. */
  function assertNow(time: DatabaseTime): void {
    assert.ok(Number.isInteger(time) && Math.abs(time - Date.now() / 1000) < 60, String(time));
  }

  /** Columns of a stream's row, times as seconds or as PostgreSQL writes infinity. */
  async function rowOf(stream: string): Promise<Record<string, unknown>> {
    const time = (name: string): string => `coalesce(floor(extract(epoch from ${name}))::text, 'none') as ${name}`;
    const [row] = await database.query(
      `select epoch::text, lsn::text, shard, journal, ${['accepted_through', 'covered_from', 'heard_at', 'closed_at', 'retired_at'].map(time).join(', ')}
             from journal_checkpoints where stream = $1`,
      stream,
    );
    assert.ok(row !== undefined);
    return row;
  }

  /** Changes the row of a stream, as a test needs it. */
  async function change(stream: string, assignments: string): Promise<void> {
    await database.query(`update journal_checkpoints set ${assignments} where stream = $1`, stream);
  }

  async function setPrunedBefore(seconds: number): Promise<void> {
    await database.query('update idempotency_pruning set pruned_before = to_timestamp($1)', seconds);
  }

  async function sumsOf(prefix: string): Promise<Record<string, string>> {
    const rows = await database.query<{ key: string; sum: string }>(
      `select key, sum::text from counters where starts_with(key, $1) order by key`,
      prefix,
    );
    return Object.fromEntries(rows.map((row) => [row.key, row.sum]));
  }

  test('a flush adds the sums and moves the checkpoint, and the same flush again does nothing', async () => {
    const { stream, epoch } = await shard.newStream();
    const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 7 }, [
      ['f:a', 5],
      ['f:b', -3],
      ['f:c', 0],
    ]);
    assert.deepEqual(await flush(request), { applied: true, keys: 3, duplicates: [] });
    assert.deepEqual(await flush(request), { applied: false, keys: 0, duplicates: [] });
    await flush(flushOf({ stream, epoch, fromLsn: 7, toLsn: 8 }, [['f:a', 9007199254740993n]]));
    assert.deepEqual(await sumsOf('f:'), { 'f:a': '9007199254740998', 'f:b': '-3', 'f:c': '0' });
    const { coveredFrom, ...row } = (await shard.readBack(stream)) ?? { coveredFrom: -1 };
    assert.deepEqual(row, { epoch, lsn: 8, isOver: false });
    assert.equal(coveredFrom, 0);
  });

  test('a flush with an epoch other than that of the row does nothing, be it lower or higher', async () => {
    const { stream, epoch } = await shard.newStream();
    const { row } = await claim(stream, 0);
    assert.ok(row.epoch > epoch);
    for (const wrong of [epoch, row.epoch - 1, row.epoch + 1]) {
      const late = flushOf({ stream, epoch: wrong, fromLsn: 0, toLsn: 1 }, [['late', 1]]);
      assert.deepEqual(await flush(late), { applied: false, keys: 0, duplicates: [] });
    }
    assert.deepEqual(await sumsOf('late'), {});
  });

  test('a flush never moves accepted_through back, and notes that the owner was heard of', async () => {
    const { stream, epoch } = await shard.newStream();
    await change(stream, `heard_at = '2020-01-01', accepted_through = '-infinity'`);
    const times: unknown[] = [];
    for (const [lsn, acceptedThrough] of [2000, 1999, 0, 2001].entries()) {
      await flush({ ...flushOf({ stream, epoch, fromLsn: lsn, toLsn: lsn + 1 }, [['times', 1]]), acceptedThrough });
      times.push((await rowOf(stream))['accepted_through']);
    }
    assert.deepEqual(times, ['2000', '2000', '2000', '2001']);
    assertNow(Number((await rowOf(stream))['heard_at']));
  });

  for (const [what, assignment] of [
    ['closed', 'closed_at = now()'],
    ['retired', 'retired_at = now()'],
  ] as const) {
    test(`a flush of a ${what} stream does nothing, at the right epoch and LSN`, async () => {
      const { stream, epoch } = await shard.newStream();
      await change(stream, assignment);
      const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [[`over ${what}`, 1]]);
      assert.deepEqual(await flush(request), { applied: false, keys: 0, duplicates: [] });
      assert.deepEqual(await sumsOf(`over ${what}`), {});
      assert.deepEqual(await shard.readBack(stream), { epoch, lsn: 0, coveredFrom: 0, isOver: true });
    });
  }

  test('a taking sees the row and its claims, gives it a new epoch, and records a claim of that epoch', async () => {
    const stream = randomUUID();
    const found: LockedStream[] = [];
    const takeWith = async (claims: readonly OwnershipClaim[], lsn: number): Promise<TakenRow> => {
      let commits = 0;
      const taken = await shard.database.take(
        stream,
        (locked) => {
          found.push(locked);
          assert.equal(commits, 0);
          return { claims, lsn };
        },
        () => (commits += 1),
      );
      assert.ok(taken !== undefined);
      assert.equal(commits, 1);
      assert.deepEqual(taken.before, found.at(-1));
      return taken;
    };
    const [first, second] = [
      { id: randomUUID(), lsn: 3 },
      { id: randomUUID(), lsn: 9 },
    ];
    const made = await takeWith([first], 3);
    assert.deepEqual(found[0], { row: undefined, epoch: undefined, lsn: 0, claims: [], isComplete: true });
    assert.deepEqual(made.row, { epoch: made.row.epoch, lsn: 3, coveredFrom: 0, isOver: false });
    await flush(flushOf({ stream, epoch: made.row.epoch, fromLsn: 3, toLsn: 7 }, [['taken', 1]]));
    // The LSN counts only where a row is made.
    const again = await takeWith([second], 100);
    assert.deepEqual(again.row, { ...made.row, epoch: again.row.epoch, lsn: 7 });
    assert.ok(again.row.epoch > made.row.epoch && made.row.epoch > 0);
    const row = { ...made.row, lsn: 7 };
    const claims = [{ ...first, epoch: made.row.epoch }];
    assert.deepEqual(found[1], { row, epoch: row.epoch, lsn: 7, claims, isComplete: true });
    assert.deepEqual(await shard.database.readClaims(stream), [...claims, { ...second, epoch: again.row.epoch }]);
    assertNow(shard.database.time);
  });

  test('the row that a taking makes has the owner, was just heard of, and is neither closed nor retired', async () => {
    const { stream, epoch } = await shard.newStream();
    const { heard_at: heardAt, ...row } = await rowOf(stream);
    assertNow(Number(heardAt));
    assert.deepEqual(row, {
      epoch: String(epoch),
      lsn: '0',
      shard: 0,
      journal: 'file',
      accepted_through: '-Infinity',
      covered_from: '-Infinity',
      closed_at: 'none',
      retired_at: 'none',
    });
  });

  test('a taking whose decision throws changes nothing, and the next statements run as before', async () => {
    const stream = randomUUID();
    const refuse = (): never => {
      throw new TypeError('not ours');
    };
    let commits = 0;
    const refused = (): Promise<unknown> => shard.database.take(stream, refuse, () => (commits += 1));
    await assert.rejects(refused(), /not ours/);
    assert.equal(await shard.readBack(stream), undefined);
    const { row } = await claim(stream, 0);
    await assert.rejects(refused(), /not ours/);
    assert.deepEqual(await shard.readBack(stream), row);
    assert.equal((await claimsOf(stream)).length, 1);
    assert.equal(commits, 0);
    const [open] = await database.query<{
      open: boolean;
    }>(`select bool_or(state like 'idle in transaction%') as open from pg_stat_activity
             where application_name = 'shard' and datname = current_database()`);
    assert.equal(open?.open, false);
  });

  test('a taking reports that another session made the row first, and changes nothing', async () => {
    const stream = randomUUID();
    const other = new TestShard(database.url, { applicationName: 'other' });
    const rival = await connectTo(database.url, 'rival');
    try {
      // The rival has made the row and not committed it; the taking finds none, and waits where it makes one.
      await rival.query({ text: 'begin' });
      await rival.query({
        text: `insert into journal_checkpoints (stream, epoch, lsn, journal) values ($1, 5, 3, 'file')`,
        values: [stream],
      });
      let commits = 0;
      const taking = other.database.take(
        stream,
        ({ row }) => {
          assert.equal(row, undefined);
          return { claims: [{ id: randomUUID(), lsn: 0 }], lsn: 0 };
        },
        () => (commits += 1),
      );
      await database.waitsForLock('other');
      await rival.query({ text: 'commit' });
      assert.equal(await taking, undefined);
      assert.equal(commits, 0);
      assert.deepEqual(await claimsOf(stream), []);
      const row = await other.readBack(stream);
      assert.deepEqual([row?.epoch, row?.lsn], [5, 3]);
      assert.equal((await takeStream(other.database, stream)).stream, stream);
    } finally {
      await rival.close();
      await other.close();
    }
  });

  test('a taking waits for a flush that still runs, and takes the checkpoint that it leaves', async (context) => {
    const { stream, epoch } = await shard.newStream();
    const blocker = await database.connect(context, 'blocker');
    await blocker.query({ text: 'begin' });
    await blocker.query({
      text: 'update journal_checkpoints set lsn = 4 where stream = $1 and epoch = $2',
      values: [stream, epoch],
    });
    const taking = claim(stream, 2);
    await database.waitsForLock('shard');
    await blocker.query({ text: 'commit' });
    assert.equal((await taking).row.lsn, 4);
  });

  test('a taking sees the claims of the session whose row it waited for', async () => {
    const { stream } = await shard.newStream();
    const other = new TestShard(database.url, { applicationName: 'other' });
    try {
      const seen: number[] = [];
      const takings = Array.from({ length: 8 }, (_, number) =>
        (number % 2 === 0 ? shard : other).database.take(
          stream,
          ({ claims }) => {
            seen.push(claims.length);
            return { claims: [{ id: randomUUID(), lsn: 0 }], lsn: 0 };
          },
          () => undefined,
        ),
      );
      const epochs = (await Promise.all(takings)).map((taken) => taken?.row.epoch ?? 0);
      assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
      assert.equal(new Set(epochs).size, 8);
    } finally {
      await other.close();
    }
  });

  test('an epoch that the database went back from does not come again', async () => {
    const { stream } = await shard.newStream();
    const epochs = new Set<number>();
    for (let times = 0; times < 10; times += 1) {
      epochs.add((await claim(stream, 0)).row.epoch);
      // A failover to an asynchronous standby takes the sequence back, too.
      await database.query(`select setval('journal_epochs', 1000, false)`);
    }
    // Two of ten random numbers below a million are the same once in twenty thousand runs; three never.
    assert.ok(epochs.size >= 9, [...epochs].join(' '));
    await database.query(`select setval('journal_epochs', 2000)`);
  });

  test('claims that the database had lost are recorded before the new one, each with an epoch', async () => {
    const { stream } = await shard.newStream();
    const [before] = await shard.database.readClaims(stream);
    const claims = [3, 4, 5].map((lsn) => ({ id: randomUUID(), lsn }));
    const taken = await take(stream, claims);
    const found = await shard.database.readClaims(stream);
    assert.deepEqual(
      found.map(({ id, lsn }) => ({ id, lsn })),
      [{ id: before?.id, lsn: before?.lsn }, ...claims],
    );
    const epochs = found.map(({ epoch }) => epoch);
    assert.deepEqual([new Set(epochs).size, epochs.at(-1)], [4, taken?.row.epoch]);
  });

  test('a thousand claims are kept, and the reader learns that there may have been more', async () => {
    const { stream } = await shard.newStream();
    await database.query(
      `insert into journal_claims (stream, epoch, claim, lsn)
             select $1, n, gen_random_uuid(), n from generate_series(1, $2::int) n`,
      stream,
      CLAIMS_MAX - 2,
    );
    const last = await claim(stream, 0);
    assert.equal(last.before.isComplete, true);
    const thousand = await claim(stream, 0);
    assert.deepEqual([thousand.before.claims.length, thousand.before.isComplete], [CLAIMS_MAX, false]);
    assert.deepEqual(await claimsOf(stream), [
      ...thousand.before.claims.slice(1).map(({ id, lsn }) => ({ id, lsn })),
      { id: thousand.id, lsn: 0 },
    ]);
  });

  test('a flush of a stream without a row does nothing, and neither touching, closing, retiring nor reading makes one', async () => {
    const stream = randomUUID();
    const result = await flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['ghost', 1]]));
    assert.deepEqual(result, { applied: false, keys: 0, duplicates: [] });
    const at = { epoch: 0, lsn: 0 };
    assert.equal(await shard.database.touch(stream, at, 1000), false);
    assert.equal(await shard.database.closeStream(stream, at), false);
    assert.equal(await shard.database.retire(stream, at), false);
    assert.equal(await shard.readBack(stream), undefined);
    assert.deepEqual(await sumsOf('ghost'), {});
  });

  test('a new row covers what is accepted from pruned_before on, an open row keeps what it covers', async () => {
    await setPrunedBefore(1000);
    const { stream } = await shard.newStream();
    assert.equal((await shard.readBack(stream))?.coveredFrom, 1000);
    assert.deepEqual((await rowOf(stream))['accepted_through'], '1000');
    await setPrunedBefore(2000);
    assert.equal((await claim(stream, 0)).row.coveredFrom, 1000);
    const { covered_from: coveredFrom, accepted_through: acceptedThrough } = await rowOf(stream);
    assert.deepEqual([coveredFrom, acceptedThrough], ['1000', '1000']);
  });

  for (const [what, assignment] of [
    ['closed', 'closed_at = now()'],
    ['retired', 'retired_at = now()'],
    ['closed, and retired since', 'closed_at = now(), retired_at = now()'],
  ] as const) {
    test(`a row that was ${what} is open again, and covers what is accepted from pruned_before on, never more than before`, async () => {
      await setPrunedBefore(1000);
      const { stream } = await shard.newStream();
      await change(stream, `${assignment}, accepted_through = to_timestamp(1200), heard_at = '2020-01-01'`);
      assert.equal((await shard.readBack(stream))?.isOver, true);
      await setPrunedBefore(2000);
      const { row, before } = await claim(stream, 0);
      assert.deepEqual([before.row?.isOver, before.row?.coveredFrom], [true, 1000]);
      assert.deepEqual([row.isOver, row.coveredFrom], [false, 2000]);
      const { heard_at: heardAt, ...found } = await rowOf(stream);
      assertNow(Number(heardAt));
      assert.deepEqual([found['closed_at'], found['retired_at'], found['accepted_through']], ['none', 'none', '1200']);
      await change(stream, assignment);
      await setPrunedBefore(1500);
      assert.equal((await claim(stream, 0)).row.coveredFrom, 2000);
    });
  }

  test('a taking waits for a pruner, and then sees its pruned_before; a pruner waits for a taking', async (context) => {
    await setPrunedBefore(1000);
    const pruner = await database.connect(context, 'pruner');
    await pruner.query({ text: 'begin' });
    await pruner.query({ text: 'update idempotency_pruning set pruned_before = to_timestamp(3000)' });
    const making = shard.newStream();
    await database.waitsForLock('shard');
    await pruner.query({ text: 'commit' });
    const { stream } = await making;
    assert.equal((await shard.readBack(stream))?.coveredFrom, 3000);

    let pruning: Promise<unknown> = Promise.resolve();
    await shard.database.take(
      stream,
      () => {
        pruning = pruner.query({ text: `set lock_timeout = '100ms'; select 1 from idempotency_pruning for update` });
        pruning.catch(() => undefined);
        const end = performance.now() + 300;
        while (performance.now() < end);
        return { claims: [{ id: randomUUID(), lsn: 0 }], lsn: 0 };
      },
      () => undefined,
    );
    await assert.rejects(pruning, /lock timeout/);
  });

  test('an idle owner advances accepted_through by its touches, never back; a fenced one does not', async () => {
    await setPrunedBefore(100);
    const { stream, epoch } = await shard.newStream();
    const touch = (at: Checkpoint, time?: DatabaseTime): Promise<boolean> => shard.database.touch(stream, at, time);
    const accepted = async (): Promise<unknown> => (await rowOf(stream))['accepted_through'];
    assert.equal(await touch({ epoch, lsn: 0 }, 5000), true);
    assert.equal(await touch({ epoch, lsn: 0 }, 4000), true);
    assert.equal(await accepted(), '5000');
    assert.equal(await touch({ epoch: epoch + 1, lsn: 0 }, 6000), false);
    assert.equal(await touch({ epoch, lsn: 1 }, 6000), false);
    assert.equal(await accepted(), '5000');
    // An owner that is not idle only checks the row, and is heard of.
    await change(stream, `heard_at = '2020-01-01'`);
    assert.equal(await touch({ epoch, lsn: 0 }), true);
    assertNow(Number((await rowOf(stream))['heard_at']));
    assert.equal(await touch({ epoch, lsn: 1 }), false);
    assert.equal(await accepted(), '5000');
  });

  for (const [how, column] of [
    ['closeStream', 'closed_at'],
    ['retire', 'retired_at'],
  ] as const) {
    test(`${how} ends a stream under its epoch, once and for each repetition, and only where the row is`, async () => {
      const { stream, epoch } = await shard.newStream();
      await change(stream, `heard_at = '2020-01-01'`);
      assert.equal(await shard.database[how](stream, { epoch, lsn: 1 }), false);
      assert.equal(await shard.database[how](stream, { epoch: epoch + 1, lsn: 0 }), false);
      assert.equal((await shard.readBack(stream))?.isOver, false);
      assert.equal(await shard.database[how](stream, { epoch, lsn: 0 }), true);
      await change(stream, `${column} = '2021-01-01'`);
      assert.equal(await shard.database[how](stream, { epoch, lsn: 0 }), true);
      const row = await rowOf(stream);
      assert.equal(row[column], String(Date.UTC(2021, 0, 1) / 1000), 'the first time stays');
      assert.equal(row['epoch'], String(epoch));
      assertNow(Number(row['heard_at']));
      assert.equal((await shard.readBack(stream))?.isOver, true);
      // It can look again under its epoch.
      assert.equal(await shard.database.touch(stream, { epoch, lsn: 0 }, undefined), true);
    });
  }

  test('a look hears the time of the database', async () => {
    const looking = new TestShard(database.url, { applicationName: 'looking' });
    assert.equal(looking.database.time, 0);
    await looking.database.look();
    assertNow(looking.database.time);
    await looking.close();
  });

  test('a flush that holds a key twice is refused as a whole, and does not count as poison', async () => {
    const { stream, epoch } = await shard.newStream();
    const twice = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [
      ['twice', 2],
      ['twice', 3],
    ]);
    await assert.rejects(
      shard.flush(twice),
      (error) => error instanceof StatementRefusedError && error.sqlState === '21000' && error.kind === 'other',
    );
    assert.deepEqual(await sumsOf('twice'), {});
    assert.equal((await shard.readBack(stream))?.lsn, 0);
  });

  test('the id of the database is that of its migration, and a database without a schema has none', async () => {
    const [row] = await database.query<{ database_id: string }>('select database_id from summing_counters_migrations');
    assert.equal(await shard.database.databaseId(), row?.database_id);
    const bare = await createTestDatabase();
    const elsewhere = new TestShard(bare.url, { applicationName: 'bare' });
    await assert.rejects(
      elsewhere.database.databaseId(),
      (error) =>
        error instanceof CounterError &&
        error.code === 'database-unavailable' &&
        error.cause instanceof StatementRefusedError &&
        error.cause.sqlState === '42P01',
    );
    await elsewhere.close();
    await bare.drop();
  });

  test('an idempotency key counts once in a flush with other increments, and is recorded together with its sums or not at all', async () => {
    const { stream, epoch } = await shard.newStream();
    const encoder = new IdempotentArrayEncoder();
    // Idempotency keys, digests and keys are parts of larger buffers.
    encoder.appendRequest(Buffer.from('[t-2]'), 1, 3, Buffer.from('12'), 1, 1);
    encoder.appendSum(Buffer.from('t:a'), 0, 3, 20);
    encoder.appendSum(Buffer.from('[t:b]'), 1, 3, 300);
    encoder.appendRequest(Buffer.from('t-1'), 0, 3, Buffer.from('12'), 0, 1);
    encoder.appendSum(Buffer.from('t:a'), 0, 3, 1);
    const idempotencyKeys = encoder.finish();
    const first = { ...flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [['t:a', 4000]]), idempotencyKeys };
    assert.deepEqual(await flush({ ...first, epoch: 9 }), {
      applied: false,
      keys: 0,
      duplicates: ['t-2', 't-1'],
    });
    assert.deepEqual(await flush(first), { applied: true, keys: 2, duplicates: [] });
    const replay = { ...flushOf({ stream, epoch, fromLsn: 1, toLsn: 2 }, [['t:a', 5000]]), idempotencyKeys };
    assert.deepEqual(await flush(replay), { applied: true, keys: 1, duplicates: ['t-2', 't-1'] });
    const digests = await database.query<{ digest: Buffer }>(`select digest from idempotency_keys where token = 't-1'`);
    assert.deepEqual(digests, [{ digest: Buffer.from('1') }]);
    assert.deepEqual(await sumsOf('t:'), { 't:a': '9021', 't:b': '300' });
  });

  /** The next range of a stream, of one record. */
  function rangeOf({ stream, epoch }: TakenStream, lsn: number, ...entries: readonly Buffer[]): FrozenRange {
    const pendingSums = new PendingSums(stream, { epoch, lsn, coveredFrom: 0 });
    const record = Buffer.concat(entries);
    pendingSums.apply(lsn + 1, record, 0, record.length, 1000);
    return pendingSums.freeze();
  }

  test('a duplicate with other content is a mismatch, and counts once', async () => {
    const taken = await shard.newStream();
    const first = rangeOf(taken, 0, idempotentEntry('d-1', [['d', 1]], 1), idempotentEntry('d-2', [['d', 20]], 2));
    const committed = { kind: 'committed', keys: 1, duplicates: [], mismatches: 0 };
    assert.deepEqual(await shard.database.flush(first), committed);
    const second = rangeOf(taken, 1, idempotentEntry('d-1', [['d', 1]], 1), idempotentEntry('d-2', [['d', 300]], 3));
    const duplicates = ['d-1', 'd-2'];
    assert.deepEqual(await shard.database.flush(second), { ...committed, keys: 0, duplicates, mismatches: 1 });
    assert.deepEqual(await sumsOf('d'), { d: '21' });
  });

  test('a row that PostgreSQL refuses is poison, is found by probes, and is kept when the checkpoint moves', async () => {
    const taken = await shard.newStream();
    const bad = Buffer.from([0x70, 0xff]);
    const range = rangeOf(
      taken,
      0,
      incrementEntries([
        ['p:good', 1],
        [bad, 2],
      ]),
    );
    const refused = await shard.database.flush(range);
    assert.equal(refused.kind, 'poison');
    assert.deepEqual(await sumsOf('p:'), {});
    const committed = await shard.database.flushSettingAside(range);
    assert.equal(committed.kind, 'committed');
    const { rejectedKeys, ...counts } = committed;
    assert.deepEqual(counts, { kind: 'committed', keys: 1, rejected: 1, duplicates: [], mismatches: 0 });
    assert.deepEqual([rejectedKeys?.keys, rejectedKeys?.key, rejectedKeys?.sqlState], [1, 'p\ufffd', '22021']);
    assert.deepEqual(await shard.database.flushSettingAside(range), { kind: 'fenced' });
    assert.deepEqual(await sumsOf('p:'), { 'p:good': '1' }, 'a probe commits nothing');
    const rows = await database.query<{ key: Buffer; amount: string; sqlstate: string }>(
      'select key, amount, sqlstate from rejected_increments where stream = $1',
      taken.stream,
    );
    assert.deepEqual(
      rows.map((row) => [row.key.toString('hex'), row.amount, row.sqlstate]),
      [['70ff', '2', '22021']],
    );
  });

  interface RejectedRow extends Record<string, unknown> {
    readonly key: Buffer;
    readonly amount: string;
    readonly sqlstate: string | null;
    readonly lsn: string | null;
    readonly token: string | null;
    readonly digest: Buffer | null;
    readonly accepted_after: string | null;
  }

  async function rejectedOf(stream: string): Promise<readonly RejectedRow[]> {
    return database.query<RejectedRow>(
      `select key, amount, sqlstate, lsn::text, token, digest, extract(epoch from accepted_after)::float8::text as accepted_after
             from rejected_increments where stream = $1 order by id`,
      stream,
    );
  }

  test('requests that the row does not cover are kept when the checkpoint moves, claim no key, and are not counted', async () => {
    const { stream, epoch } = await shard.newStream();
    const pendingSums = new PendingSums(stream, { epoch, lsn: 0, coveredFrom: 1000 });
    const apply = (lsn: number, time: DatabaseTime, ...entries: readonly Buffer[]): void => {
      const record = Buffer.concat(entries);
      pendingSums.apply(lsn, record, 0, record.length, time);
    };
    const old = [
      ['u:a', 1],
      ['u:a', 20],
      ['u:b', -3],
    ] as const;
    apply(1, 0, idempotentEntry('u-none', [['u:a', 2 ** 53 - 1]], 1));
    apply(2, 999, idempotentEntry('u-old', old, 2), incrementEntries([['u:a', 100]]));
    apply(3, 1000, idempotentEntry('u-old', old, 2), idempotentEntry('u-new', [['u:b', 1000]], 3));
    const range = pendingSums.freeze();
    const committed = { kind: 'committed', keys: 2, duplicates: [], mismatches: 0 };
    assert.deepEqual(await shard.database.flush({ ...range, epoch: epoch + 1 }), { kind: 'fenced' });
    assert.deepEqual(await rejectedOf(stream), [], 'nothing is written where the fence does not match');
    assert.deepEqual(await shard.database.flush(range), committed);
    assert.deepEqual(await shard.database.flush(range), { kind: 'fenced' });
    assert.deepEqual(await sumsOf('u:'), { 'u:a': '121', 'u:b': '997' });
    assert.deepEqual(
      (await rejectedOf(stream)).map(({ key, digest, ...row }) => ({
        ...row,
        key: key.toString(),
        digest: digest?.[0],
      })),
      [
        { lsn: '1', token: 'u-none', key: 'u:a', amount: '9007199254740991', digest: 1, accepted_after: '-Infinity' },
        { lsn: '2', token: 'u-old', key: 'u:a', amount: '1', digest: 2, accepted_after: '999' },
        { lsn: '2', token: 'u-old', key: 'u:a', amount: '20', digest: 2, accepted_after: '999' },
        { lsn: '2', token: 'u-old', key: 'u:b', amount: '-3', digest: 2, accepted_after: '999' },
      ].map((row) => ({ ...row, sqlstate: null })),
    );
    const keys = await database.query<{ token: string }>(
      `select token from idempotency_keys where token like 'u-%' order by token`,
    );
    assert.deepEqual(
      keys.map(({ token }) => token),
      ['u-new', 'u-old'],
    );
    assert.equal((await rowOf(stream))['accepted_through'], '1000');
  });

  test('a range may have both: rows that PostgreSQL refuses and requests that are not covered', async () => {
    const { stream, epoch } = await shard.newStream();
    const pendingSums = new PendingSums(stream, { epoch, lsn: 0, coveredFrom: 1000 });
    const bad = Buffer.from([0x62, 0xff]);
    const record = Buffer.concat([
      idempotentEntry('both-old', [['both', 1]]),
      incrementEntries([
        ['both', 20],
        [bad, 3],
      ]),
    ]);
    pendingSums.apply(1, record, 0, record.length, 999);
    const range = pendingSums.freeze();
    assert.equal((await shard.database.flush(range)).kind, 'poison');
    assert.deepEqual(await rejectedOf(stream), []);
    const outcome = await shard.database.flushSettingAside(range);
    assert.deepEqual([outcome.kind, outcome.kind === 'committed' && outcome.rejected], ['committed', 1]);
    assert.deepEqual(
      (await rejectedOf(stream)).map(({ sqlstate, token }) => [sqlstate, token]).sort(),
      [
        ['22021', null],
        [null, 'both-old'],
      ].sort(),
    );
    assert.deepEqual(await sumsOf('both'), { both: '20' });
  });

  test('a session that ends during a flush leaves the outcome unknown, and the row shows it', async (context) => {
    const { stream, epoch } = await shard.newStream();
    const blocker = await database.connect(context, 'blocker');
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: 'select 1 from journal_checkpoints where stream = $1 for update', values: [stream] });
    const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [['killed', 1]]);
    const settled = assert.rejects(shard.flush(request), OutcomeUnknownError);
    await terminateWhenWaiting('shard');
    await settled;
    await blocker.query({ text: 'rollback' });
    assert.equal((await shard.readBack(stream))?.lsn, 0);
    assert.equal((await shard.flush(request)).applied, true);
    assert.deepEqual(await sumsOf('killed'), { killed: '1' });
  });

  test('reading back waits for a flush that goes on after its client gave up', async () => {
    const shortTimeout = new TestShard(database.url, {
      applicationName: 'short timeout',
      queryTimeoutMs: 300,
    });
    const blocker = await connectTo(database.url, 'blocker');
    try {
      const { stream, epoch } = await shard.newStream();
      await blocker.query({ text: `insert into counters (key, sum) values ('hot', 1)` });
      await blocker.query({ text: 'begin' });
      await blocker.query({ text: `update counters set sum = 2 where key = 'hot'` });
      const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [['hot', 10]]);
      await assert.rejects(shortTimeout.flush(request), OutcomeUnknownError);
      const readBack = shard.readBack(stream);
      await database.waitsForLock('shard');
      await blocker.query({ text: 'commit' });
      assert.equal((await readBack)?.lsn, 1);
      assert.deepEqual(await sumsOf('hot'), { hot: '12' });
    } finally {
      await blocker.close();
      await shortTimeout.close();
    }
  });

  test('every method rejects with database-unavailable where no server listens', async () => {
    const nowhere = new TestShard('postgres://u:secret@127.0.0.1:1/d', { applicationName: 'nowhere' });
    const expected = (error: unknown): boolean =>
      error instanceof CounterError && error.code === 'database-unavailable' && !error.detail.includes('secret');
    await assert.rejects(nowhere.readBack(randomUUID()), expected);
    await assert.rejects(nowhere.newStream(), expected);
    await assert.rejects(nowhere.database.look(), expected);
    assert.equal(nowhere.database.time, 0);
    await assert.rejects(
      nowhere.flush(flushOf({ stream: randomUUID(), epoch: 0, fromLsn: 0, toLsn: 1 }, [['k', 1]])),
      expected,
    );
    await nowhere.close();
  });

  async function terminateWhenWaiting(applicationName: string): Promise<void> {
    const pid = await database.waitsForLock(applicationName);
    await database.query('select pg_terminate_backend($1)', pid);
  }
});
