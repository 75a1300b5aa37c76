/** A nats-server for the benchmark alone: one server, storage in files, and its own default of how often it syncs them. */
import { spawnSync } from 'node:child_process';
import { freePort } from '../../test/support/free-port.js';
import { cpuTime } from './process-cost.js';
import { ownedDirectory, removeOwned, startOwned } from './owned-process.js';

/** Debian has it there. */
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin`;

/** A running broker. */
export interface BenchNats {
  /** The environment of a server that has its journal there. */
  readonly env: Readonly<Record<string, string>>;
  /** Its CPU time so far, in ms. */
  costMs(): number;
  stop(): Promise<void>;
}

/** Whether this machine has one. */
export function hasNatsServer(): boolean {
  return spawnSync('nats-server', ['--version'], { env: { ...process.env, PATH } }).status === 0;
}

/** Starts one on a free port, in a directory of its own. */
export async function startBenchNats(): Promise<BenchNats> {
  const directory = await ownedDirectory();
  const port = await freePort();
  const broker = await startOwned({
    name: 'nats-server',
    command: 'nats-server',
    args: ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', directory],
    env: { PATH },
    ready: /Server is ready/,
  });
  return {
    env: { JOURNAL: `nats://127.0.0.1:${port}` },
    costMs: () => cpuTime(broker.pid).ownMs,
    async stop() {
      await broker.stop();
      await removeOwned(directory);
    },
  };
}
