import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { test } from 'node:test';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, send } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, temporaryDirectory } from '../../support/server.js';
import { assertCleanStop } from '../../support/suite-server.js';

interface StreamRow {
  readonly stream: string;
  readonly shard: number;
  readonly retired: boolean;
}

test('the stream of a memory journal is retired when its shard restarts, when its process stops, and when its shard no longer exists', async () => {
  const database = await createTestDatabase();
  const dataDir = await temporaryDirectory();
  const connection = await connectTo(database.url);
  const streams = (): Promise<readonly StreamRow[]> =>
    connection.query<StreamRow & Record<string, unknown>>({
      text: `select stream::text, shard, retired_at is not null as retired from journal_checkpoints order by created_at`,
    });
  const start = (shards: number): ReturnType<typeof startServer> =>
    startServer({ dataDir, env: { DATABASE_URL: database.url, JOURNAL: 'memory', SHARDS: String(shards) } });
  try {
    const first = await start(1);
    assertCreated(await increment(first.url, { a: 1 }));
    assert.equal((await send(first.url, '/flush', { method: 'POST' })).status, 200);
    // The shard finds that its checkpoint moved, and is restarted.
    await connection.query({ text: 'update journal_checkpoints set lsn = lsn - 1' });
    assertCreated(await increment(first.url, { a: 1 }));
    const [before, after] = await eventually('a second stream', async () => {
      const rows = await streams();
      return rows.length === 2 && rows[0]?.retired === true ? rows : undefined;
    });
    assert.deepEqual([before?.retired, after?.retired], [true, false]);
    await eventually('it takes increments again', async () => (await increment(first.url, { a: 1 })).status === 202);
    await first.stop();
    assert.ok((await streams()).every(({ retired }) => retired));
    await first.dispose();

    const second = await start(2);
    assertCreated(await increment(second.url, { a: 1, b: 1, c: 1 }));
    second.kill('SIGKILL');
    await second.ended;
    const unretired = async (): Promise<readonly number[]> =>
      (await streams()).filter(({ retired }) => !retired).map(({ shard }) => shard);
    assert.deepEqual([...(await unretired())].sort(), [0, 1]);
    const third = await start(1);
    assert.deepEqual(await unretired(), [0]);
    await assertCleanStop(third);
    assert.deepEqual(await unretired(), []);
    await third.dispose();
  } finally {
    await connection.close();
    await rm(dataDir, { recursive: true, force: true });
    await database.drop();
  }
});
