/** A shard that writes into a queue, while PostgreSQL is unavailable all the time. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { systemClock } from '#product/core/clock.js';
import { JournalError } from '#product/core/errors.js';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { decodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import type { Queue, SendOutcome } from '#product/shard-worker/journal/sqs/queue.js';
import { SqsJournal } from '#product/shard-worker/journal/sqs/sqs-journal.js';
import { makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { Shard } from '#product/shard-worker/thread/shard.js';
import { ShardContext } from '#product/shard-worker/thread/shard-context.js';
import { SharedStreams } from '#product/shard-worker/thread/streams/shared-streams.js';
import { freePort } from '../../../support/free-port.js';
import { eventually } from '../../../support/eventually.js';
import { incrementRecord, NODE_ID } from '../../../support/journal-fixtures.js';

/** What a test lets the queue answer. */
class AnsweringQueue implements Queue {
  readonly store = { id: randomUUID(), databaseId: randomUUID(), isAdopted: false };
  readonly address = '';
  answer: SendOutcome = { kind: 'sent' };
  sendMs = 0;
  uptimeMs = 5000;
  readonly sends: { readonly id: string; readonly data: Uint8Array }[] = [];

  send(_: string, id: string, data: Uint8Array): Promise<SendOutcome> {
    this.sends.push({ id, data });
    this.uptimeMs += this.sendMs;
    return Promise.resolve(this.answer);
  }

  receive(): Promise<readonly never[]> {
    return Promise.reject(new Error('a shard that writes receives nothing'));
  }

  extend(): Promise<void> {
    return Promise.resolve();
  }

  release(): Promise<void> {
    return Promise.resolve();
  }

  delete(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    // Nothing is open.
  }
}

const unknown: SendOutcome = { kind: 'unknown', error: new Error('no answer') };
const refused: SendOutcome = { kind: 'refused', error: new Error('no'), isThrottled: false };

let queue: AnsweringQueue;
let stats: Float64Array;
let shard: Shard;
let failures: unknown[];
let keepAlive: NodeJS.Timeout;

describe('a shard that writes into a queue', () => {
  beforeEach(async () => {
    // The timers of a shard do not keep a process alive.
    keepAlive = setInterval(() => undefined, 1000);
    queue = new AnsweringQueue();
    stats = statsRow(makeStats(1), 0);
    failures = [];
    const target = parseDatabaseUrl(`postgresql://nobody@127.0.0.1:${await freePort()}/none`);
    const open = (): ShardConnection => new ShardConnection(target, { applicationName: 'test' });
    const [flushes, flushTurns] = [open(), new Turns()];
    const log = (): void => undefined;
    const context = new ShardContext({
      database: new PostgresShardDatabase(flushes, { node: NODE_ID, shard: 0, journal: 'sqs' }, flushTurns),
      ...{ clock: systemClock, stats, random: () => 0.5, flushIntervalMs: 20, ackTimeoutMs: 200 },
      earlyFlush: { keysMax: 1000, bytesMax: 2 ** 20, recordBytesMax: 2 ** 20 },
      tell: () => undefined,
      fail: (error) => failures.push(error),
      log,
    });
    const incrementLog = new SqsJournal({
      ...{ appends: queue, receives: queue, statements: open(), flushes, flushTurns },
      ...{ clock: { ...systemClock, uptime: () => queue.uptimeMs }, groupBytesMax: 100_000, log },
      owner: { node: NODE_ID, shard: 0, flusher: undefined },
    });
    const owner = { node: NODE_ID, shard: 0, shards: 1 };
    const intervals = { roundMs: 20, retryMs: 20 };
    const deps = { ...owner, role: 'ingest' as const, incrementLog, intervals };
    const makeFlushed = (): never => assert.fail('this role flushes nothing');
    shard = new Shard(context, new SharedStreams(context, { ...deps, makeFlushed }));
  });

  afterEach(async () => {
    await shard.drain();
    clearInterval(keepAlive);
    assert.deepEqual(failures, []);
  });

  function isRefusing(): boolean {
    return stats[STAT.journalRefused] === 1;
  }

  test('begins its stream, refuses increments while the queue does not answer, and then accepts them again', async () => {
    queue.answer = unknown;
    await shard.start();
    await eventually('hellos', () => Promise.resolve(queue.sends.length >= 3));
    assert.ok(isRefusing());
    const [opening] = queue.sends;
    for (const { id, data } of queue.sends) assert.deepEqual({ id, data }, opening);
    queue.answer = { kind: 'sent' };
    await eventually('a stream', () => Promise.resolve(!isRefusing()));
    assert.equal(await shard.append([incrementRecord('a', 1)], shard.heardTime), 2);
    queue.answer = unknown;
    await assert.rejects(
      Promise.resolve(shard.append([incrementRecord('a', 2)], shard.heardTime)),
      (error) => error instanceof JournalError && error.code === 'journal-failed',
    );
    assert.ok(isRefusing());
    // Beats of unknown outcome burn LSNs, and more follow.
    const lastLsn = (): number => decodeQueueMessage(queue.sends.at(-1)?.data ?? new Uint8Array(0)).lastLsn;
    await eventually('two beats', () => Promise.resolve(lastLsn() >= 5));
    queue.answer = { kind: 'sent' };
    await eventually('an answer', () => Promise.resolve(!isRefusing()));
    const lsn = await shard.append([incrementRecord('a', 3)], shard.heardTime);
    assert.ok(lsn > 5);
    const { previousLsn } = decodeQueueMessage(queue.sends.at(-1)?.data ?? new Uint8Array(0));
    assert.ok(previousLsn >= 5 && previousLsn < lsn);
  });

  test('begins another stream when an opening record is under way for an hour, whatever its answer', async () => {
    queue.sendMs = 3_600_000;
    await shard.start();
    await eventually('openings', () => Promise.resolve(queue.sends.length >= 3));
    assert.ok(isRefusing());
    assert.equal(new Set(queue.sends.map(({ id }) => id)).size, queue.sends.length);
    queue.sendMs = 0;
    await eventually('a stream', () => Promise.resolve(!isRefusing()));
  });

  test('sends the closing record of the stream at a clean stop, even without the database', async () => {
    await shard.start();
    await eventually('a stream', () => Promise.resolve(!isRefusing()));
    await shard.append([incrementRecord('a', 1)], shard.heardTime);
    await shard.drain();
    const last = decodeQueueMessage(queue.sends.at(-1)?.data ?? new Uint8Array(0));
    assert.deepEqual([last.isClose, last.firstLsn, last.previousLsn], [true, 3, 2]);
  });

  test('keeps nothing while the queue refuses messages', async () => {
    await shard.start();
    await eventually('a stream', () => Promise.resolve(!isRefusing()));
    queue.answer = refused;
    await assert.rejects(
      Promise.resolve(shard.append([incrementRecord('a', 1)], shard.heardTime)),
      (error) => error instanceof JournalError && error.nothingKept,
    );
    queue.answer = { kind: 'sent' };
    await eventually('an answer', () => Promise.resolve(!isRefusing()));
  });
});
