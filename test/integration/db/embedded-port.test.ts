/** The embedded PostgreSQL ends by itself, and another process takes its port before it is back. */
import { mkdtemp, chmod, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { silentLogger } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';

/** Listens on the port as soon as it is free. */
async function takePort(port: number): Promise<Server> {
  return eventually(
    'the port is free',
    () =>
      new Promise<Server | false>((resolve) => {
        const server = createServer();
        server.once('error', () => resolve(false));
        server.listen(port, '127.0.0.1', () => resolve(server));
      }),
  );
}

test('an embedded database whose port another process has taken reports that and the remedy, and is back once the port is free', async () => {
  const dataDir = await mkdtemp(path.join(os.tmpdir(), 'summing-counters-embedded-'));
  await chmod(dataDir, 0o755);
  const said: string[] = [];
  const note = (_: object, message: string): void => void said.push(message);
  const logger = { ...silentLogger, error: note, warn: note };
  const database = await startEmbeddedPostgres({ dataDir, logger, maxConnections: 5 });
  try {
    const port = Number(new URL(database.url).port);
    const taken = new Promise<Server>((resolve, reject) => {
      database.onExit(() => void takePort(port).then(resolve, reject));
    });
    process.kill(database.pid, 'SIGKILL');
    const holder = await taken;
    const told = `another process listens on its port, 127.0.0.1:${port}. End that process, or restart this server`;
    await eventually('the log says so', () => Promise.resolve(said.some((line) => line.includes(told))));
    holder.close();
    const isBack = (): Promise<boolean> => Promise.resolve(said.includes('Embedded PostgreSQL is running again'));
    await eventually('it runs again', isBack);
  } finally {
    await database.stop();
    await rm(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  }
});
