import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connect, type Session } from '#product/db/connection.js';
import { OutcomeUnknownError } from '#product/db/database-errors.js';
import { eventually } from '../../support/eventually.js';
import { flushOf, TestShard } from '../../support/flushes.js';
import { ManualClock } from '../../support/manual-clock.js';
import { SuiteDatabase } from '../../support/migrated-database.js';
import { asksForFlush, TcpProxy, type ClientDataFate } from '../../support/tcp-proxy.js';

describe('The connection of a shard', () => {
  const database = new SuiteDatabase();

  interface Watched {
    readonly shard: TestShard;
    readonly clock: ManualClock;
    readonly proxy: TcpProxy;
    /** Number of connections that were requested. */
    readonly connections: () => number;
    /** After the first connection: the network is down. */
    isDown: boolean;
  }

  /** Runs `body` with a shard behind a proxy. */
  async function withShard(name: string, body: (watched: Watched) => Promise<void>): Promise<void> {
    const proxy = await TcpProxy.start(database.url);
    const clock = new ManualClock();
    let connections = 0;
    const watched = {
      clock,
      proxy,
      connections: () => connections,
      isDown: false,
      shard: new TestShard(proxy.urlOf(database.url), {
        applicationName: name,
        clock,
        connect: (target, options): Promise<Session> => {
          connections += 1;
          return watched.isDown ? Promise.reject(new Error('timeout expired')) : connect(target, options);
        },
      }),
    };
    try {
      await body(watched);
    } finally {
      await watched.shard.close();
      await proxy.close();
    }
  }

  async function sessionsOf(name: string): Promise<number> {
    const [row] = await database.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity where application_name = $1 and datname = current_database()`,
      name,
    );
    return row?.count ?? 0;
  }

  for (const [what, fate, committed] of [
    ['a statement that was swallowed', 'swallow', false],
    ['an answer that was swallowed', 'blackhole', true],
  ] as const satisfies readonly (readonly [string, ClientDataFate, boolean])[]) {
    test(`${what} is noticed within seconds, and its session is ended at the server, too`, async () => {
      const name = `watched ${fate}`;
      await withShard(name, async ({ shard, clock, proxy }) => {
        const { stream, epoch } = await shard.newStream();
        const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [[fate, 1]]);
        proxy.setRule((bytes) => (asksForFlush(bytes) && proxy.faults === 0 ? fate : 'forward'));
        let isSettled = false;
        const flush = assert.rejects(shard.flush(request), OutcomeUnknownError).finally(() => (isSettled = true));
        await eventually('the fault', () => Promise.resolve(proxy.faults === 1));
        clock.advance(1999);
        assert.equal(clock.timers, 1);
        clock.advance(1);
        await eventually('the outcome is unknown', () => {
          // The server process must have been idle for a second on the server's clock.
          clock.advance(1000);
          return Promise.resolve(isSettled);
        });
        await flush;
        assert.equal((await shard.readBack(stream))?.lsn, committed ? 1 : 0);
        assert.equal((await shard.flush(request)).applied, !committed);
        await eventually('one session is left', async () => (await sessionsOf(name)) === 1);
        assert.equal(clock.timers, 0);
      });
    });
  }

  test('a statement that waits for a lock is not ended, whether the server can be asked or not', async (context) => {
    await withShard('watched waiting', async (watched) => {
      const { shard, clock } = watched;
      const { stream, epoch } = await shard.newStream();
      const blocker = await database.connect(context, 'blocker');
      await blocker.query({ text: 'begin' });
      await blocker.query({ text: 'select from journal_checkpoints where stream = $1 for update', values: [stream] });
      const flush = shard.flush(flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [['waiting', 1]]));
      await eventually('the flush is sent', () => Promise.resolve(clock.timers === 1));
      for (let look = 1; look <= 3; look += 1) {
        watched.isDown = look === 2;
        clock.advance(2000);
        await eventually('the next look is due', () => Promise.resolve(clock.timers === 1));
        assert.equal(watched.connections(), 1 + look);
      }
      await blocker.query({ text: 'rollback' });
      assert.equal((await flush).applied, true);
      assert.equal(clock.timers, 0);
      await eventually('one session is left', async () => (await sessionsOf('watched waiting')) === 1);
    });
  });

  test('where a second connection gets no answer either, twice in a row, the outcome is unknown, and is read back later', async () => {
    await withShard('watched silent', async (watched) => {
      const { shard, clock, proxy } = watched;
      const { stream, epoch } = await shard.newStream();
      const request = flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, [['silent', 1]]);
      proxy.setRule((bytes) => (asksForFlush(bytes) && proxy.faults === 0 ? 'blackhole' : 'forward'));
      watched.isDown = true;
      const flush = assert.rejects(shard.flush(request), OutcomeUnknownError);
      await eventually('the fault', () => Promise.resolve(proxy.faults === 1));
      clock.advance(2000);
      await eventually('the second look is due', () =>
        Promise.resolve(watched.connections() === 2 && clock.timers === 1),
      );
      clock.advance(1000);
      await flush;
      await assert.rejects(shard.readBack(stream), { code: 'database-unavailable' });
      watched.isDown = false;
      assert.equal((await shard.readBack(stream))?.lsn, 1);
    });
  });

  test('a flush of many bytes has more time before the server is asked', async () => {
    await withShard('watched large', async ({ shard, clock, proxy, connections }) => {
      const { stream, epoch } = await shard.newStream();
      proxy.setRule((bytes) => (bytes.includes('large key') ? 'swallow' : 'forward'));
      const increments = Array.from({ length: 200_000 }, (_, n) => [`large key ${n}`.padEnd(100, '.'), 1] as const);
      const flush = shard.flush(flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, increments));
      const settled = assert.rejects(flush, OutcomeUnknownError);
      await eventually('the fault', () => Promise.resolve(proxy.faults > 0));
      clock.advance(4000);
      assert.equal(connections(), 1);
      clock.advance(1000);
      await eventually('the server was asked', () => {
        clock.advance(1000);
        return Promise.resolve(connections() > 1);
      });
      proxy.cut();
      await settled;
    });
  });
});
