/**
 * Two owners of one stream, in cases that are too rare in random histories: copies of a data directory, and statements of a
 * process that has ended. Each case ends well, and not with the bug that it names.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as sql from '#product/db/statements.js';
import { Copies, isDouble, isLoss } from './copied-directory.js';
import type { Mutations } from './mutations.js';

/** Two copies of a directory whose stream has no row yet: the first start makes it, the second must not take it for its own. */
async function registerTwice(history: Copies): Promise<void> {
  const first = await history.startRefused();
  const copy = history.copy();
  assert.equal(await history.count(first, 'b'), 'acknowledged');
  first.crash();
  const second = await history.recovered(copy);
  assert.equal(await history.count(second, 'c'), 'acknowledged');
  await history.stop(second);
  history.admit();
  await history.checkRefused(history.start(1));
}

/** The journal of a process grows while it takes a stream that a copy of its directory has taken before. */
async function growWhileTaking(history: Copies): Promise<void> {
  const first = await history.startRefused();
  const second = await history.recovered(history.copy());
  assert.equal(await history.count(second, 'c'), 'acknowledged');
  const { database } = history.world;
  const submit = database.submit.bind(database);
  database.submit = (session, statement, resolve, reject) => {
    if (statement.text === sql.TAKE_CHECKPOINT) history.send(first, 'b');
    submit(session, statement, resolve, reject);
  };
  database.slowness = 20;
  history.admit();
  await history.until(() => first.end !== undefined || first.isRecovered);
  if (first.end === undefined) await history.stop(first);
  second.crash();
  await history.checkRefused(history.start(1));
}

/** A copy takes the stream twice: the records that both directories hold end where it took it first. */
async function takeTwice(history: Copies): Promise<void> {
  const first = await history.recovered();
  assert.equal(await history.count(first, 'a'), 'acknowledged');
  await history.flush(first);
  const copy = history.copy();
  assert.equal(await history.count(first, 'b'), 'acknowledged');
  first.crash();
  const second = await history.recovered(copy);
  assert.equal(await history.count(second, 'c'), 'acknowledged');
  await history.stop(second);
  await history.stop(await history.recovered(copy));
  await history.checkRefused(history.start(1));
}

/** A directory is copied with the id of a claim, which only the original uses, after the copy has taken the stream. */
async function useCopiedId(history: Copies): Promise<void> {
  const first = await history.startRefused();
  const copy = history.copy();
  const second = await history.recovered(copy);
  assert.equal(await history.count(second, 'x'), 'acknowledged');
  history.admit();
  await history.until(() => first.isRecovered);
  assert.equal(await history.count(first, 'd'), 'acknowledged');
  await history.flush(first);
  void second.flushAll().catch(() => undefined);
  await history.until(() => second.end !== undefined || !second.isRecovered);
  if (second.end === undefined) {
    await history.until(() => second.isRecovered);
    await history.stop(second);
    await history.stop(first);
    history.checkAll();
  }
  assert.equal(second.end, 'foreign');
  await history.stop(first);
  await history.checkRefused(history.start(1, copy));
}

/** Two processes on copies take the stream at the same time. */
async function takeAtOnce(history: Copies): Promise<void> {
  const first = await history.recovered();
  assert.equal(await history.count(first, 'a'), 'acknowledged');
  await history.flush(first);
  const copy = history.copy();
  assert.equal(await history.count(first, 'b'), 'acknowledged');
  first.crash();
  const taking = history.holdNext(sql.TAKE_CHECKPOINT);
  const again = history.start(1);
  await history.until(() => taking.isHeld);
  const second = history.start(1, copy);
  await history.pass(1000);
  if (second.isRecovered) {
    assert.equal(await history.count(second, 'c'), 'acknowledged');
    await history.flush(second);
  }
  taking.release();
  await history.until(() => second.isRecovered && (again.isRecovered || again.end !== undefined));
  for (const node of [again, second]) {
    void node.flushAll().catch(() => undefined);
    await history.pass(1000);
    node.crash();
  }
  await history.checkRefused(history.start(1));
}

/** A process goes on with a stream that a copy of its directory has taken. */
async function goOnBeside(history: Copies): Promise<void> {
  const first = await history.recovered();
  assert.equal(await history.count(first, 'a'), 'acknowledged');
  await history.flush(first);
  const copy = history.copy();
  const second = await history.recovered(copy);
  assert.equal(await history.count(first, 'b'), 'acknowledged');
  assert.equal(await history.count(second, 'c'), 'acknowledged');
  for (const node of [first, second]) {
    void node.flushAll().catch(() => undefined);
    await history.pass(1000);
  }
  first.crash();
  second.crash();
  await history.stop(await history.recovered(copy));
  await history.checkRefused(history.start(1));
}

/** A process touches a stream that a copy of its directory has taken. */
async function touchBeside(history: Copies): Promise<void> {
  const first = await history.recovered();
  assert.equal(await history.count(first, 'a'), 'acknowledged');
  await history.flush(first);
  const second = await history.recovered(history.copy());
  await history.flushAfterWindow(second);
}

/** The close of a process that was killed at its stop arrives when the next process has taken the stream. */
async function closeLate(history: Copies): Promise<void> {
  const first = await history.recovered();
  assert.equal(await history.count(first, 'a'), 'acknowledged');
  const close = history.holdNext(sql.CLOSE_STREAM);
  void first.terminate();
  await history.until(() => close.isHeld);
  first.crash();
  const second = await history.recovered();
  // Each time it arrives or not.
  await history.flushAfterWindow(second, () => Array.from({ length: 10 }, () => close.release()));
}

const CASES: readonly {
  readonly what: string;
  readonly run: (history: Copies) => Promise<void>;
  readonly bug: string;
  readonly mutations: Mutations;
  /** An increment counts twice; otherwise one is lost. */
  readonly isDouble?: boolean;
  readonly touchMs?: number;
}[] = [
  {
    what: 'two copies of a directory that has no row yet do not both take the row for their own',
    run: registerTwice,
    bug: 'a registration that takes any row for its own',
    mutations: { registerBlindly: true },
  },
  {
    what: 'a journal that grows above the claim of a copy while it takes the stream is refused',
    run: growWhileTaking,
    bug: 'no second look at the journal after a taking',
    mutations: { noSecondLook: true },
  },
  {
    what: 'the claim with the smallest end counts among those of a copy',
    run: takeTwice,
    bug: 'the last claim of others instead of the smallest end',
    mutations: { lastClaim: true },
  },
  {
    what: 'a copy of a directory does not take a copied claim for its own',
    run: useCopiedId,
    bug: 'a copied id for one of ours',
    mutations: { trustCopiedIds: true },
  },
  {
    what: 'two copies do not take a stream at the same time',
    run: takeAtOnce,
    bug: 'a taking without the lock on the row',
    mutations: { takeWithoutRowLock: true },
  },
  {
    what: 'a process flushes nothing after a copy of its directory has taken its stream',
    run: goOnBeside,
    bug: 'a taking that keeps the epoch',
    mutations: { takeKeepsEpoch: true },
  },
  {
    what: 'a touch changes nothing after a copy of the directory has taken the stream',
    run: touchBeside,
    bug: 'a touch that compares the LSN only',
    mutations: { touchComparesLsnOnly: true },
    isDouble: true,
    touchMs: 200,
  },
  {
    what: 'a touch of an earlier owner changes nothing',
    run: touchBeside,
    bug: 'a touch that compares nothing',
    mutations: { touchComparesNothing: true },
    isDouble: true,
    touchMs: 200,
  },
  {
    what: 'a late close does not close the stream of the next process',
    run: closeLate,
    bug: 'a close that compares no epoch, and a flush that applies to a closed row',
    mutations: { closeComparesLsnOnly: true, fenceIgnoresState: true },
    isDouble: true,
  },
];

for (const { what, run, bug, mutations, isDouble: countsTwice = false, touchMs } of CASES) {
  test(what, () => run(new Copies({}, touchMs)));
  test(`an increment ${countsTwice ? 'counts twice' : 'is lost'} with ${bug}`, () =>
    assert.rejects(run(new Copies(mutations, touchMs)), countsTwice ? isDouble : isLoss));
}
