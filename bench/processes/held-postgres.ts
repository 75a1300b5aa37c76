/**
 * A PostgreSQL like that of an operator, which the benchmark can hold: it stops every process of it with SIGSTOP, so
 * that PostgreSQL neither answers nor refuses. That is the worst kind of outage.
 */
import { execFileSync } from 'node:child_process';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { ownedDirectory, removeOwned } from './owned-process.js';

const CONNECTIONS_MAX = 20;
const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** A PostgreSQL that can be held. */
export interface HeldPostgres {
  readonly url: string;
  /** Stops it: it neither answers nor accepts connections. */
  hold(): void;
  /** Continues it. */
  release(): void;
  /** Continues it if it is held, shuts it down and removes its data. */
  stop(): Promise<void>;
}

/** Starts a PostgreSQL on a free port. */
export async function startHeldPostgres(): Promise<HeldPostgres> {
  const dataDir = await ownedDirectory();
  const postgres = await startEmbeddedPostgres({ dataDir, logger: quiet, maxConnections: CONNECTIONS_MAX });
  let held: readonly number[] = [];
  const release = (): void => {
    for (const pid of held) process.kill(pid, 'SIGCONT');
    held = [];
  };
  // Otherwise a failure of this process would leave the others stopped for ever.
  process.on('exit', release);
  return {
    url: postgres.url,
    hold: () => {
      held = processesOf(postgres.pid);
      for (const pid of held) process.kill(pid, 'SIGSTOP');
    },
    release,
    stop: async () => {
      release();
      process.off('exit', release);
      await postgres.stop();
      await removeOwned(dataDir);
    },
  };
}

/** The first process and its children. */
function processesOf(pid: number): readonly number[] {
  const children = execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' });
  return [pid, ...children.split('\n').filter(Boolean).map(Number)];
}
