/**
 * Finds the embedded PostgreSQL of a running server. Main thread of a command.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';

/** Lines of postmaster.pid: the port is the fourth. */
const PORT_LINE = 3;

/** Its URL, with the password; undefined where no server runs one in this data directory. */
export async function runningEmbeddedUrl(dataDir: string): Promise<string | undefined> {
  try {
    const password = (await readFile(path.join(dataDir, 'postgres-password'), 'utf8')).trim();
    const pidFile = await readFile(path.join(dataDir, 'postgres', 'postmaster.pid'), 'utf8');
    const port = pidFile.split('\n')[PORT_LINE]?.trim();
    return port === undefined || port === ''
      ? undefined
      : `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  } catch {
    return undefined;
  }
}
