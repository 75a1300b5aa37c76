/** How long the connection of a shard waits for an answer before it asks the server, after it has been dropped for its silence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Session, Statement } from '#product/db/connection.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { OutcomeUnknownError } from '#product/db/database-errors.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { ManualClock } from '../../support/manual-clock.js';

/** A network that swallows what it is told to, and a server that has nothing to do for a session. */
class Network {
  readonly clock = new ManualClock();
  swallows = false;
  readonly connection = new ShardConnection(parseDatabaseUrl('postgres://u:p@127.0.0.1/d'), {
    applicationName: 'test',
    clock: this.clock,
    connect: () => Promise.resolve(this.#session()),
  });

  #session(): Session {
    let drop: (error: Error) => void = () => undefined;
    const session: { -readonly [Name in keyof Session]: Session[Name] } = {
      backend: { pid: 1, startedAt: '1' },
      lost: false,
      query: <Row extends object>({ text }: Statement): Promise<Row[]> => {
        if (text !== 'work') return Promise.resolve([{ idle: true }] as unknown as Row[]);
        if (!this.swallows) return Promise.resolve([]);
        return new Promise((_, reject) => (drop = reject));
      },
      destroy: () => {
        session.lost = true;
        drop(new Error('destroyed'));
      },
      close: () => Promise.resolve(),
    };
    return session;
  }

  work(bytes: number): Promise<object[]> {
    return this.connection.run({ text: 'work', values: [Buffer.alloc(bytes)] });
  }

  /** How long a statement waits until its connection is dropped, in ms. */
  async dropAfter(bytes: number): Promise<number> {
    this.swallows = true;
    let isDropped = false;
    const from = this.clock.monotonic();
    const work = assert.rejects(this.work(bytes), OutcomeUnknownError).finally(() => (isDropped = true));
    for (;;) {
      for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      if (isDropped) break;
      this.clock.advance(500);
    }
    await work;
    this.swallows = false;
    return this.clock.monotonic() - from;
  }
}

test('silence doubles the time before the next look, until a statement of that size succeeds', async () => {
  const network = new Network();
  assert.equal(await network.dropAfter(100), 2000);
  assert.equal(await network.dropAfter(10), 4000);
  await network.work(99);
  assert.equal(await network.dropAfter(10), 8000);
  await network.work(100);
  assert.equal(await network.dropAfter(10), 2000);
  await network.work(10);
  assert.equal(await network.dropAfter(100), 2000);
});
