/** The command `npm run journal`, as an operator runs it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const COMMAND = fileURLToPath(import.meta.resolve('#product/cli/journal.js'));

export interface CommandOutcome {
  readonly code: number | null;
  /** What it printed on both streams. */
  readonly output: string;
}

/** Runs the command to its end. An empty `DATABASE_URL` in `env` stands for the embedded database. */
export async function runJournalCommand(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<CommandOutcome> {
  const child = spawn(process.execPath, [COMMAND, ...args], { env: { ...process.env, ...env } });
  let output = '';
  const collect = (chunk: Buffer): void => void (output += chunk.toString());
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, output };
}
