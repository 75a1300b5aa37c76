import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { connectTo, silentLogger } from '../support/database-connection.js';
import { childrenOf, killPostgres } from '../support/given-postgres.js';
import { temporaryDirectory } from '../support/server.js';

/** The process of a PostgreSQL that this process has started, which recovers from a crash. */
function recoveringProcess(): number | undefined {
  return childrenOf(process.pid)
    .flatMap(childrenOf)
    .find((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('postgres: startup');
      } catch {
        return false;
      }
    });
}

test('the embedded PostgreSQL starts although a process of it is killed while it recovers from a crash', async () => {
  const dataDir = await temporaryDirectory();
  const start = (): Promise<EmbeddedPostgres> =>
    startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections: 5 });
  try {
    const first = await start();
    const connection = await connectTo(first.url);
    // Takes a moment to recover.
    for (let round = 0; round < 5; round += 1)
      await connection.query({ text: `select pg_logical_emit_message(false, 'test', repeat('x', 10000000))` });
    const ended = new Promise<void>((resolve) => first.onExit(() => resolve()));
    killPostgres(first.pid);
    await ended;
    await first.stop();
    connection.destroy();

    let killed: number | undefined;
    let isOver = false;
    const killing = (async (): Promise<void> => {
      while (!isOver && killed === undefined) {
        const recovering = recoveringProcess();
        if (recovering !== undefined && process.kill(recovering, 'SIGKILL')) killed = recovering;
        await turn();
      }
    })();
    const second = await start().finally(() => (isOver = true));
    await killing;
    await second.stop();
    assert.notEqual(killed, undefined);
  } finally {
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
});
