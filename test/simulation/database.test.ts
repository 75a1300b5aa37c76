/** The simulated database itself: transactions, locks, lost sessions, times, and the meaning of the statements. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeKeys, IdempotentArrayEncoder, SumArrayEncoder } from '#product/db/binary-array.js';
import * as log from '#product/db/log-statements.js';
import * as streams from '#product/db/stream-statements.js';
import * as session from '#product/db/session-statements.js';
import * as sql from '#product/db/statements.js';
import * as upkeep from '#product/db/upkeep-statements.js';
import { Mulberry32 } from '../support/mulberry32.js';
import type { DatabaseMutations } from './database/database-mutations.js';
import type { FlushEffect } from './database/flush-effect.js';
import type { SimulatedSession } from './database/session.js';
import type { Row } from './database/values.js';
import { PostgresModel } from './postgres-model.js';
import { Life, Scheduler } from './scheduler.js';

const STREAM = 'a-stream';
const NEVER = Number.NEGATIVE_INFINITY;

/** A client of the database. */
class Client {
  readonly life = new Life(rethrow);
  readonly #bench: Bench;
  readonly session: SimulatedSession;

  constructor(bench: Bench, session: SimulatedSession) {
    this.#bench = bench;
    this.session = session;
  }

  /** Sends a statement, and does not wait. */
  send(text: string, values: readonly unknown[] = []): Pending {
    return new Pending(this.session.query<Row>({ text, values }));
  }

  /** Sends statements one after the other; the rows of the last one. */
  async run(text: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
    return this.#bench.settled(this.send(text, values));
  }

  /** Takes the stream up to the commit, which it leaves to the caller. */
  async takeWithoutCommit(claim = 'claim'): Promise<Row> {
    await this.run(sql.BEGIN_TAKING);
    await this.run(sql.LOCK_PRUNED_BEFORE);
    const [row] = await this.run(sql.LOCK_CHECKPOINT, [STREAM]);
    const [taken] =
      row?.['epoch'] === null
        ? await this.run(sql.MAKE_CHECKPOINT, [STREAM, [claim], [0], 'node', 0, 'file', 0])
        : await this.run(sql.TAKE_CHECKPOINT, [STREAM, [claim], [0]]);
    assert.ok(taken !== undefined);
    return taken;
  }

  /** Takes the stream; its epoch. */
  async take(claim?: string): Promise<number> {
    const { epoch } = await this.takeWithoutCommit(claim);
    await this.run(sql.COMMIT_TAKING);
    return Number(epoch);
  }
}

/** A promise whose outcome can be looked at. */
class Pending {
  rows: readonly Row[] | undefined;
  error: unknown;

  constructor(promise: Promise<readonly Row[]>) {
    promise.then(
      (rows) => (this.rows = rows),
      (error: unknown) => (this.error = error),
    );
  }

  get isSettled(): boolean {
    return this.rows !== undefined || this.error !== undefined;
  }
}

/** A database with time of its own. */
class Bench {
  readonly scheduler = new Scheduler();
  readonly effects: FlushEffect[] = [];
  readonly database: PostgresModel;
  readonly #life = new Life(rethrow);

  constructor(mutations: DatabaseMutations = {}, seed = 1) {
    const watch = {
      sent: () => undefined,
      committed: (effect: FlushEffect | undefined) => {
        if (effect !== undefined) this.effects.push(effect);
      },
    };
    this.database = new PostgresModel(this.scheduler, new Mulberry32(seed), watch, mutations, 'an-id');
  }

  async connect(life = new Life(rethrow)): Promise<Client> {
    let session: SimulatedSession | undefined;
    void this.database.connect(life).then((made) => (session = made));
    await this.until(() => session !== undefined);
    assert.ok(session !== undefined);
    return new Client(this, session);
  }

  async settled(pending: Pending): Promise<readonly Row[]> {
    await this.until(() => pending.isSettled);
    if (pending.rows === undefined) throw pending.error as Error;
    return pending.rows;
  }

  async until(condition: () => boolean, ms = 60_000): Promise<void> {
    const isMet = await this.scheduler.run(condition, this.scheduler.now + ms, () => undefined);
    assert.ok(isMet, 'the condition is never met');
  }

  async pass(ms: number): Promise<void> {
    let isOver = false;
    this.scheduler.after(ms, this.#life, () => (isOver = true));
    await this.until(() => isOver, ms + 1);
  }

  get row() {
    const row = this.database.tables.checkpoints.get(STREAM);
    assert.ok(row !== undefined);
    return row;
  }
}

function rethrow(error: unknown): never {
  throw error;
}

/** Parameters of a flush that adds 1 to `key`. */
function flushOf(epoch: number, from: number, to: number, at: number, key = 'a'): readonly unknown[] {
  const sums = new SumArrayEncoder();
  sums.append(Buffer.from(key), 0, key.length, 1);
  return [STREAM, epoch, from, to, new Date(at), sums.keys(), sums.amounts()];
}

/** The parameters of an idempotent request that adds 1 to `a`. */
function requestOf(token: string): readonly Buffer[] {
  const encoder = new IdempotentArrayEncoder();
  const [name, digest] = [Buffer.from(token), Buffer.alloc(16, 1)];
  encoder.appendRequest(name, 0, name.length, digest, 0, digest.length);
  encoder.appendSum(Buffer.from('a'), 0, 1, 1);
  const { idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts } = encoder.finish();
  return [idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts];
}

test('the model knows every statement of shards and of the pruner', async () => {
  const elsewhere = [
    'DELETE_COUNTER',
    'READ_DELETE',
    'READ_COUNTERS',
    'LIST_COUNTERS',
    'LIST_COUNTERS_BELOW',
    // Parts of statements.
    'ADDED',
    'COUNTERS_NOT_WRITTEN',
    'KEYS_NOT_VISIBLE',
    'NEW_EPOCH',
    'ROW',
  ];
  const texts = [
    ...Object.entries(sql).flatMap(([name, text]) =>
      typeof text === 'string' && !elsewhere.includes(name) ? [text] : [],
    ),
    ...[session.IS_BACKEND_IDLE, session.END_IDLE_BACKEND, session.SET_TIMEOUTS, session.RESET_TIMEOUTS],
    ...[upkeep.TRY_PRUNER_LOCK, upkeep.PRUNER_UNLOCK, upkeep.NOTE_PRUNER_ROUND, upkeep.FIND_EXPIRED_STREAMS],
    ...[upkeep.EXPIRE_STREAM, upkeep.BEGIN_PRUNING, upkeep.LOCK_PRUNING, upkeep.ADVANCE_PRUNED_BEFORE],
    ...[upkeep.COMMIT_PRUNING, upkeep.PRUNE_IDEMPOTENCY_KEYS, upkeep.PRUNE_TOMBSTONES, upkeep.PRUNE_DELETES],
    upkeep.RETIRE_DEAD_STREAM,
  ];
  for (const text of texts) {
    const bench = new Bench();
    const client = await bench.connect();
    const none = encodeKeys([]);
    const values =
      text === sql.PROBE
        ? [none, none]
        : text === sql.READ_DIGESTS
          ? [[]]
          : text === upkeep.PRUNE_IDEMPOTENCY_KEYS
            ? [1, 10, '-infinity']
            : [STREAM, [], [], 0, null];
    if ([sql.FLUSH, sql.FLUSH_WITH_IDEMPOTENCY_KEYS, sql.FLUSH_WITH_REJECTED].includes(text)) {
      const [fence] = await client.run(text, flushOf(1, 0, 1, 0));
      assert.equal(fence?.['fenced'], 0);
    } else {
      await client.run(text, values);
    }
  }
});

test('a transaction sees its own changes, others see them after the commit', async () => {
  const bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  await one.takeWithoutCommit();
  assert.equal((await one.run(sql.READ_CLAIMS, [STREAM])).length, 1);
  assert.deepEqual(await two.run(sql.READ_CLAIMS, [STREAM]), []);
  assert.deepEqual(await two.run(sql.READ_BACK, [STREAM]), []);
  await one.run(sql.COMMIT_TAKING);
  assert.equal((await two.run(sql.READ_BACK, [STREAM])).length, 1);
});

test('a rollback leaves nothing but used numbers of the sequence', async () => {
  const bench = new Bench();
  const client = await bench.connect();
  await client.takeWithoutCommit();
  const { epochs } = bench.database.tables;
  await client.run(sql.ROLL_BACK_TAKING);
  assert.equal(bench.database.tables.checkpoints.size + bench.database.tables.claims.size, 0);
  const epoch = await client.take();
  assert.ok(epoch >= (epochs + 1) * 2 ** 20);
});

test('a statement waits for a row that another transaction has locked, and sees what that has committed', async () => {
  const bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const first = await one.take();
  await one.takeWithoutCommit();
  const readBack = two.send(sql.READ_BACK, [STREAM]);
  await bench.pass(1000);
  assert.equal(readBack.isSettled, false);
  await one.run(sql.COMMIT_TAKING);
  const [row] = await bench.settled(readBack);
  assert.ok(Number(row?.['epoch']) > first);
});

test('a flush that waits behind a taking finds another epoch and changes nothing', async () => {
  const bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const epoch = await one.take();
  await one.takeWithoutCommit();
  const flush = two.send(sql.FLUSH, flushOf(epoch, 0, 1, 0));
  await bench.pass(100);
  assert.equal(flush.isSettled, false);
  await one.run(sql.COMMIT_TAKING);
  const [result] = await bench.settled(flush);
  assert.equal(result?.['fenced'], 0);
  assert.equal(bench.database.tables.counters.size, 0);
});

test('a transaction that makes a row waits for another one that is making it', async (t) => {
  for (const end of [sql.COMMIT_TAKING, sql.ROLL_BACK_TAKING]) {
    await t.test(end, async () => {
      const bench = new Bench();
      const [one, two] = [await bench.connect(), await bench.connect()];
      await one.takeWithoutCommit();
      await two.run(sql.BEGIN_TAKING);
      await two.run(sql.LOCK_PRUNED_BEFORE);
      const [row] = await two.run(sql.LOCK_CHECKPOINT, [STREAM]);
      assert.equal(row?.['epoch'], null);
      const made = two.send(sql.MAKE_CHECKPOINT, [STREAM, ['other'], [0], 'node', 0, 'file', 0]);
      await bench.pass(500);
      assert.equal(made.isSettled, false);
      await one.run(end);
      assert.equal((await bench.settled(made)).length, end === sql.COMMIT_TAKING ? 0 : 1);
    });
  }
});

test('takings share the pruning lock, and a pruner waits for all of them', async () => {
  const bench = new Bench();
  const [one, two, pruner] = [await bench.connect(), await bench.connect(), await bench.connect()];
  for (const client of [one, two]) {
    await client.run(sql.BEGIN_TAKING);
    await client.run(sql.LOCK_PRUNED_BEFORE);
  }
  await pruner.run(upkeep.BEGIN_PRUNING);
  const lock = pruner.send(upkeep.LOCK_PRUNING);
  await one.run(sql.ROLL_BACK_TAKING);
  await bench.pass(100);
  assert.equal(lock.isSettled, false);
  await two.run(sql.ROLL_BACK_TAKING);
  await bench.settled(lock);
  const third = one.send(sql.LOCK_PRUNED_BEFORE);
  await bench.pass(100);
  assert.equal(third.isSettled, false);
  await pruner.run(upkeep.COMMIT_PRUNING);
  await bench.settled(third);
});

test('a lock timeout aborts the transaction, which releases its locks and takes nothing but a rollback', async () => {
  const bench = new Bench();
  const [one, two, three] = [await bench.connect(), await bench.connect(), await bench.connect()];
  await one.take();
  await one.takeWithoutCommit();
  await two.run(sql.BEGIN_TAKING);
  await two.run(sql.LOCK_PRUNED_BEFORE);
  const sentAt = bench.scheduler.now;
  await assert.rejects(two.run(sql.LOCK_CHECKPOINT, [STREAM]), { code: '55P03' });
  assert.ok(bench.scheduler.now - sentAt >= 5000 && bench.scheduler.now - sentAt < 5100);
  await assert.rejects(two.run(sql.READ_CLAIMS, [STREAM]), { code: '25P02' });
  await one.run(sql.COMMIT_TAKING);
  await three.run(upkeep.NOTE_PRUNER_ROUND);
  await two.run(sql.ROLL_BACK_TAKING);
  await two.take();
});

test('a transaction whose client is gone is rolled back within ten seconds', async () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const bench = new Bench({}, seed);
    const life = new Life(rethrow);
    const [one, two] = [await bench.connect(life), await bench.connect()];
    const epoch = await two.take();
    await one.takeWithoutCommit();
    if (seed % 2 === 0) life.end();
    else one.session.destroy();
    const lock = two.send(sql.READ_BACK, [STREAM]);
    const { scheduler } = bench;
    await bench.until(() => lock.isSettled || scheduler.now > 30_000);
    if (lock.error === undefined) assert.equal(lock.rows?.[0]?.['epoch'], String(epoch));
    const [row] = await two.run(sql.READ_BACK, [STREAM]).catch(() => two.run(sql.READ_BACK, [STREAM]));
    assert.equal(row?.['epoch'], String(epoch));
  }
});

test('a commit whose client is gone happens now, late or not at all', async () => {
  const outcomes = new Set<string>();
  for (let seed = 1; seed <= 200; seed += 1) {
    const bench = new Bench({}, seed);
    const client = await bench.connect();
    await client.takeWithoutCommit();
    const commit = client.send(sql.COMMIT_TAKING);
    await bench.pass(seed % 3);
    client.session.destroy();
    await bench.until(() => commit.isSettled);
    const isThere = (): boolean => bench.database.tables.checkpoints.has(STREAM);
    const soon = isThere();
    await bench.pass(15_000);
    outcomes.add(soon ? 'now' : isThere() ? 'late' : 'never');
  }
  assert.deepEqual([...outcomes].sort(), ['late', 'never', 'now']);
});

test('a crash of the server takes what is not committed', async () => {
  const bench = new Bench();
  const client = await bench.connect();
  await client.takeWithoutCommit();
  bench.database.crash();
  await assert.rejects(client.run(sql.COMMIT_TAKING));
  await bench.pass(100);
  assert.equal(bench.database.tables.checkpoints.size, 0);
  await (await bench.connect()).take();
});

test('a failover takes back rows, claims, idempotency keys and the sequence, and brings another clock', async () => {
  const bench = new Bench();
  const { database } = bench;
  const client = await bench.connect();
  const epoch = await client.take();
  const before = database.snapshot();
  await client.run(sql.FLUSH_WITH_IDEMPOTENCY_KEYS, [...flushOf(epoch, 0, 1, 0), ...requestOf('t')]);
  await client.take('later');
  const now = database.clock.now();
  database.failOver(before);
  assert.equal(bench.row.epoch, epoch);
  assert.deepEqual([database.tables.tokens.size, database.tables.counters.size, database.tables.epochs], [0, 0, 2]);
  assert.equal(database.tables.claims.get(STREAM)?.length, 1);
  const step = Math.abs(database.clock.now() - now) / database.clock.scale.rate;
  assert.ok(step <= 30, `${step} ms`);
});

test('a flush records each idempotency key once and returns those that were there before', async () => {
  const bench = new Bench();
  const client = await bench.connect();
  const epoch = await client.take();
  const flush = (from: number): Promise<readonly Row[]> =>
    client.run(sql.FLUSH_WITH_IDEMPOTENCY_KEYS, [...flushOf(epoch, from, from + 1, 0, 'b'), ...requestOf('t')]);
  const [first] = await flush(0);
  const [second] = await flush(1);
  assert.deepEqual([first?.['claimed'], first?.['unclaimed']], [1, null]);
  assert.deepEqual([second?.['claimed'], second?.['unclaimed']], [0, ['t']]);
  assert.deepEqual([...bench.database.tables.counters].sort(), [
    ['a', 1n],
    ['b', 2n],
  ]);
  const elsewhere = { idempotencyKey: 't', digest: Buffer.alloc(16, 1), sums: [['a', 1n]] as const };
  assert.equal(bench.database.countElsewhere(elsewhere), false);
  assert.equal(bench.database.countElsewhere({ ...elsewhere, idempotencyKey: 'u' }), true);
  assert.equal(bench.database.tables.counters.get('a'), 2n);
});

test('times of the database are its own, whole seconds, and a flush never lowers accepted_through', async () => {
  const bench = new Bench();
  const client = await bench.connect();
  const epoch = await client.take();
  const now = bench.database.clock.now();
  const [first] = await client.run(sql.FLUSH, flushOf(epoch, 0, 1, now));
  const second = Number(first?.['database_time']);
  assert.ok(Number.isInteger(second) && second * 1000 >= now - 1000 && second * 1000 <= bench.database.clock.now());
  await client.run(sql.FLUSH, flushOf(epoch, 1, 2, now - 5000));
  assert.equal(bench.row.acceptedThrough, now);
  const [touched] = await client.run(sql.TOUCH_CHECKPOINT, [STREAM, epoch, 2, null]);
  assert.ok(Number(touched?.['database_time']) >= second);
  assert.equal(bench.row.acceptedThrough, now);
});

test('the time of a taking is that of its statement, after the wait for a pruner', async () => {
  const bench = new Bench();
  const [one, pruner] = [await bench.connect(), await bench.connect()];
  await pruner.run(upkeep.BEGIN_PRUNING);
  await pruner.run(upkeep.LOCK_PRUNING);
  await one.run(sql.BEGIN_TAKING);
  const lock = one.send(sql.LOCK_PRUNED_BEFORE);
  await bench.pass(3000);
  const now = bench.database.clock.now();
  await pruner.run(upkeep.COMMIT_PRUNING);
  await bench.settled(lock);
  const [row] = await one.run(sql.LOCK_CHECKPOINT, [STREAM]);
  assert.ok(Number(row?.['database_time']) >= Math.floor(now / 1000));
  assert.deepEqual([row?.['covered_from'], row?.['retired'], row?.['closed']], [0, false, false]);
});

test('a closed row takes no flush, holds nothing up, and covers from pruned_before on when it is taken again', async () => {
  const bench = new Bench();
  const { database } = bench;
  const client = await bench.connect();
  const epoch = await client.take();
  assert.deepEqual([bench.row.coveredFrom, bench.row.acceptedThrough], [NEVER, NEVER]);
  assert.equal((await client.run(sql.CLOSE_STREAM, [STREAM, epoch, 0])).length, 1);
  const [refused] = await client.run(sql.FLUSH, flushOf(epoch, 0, 1, 0));
  assert.equal(refused?.['fenced'], 0);
  await client.run(upkeep.BEGIN_PRUNING);
  await client.run(upkeep.LOCK_PRUNING);
  const [{ horizon } = {}] = await client.run(upkeep.ADVANCE_PRUNED_BEFORE);
  await client.run(upkeep.COMMIT_PRUNING);
  const { prunedBefore } = database.tables.pruning;
  assert.equal(Date.parse(String(horizon)), prunedBefore);
  await client.take();
  assert.deepEqual([bench.row.coveredFrom, bench.row.acceptedThrough], [prunedBefore, NEVER]);
  assert.equal(bench.row.closedAt, undefined);
});

test('an open row holds the pruning up, and an idempotency key goes a window and the margin before the horizon', async () => {
  const bench = new Bench();
  const { database } = bench;
  const { scale } = database.clock;
  const client = await bench.connect();
  const epoch = await client.take();
  const prune = async (): Promise<unknown> => {
    await client.run(upkeep.BEGIN_PRUNING);
    await client.run(upkeep.LOCK_PRUNING);
    const [row] = await client.run(upkeep.ADVANCE_PRUNED_BEFORE);
    await client.run(upkeep.COMMIT_PRUNING);
    const [{ pruned } = {}] = await client.run(upkeep.PRUNE_IDEMPOTENCY_KEYS, [1, 10, row?.['horizon']]);
    return pruned;
  };
  database.countElsewhere({ idempotencyKey: 't', digest: Buffer.alloc(16), sums: [] });
  const claimedAt = database.clock.now();
  await bench.pass(2 * (scale.windowHourMs + scale.marginMs));
  assert.equal(await prune(), 0);
  const limit = claimedAt + database.clock.span(scale.windowHourMs + scale.marginMs);
  for (const [from, time, pruned] of [
    [0, limit, 0],
    [1, limit + 1, 1],
  ] as const) {
    await client.run(sql.FLUSH, flushOf(epoch, from, from + 1, time));
    assert.equal(await prune(), pruned);
  }
});

test('a stream expires only an hour after a gap between rounds, and under a new epoch', async () => {
  const bench = new Bench();
  const { database } = bench;
  const { scale } = database.clock;
  const client = await bench.connect();
  const epoch = await client.take();
  const expire = (): Promise<readonly Row[]> => client.run(upkeep.EXPIRE_STREAM, [1, STREAM]);
  await bench.pass(2 * scale.expiryDayMs);
  await client.run(upkeep.NOTE_PRUNER_ROUND);
  assert.deepEqual(await expire(), []);
  for (let waitedMs = 0; waitedMs <= scale.hourMs; waitedMs += scale.gapMs / 2) {
    await bench.pass(scale.gapMs / 2);
    await client.run(upkeep.NOTE_PRUNER_ROUND);
  }
  assert.deepEqual(await client.run(upkeep.FIND_EXPIRED_STREAMS, [1, 10]), [{ stream: STREAM }]);
  assert.equal((await expire()).length, 1);
  assert.ok(bench.row.epoch > epoch && bench.row.retiredAt !== undefined);
  assert.equal(database.expirations, 1);
});

test('one session at a time has the lock of the pruner, until it ends', async () => {
  const bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const tryLock = async (client: Client): Promise<unknown> => (await client.run(upkeep.TRY_PRUNER_LOCK))[0]?.['locked'];
  assert.deepEqual([await tryLock(one), await tryLock(two)], [true, false]);
  one.session.destroy();
  let tries = 0;
  while ((await tryLock(two)) !== true) assert.ok((tries += 1) < 20);
});

/** Parameters of an append of one record that adds 1 to `a`. */
function appendOf(epoch: unknown, lsn: number): readonly unknown[] {
  const sums = new SumArrayEncoder();
  sums.append(Buffer.from('a'), 0, 1, 1);
  return [STREAM, epoch, 0, lsn, [0], [1], [1], sums.keys(), sums.amounts()];
}

/** Begins the stream in the log; its append epoch. */
async function begin(client: Client): Promise<unknown> {
  await client.run(sql.BEGIN_TAKING);
  await client.run(sql.LOCK_PRUNED_BEFORE);
  const [row] = await client.run(streams.BEGIN_STREAM, [STREAM, 'node', 0, null]);
  await client.run(sql.COMMIT_TAKING);
  return row?.['append_epoch'];
}

/** Adopts the stream up to the commit; its row. */
async function adopt(client: Client): Promise<Row> {
  await client.run(sql.BEGIN_TAKING);
  await client.run(sql.LOCK_PRUNED_BEFORE);
  await client.run(streams.LOCK_STREAM, [STREAM]);
  await client.run(sql.LOCK_CHECKPOINT, [STREAM]);
  const [row] = await client.run(streams.ADOPT_STREAM, [STREAM, 'roll-up']);
  assert.ok(row !== undefined);
  return row;
}

test('the model knows every statement of journals that others can reach', async () => {
  const texts = [...Object.values(log), ...Object.values(streams)];
  for (const text of texts) {
    const bench = new Bench();
    const client = await bench.connect();
    const isAppend = text === log.APPEND || text === log.APPEND_IDEMPOTENT;
    await client.run(text, isAppend ? appendOf(1, 1) : text === streams.END_HEARTBEATS ? [[]] : [[], [], 1, null]);
  }
});

test('an append waits for an adoption, and then finds another owner', async () => {
  const bench = new Bench();
  const [writer, rollUp] = [await bench.connect(), await bench.connect()];
  const epoch = await begin(writer);
  assert.deepEqual(await writer.run(log.APPEND, appendOf(epoch, 1)), [{ fenced: 1, appended: 1 }]);
  await adopt(rollUp);
  const late = writer.send(log.APPEND, appendOf(epoch, 2));
  await bench.pass(1000);
  assert.equal(late.isSettled, false);
  await rollUp.run(sql.COMMIT_TAKING);
  assert.deepEqual(await bench.settled(late), [{ fenced: 0, appended: 0 }]);
});

test('an append refuses a record that is there, waits for one that another transaction inserts, and leaves a gap', async () => {
  const bench = new Bench();
  const [writer, other] = [await bench.connect(), await bench.connect()];
  const epoch = await begin(writer);
  bench.database.slowness = 100;
  const both = [writer.send(log.APPEND, appendOf(epoch, 1)), other.send(log.APPEND, appendOf(epoch, 1))];
  await bench.until(() => both.every(({ isSettled }) => isSettled));
  const codes = both.map(({ error }) => (error as { code?: string } | undefined)?.code);
  assert.deepEqual(codes.sort(), ['23505', undefined]);
  assert.deepEqual(await writer.run(log.APPEND, appendOf(epoch, 3)), [{ fenced: 1, appended: 0 }]);
  assert.equal(bench.database.tables.log.get(STREAM)?.length, 1);
});

test('a retirement sees the log as it was before it waited, but the fence as it is', async () => {
  const bench = new Bench();
  const [writer, rollUp, other] = [await bench.connect(), await bench.connect(), await bench.connect()];
  await begin(writer);
  const { epoch, append_epoch } = await adopt(rollUp);
  await rollUp.run(sql.COMMIT_TAKING);
  await adopt(other);
  const retirement = rollUp.send(streams.RETIRE_LOG_STREAM, [STREAM, epoch, 0, append_epoch]);
  await bench.pass(1000);
  assert.equal(retirement.isSettled, false);
  await other.run(sql.COMMIT_TAKING);
  assert.deepEqual(await bench.settled(retirement), []);
  assert.equal(bench.row.retiredAt, undefined);
});

test('a touch takes accepted_through of the writer over only at the end of the journal', async () => {
  const bench = new Bench();
  const [writer, rollUp] = [await bench.connect(), await bench.connect()];
  const appendEpoch = await begin(writer);
  const word = Math.floor(bench.database.clock.now() / 1000) - 1;
  await writer.run(streams.ADVANCE_ACCEPTED_THROUGH, [STREAM, appendEpoch, word]);
  await writer.run(log.APPEND, appendOf(appendEpoch, 1));
  const { epoch } = bench.row;
  await rollUp.run(streams.TOUCH_LOG_STREAM, [STREAM, epoch, 0]);
  assert.equal(bench.row.acceptedThrough, NEVER);
  await rollUp.run(sql.FLUSH, flushOf(epoch, 0, 1, 0));
  await rollUp.run(streams.TOUCH_LOG_STREAM, [STREAM, epoch, 1]);
  assert.equal(bench.row.acceptedThrough, 1000 * word);
});

test('a client that is frozen learns later what has happened, and its open transaction ends with the server', async () => {
  const bench = new Bench();
  const client = await bench.connect();
  await client.takeWithoutCommit();
  client.session.life.freeze();
  const commit = client.send(sql.COMMIT_TAKING);
  bench.database.crash();
  await bench.pass(1000);
  assert.equal(commit.isSettled, false);
  assert.equal(bench.database.tables.checkpoints.size, 0);
  client.session.life.thaw(bench.scheduler);
  await bench.until(() => commit.isSettled);
  assert.ok(commit.error !== undefined);
});
