/**
 * Under which account the embedded PostgreSQL runs, and how it learns that we died. Main thread.
 *
 * PostgreSQL refuses to run as root. As an ordinary user it runs as that user, in a user namespace where the system has
 * no name for that user's number (initdb wants one). As root it runs as the `postgres` user where there is one that can
 * reach the programs and the data directory; else in a user namespace, where it sees itself as nobody while the kernel
 * still lets it reach root's files (a home directory of mode 0700, say); else, where namespaces are forbidden
 * (containers), as nobody.
 *
 * `setpriv --pdeathsig INT` of util-linux makes the kernel send SIGINT, PostgreSQL's fast and clean shutdown, when the
 * thread that spawned it is gone, kill -9 included. It must be the main thread: any other may end before the process.
 */
import { execFile } from 'node:child_process';
import { chown, lchown, readdir, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { StartError } from '../../core/errors.js';

const run = promisify(execFile);
const NOBODY = 65534;

/** How to run a program as the account of PostgreSQL. */
export interface PostgresAccount {
  /** For the log. */
  readonly description: string;
  /** Ids that the files must belong to, and for `spawn`; undefined: our own. */
  readonly ids: { readonly uid: number; readonly gid: number } | undefined;
  /** Program and arguments to put before a command. */
  readonly prefix: readonly string[];
  /** The same, for a command that is to end with us. */
  readonly prefixBoundToUs: readonly string[];
}

/** Chooses the account. `program` and `dir` must be reachable for it. Throws StartError where none can be had. */
export async function choosePostgresAccount(program: string, dir: string): Promise<PostgresAccount> {
  const bound = await boundToUs();
  const namespace = ['unshare', '--user', `--map-user=${NOBODY}`, `--map-group=${NOBODY}`, '--'];
  // Inside the namespace, because entering it may reset the signal.
  const inNamespace = { ids: undefined, prefix: namespace, prefixBoundToUs: [...namespace, ...bound] };
  if (process.getuid?.() !== 0) {
    if (!hasName() && (await succeeds([...namespace, 'test', '-x', program]))) {
      return { description: 'this user, as nobody in a user namespace', ...inNamespace };
    }
    return { description: 'this user', ids: undefined, prefix: [], prefixBoundToUs: bound };
  }
  const user = await postgresUser();
  if (user !== undefined && (await canReach(user, program, dir))) {
    return { description: 'user postgres', ids: user, prefix: [], prefixBoundToUs: bound };
  }
  if (await succeeds([...namespace, 'test', '-x', program])) {
    return { description: 'root, as nobody in a user namespace', ...inNamespace };
  }
  const nobody = { uid: NOBODY, gid: NOBODY };
  if (await canReach(nobody, program, dir)) {
    return { description: 'user nobody', ids: nobody, prefix: [], prefixBoundToUs: bound };
  }
  throw new StartError([
    `PostgreSQL does not run as root, and no other account can reach ${program} and ${dir}: ` +
      'run the server as an ordinary user, or set DATABASE_URL.',
  ]);
}

/** Gives a path, and everything below it, to the account. Does nothing where it already is its own. */
export async function giveTo(account: PostgresAccount, target: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = account.ids ?? { uid: 0, gid: 0 };
  const found = await stat(target);
  if (found.uid === uid) return;
  if (found.isDirectory()) {
    for (const entry of await readdir(target, { recursive: true })) await lchown(path.join(target, entry), uid, gid);
  }
  // Last, so that an interrupted walk is done again.
  await chown(target, uid, gid);
}

/** Whether the system knows our user: initdb refuses a number without a name, as containers are often given. */
function hasName(): boolean {
  try {
    return userInfo().username !== '';
  } catch {
    return false;
  }
}

async function boundToUs(): Promise<readonly string[]> {
  const setpriv = ['setpriv', '--pdeathsig', 'INT', '--'];
  return (await succeeds([...setpriv, 'true'])) ? setpriv : [];
}

async function postgresUser(): Promise<{ uid: number; gid: number } | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])]);
    const user = { uid: Number(uid.stdout), gid: Number(gid.stdout) };
    return Number.isSafeInteger(user.uid) && user.uid > 0 && Number.isSafeInteger(user.gid) ? user : undefined;
  } catch {
    return undefined;
  }
}

async function canReach(ids: { uid: number; gid: number }, program: string, dir: string): Promise<boolean> {
  return (await succeeds(['test', '-x', program], ids)) && (await succeeds(['test', '-x', dir], ids));
}

async function succeeds(command: readonly string[], ids?: { uid: number; gid: number }): Promise<boolean> {
  const [program, ...args] = command;
  if (program === undefined) return false;
  try {
    // `/`, because another account may not be able to reach our working directory.
    await run(program, args, { cwd: '/', timeout: 10_000, ...ids });
    return true;
  } catch {
    return false;
  }
}
