/**
 * A PostgreSQL beside the server, as an operator would give it one, that can be held: every process of it is stopped where
 * it stands, so that nothing answers and nothing refuses, which is the worst kind of outage.
 */
import { execFileSync } from 'node:child_process';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { ownedDirectory, removeOwned } from './owned-process.js';

const CONNECTIONS_MAX = 20;
const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** See the file's head. */
export interface HeldPostgres {
  readonly url: string;
  /** From now on it neither answers nor takes connections. */
  hold(): void;
  /** It goes on where it stood. */
  release(): void;
  /** Lets it go on where it is held, stops it and removes its data. */
  stop(): Promise<void>;
}

/** Starts one on a free port. */
export async function startHeldPostgres(): Promise<HeldPostgres> {
  const dataDir = await ownedDirectory();
  const postgres = await startEmbeddedPostgres({ dataDir, logger: quiet, maxConnections: CONNECTIONS_MAX });
  let held: readonly number[] = [];
  const release = (): void => {
    for (const pid of held) process.kill(pid, 'SIGCONT');
    held = [];
  };
  // Otherwise a failure of this process would leave them stopped for ever.
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
