/**
 * The account of the embedded PostgreSQL, and its end after the death of this process. Main thread.
 *
 * PostgreSQL refuses to run as root.
 *
 * - Started by an ordinary user, it runs as that user. Where the user's number has no name, which initdb needs, it runs in a user
 *   namespace.
 * - Started by root, it runs as the user `postgres` if that user exists and can reach the programs and the data directory.
 *   Otherwise it runs in a user namespace: it sees itself as nobody, and the kernel still lets it reach the files of root (a
 *   home directory of mode 0700, for example). Where namespaces are forbidden (containers), it runs as nobody.
 *
 * `setpriv --pdeathsig INT` of util-linux makes the kernel send SIGINT, a fast and clean shutdown, when the thread that started it
 * has ended, also after kill -9. That thread must be the main thread: others may end before the process.
 */
import { execFile } from 'node:child_process';
import { chown, lchown, readdir, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { StartError } from '../../core/errors.js';

const run = promisify(execFile);
const NOBODY = 65534;

/** How to run a program under the account of PostgreSQL. */
export interface PostgresAccount {
  /** For the log. */
  readonly description: string;
  /** Owner of the files, and ids for `spawn`. Undefined: those of this process. */
  readonly ids: { readonly uid: number; readonly gid: number } | undefined;
  /** Program and arguments before a command. */
  readonly prefix: readonly string[];
  /** The same, for a command that must end with this process. */
  readonly boundPrefix: readonly string[];
}

/** Chooses an account that can reach `program` and `dir`. Throws StartError where there is none. */
export async function choosePostgresAccount(program: string, dir: string): Promise<PostgresAccount> {
  const bound = await parentDeathPrefix();
  const namespace = ['unshare', '--user', `--map-user=${NOBODY}`, `--map-group=${NOBODY}`, '--'];
  // setpriv runs inside the namespace, because entering a namespace may reset the signal.
  const inNamespace = { ids: undefined, prefix: namespace, boundPrefix: [...namespace, ...bound] };
  if (process.getuid?.() !== 0) {
    if (!hasName() && (await succeeds([...namespace, 'test', '-x', program]))) {
      return { description: 'this user, as nobody in a user namespace', ...inNamespace };
    }
    return { description: 'this user', ids: undefined, prefix: [], boundPrefix: bound };
  }
  const user = await postgresUser();
  if (user !== undefined && (await canReach(user, program, dir))) {
    return { description: 'user postgres', ids: user, prefix: [], boundPrefix: bound };
  }
  if (await succeeds([...namespace, 'test', '-x', program])) {
    return { description: 'root, as nobody in a user namespace', ...inNamespace };
  }
  const nobody = { uid: NOBODY, gid: NOBODY };
  if (await canReach(nobody, program, dir)) {
    return { description: 'user nobody', ids: nobody, prefix: [], boundPrefix: bound };
  }
  throw new StartError([
    `PostgreSQL does not run as root, and no other account can reach ${program} and ${dir}: ` +
      'run the server as an ordinary user, or set DATABASE_URL.',
  ]);
}

/** Makes the account the owner of a path and of everything below, unless it owns the path already. */
export async function giveTo(account: PostgresAccount, target: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = account.ids ?? { uid: 0, gid: 0 };
  const found = await stat(target);
  if (found.uid === uid) return;
  if (found.isDirectory()) {
    for (const entry of await readdir(target, { recursive: true })) await lchown(path.join(target, entry), uid, gid);
  }
  // Last, so that an interrupted walk is repeated.
  await chown(target, uid, gid);
}

/** Whether the user has a name. initdb needs one, and containers often have none. */
function hasName(): boolean {
  try {
    return userInfo().username !== '';
  } catch {
    return false;
  }
}

async function parentDeathPrefix(): Promise<readonly string[]> {
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
    // In `/`, because another account may be unable to reach the working directory.
    await run(program, args, { cwd: '/', timeout: 10_000, ...ids });
    return true;
  } catch {
    return false;
  }
}
