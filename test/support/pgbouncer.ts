/** A real PgBouncer in front of a test's database. Debian has it as the package pgbouncer. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './free-port.js';

/** PgBouncer refuses to run as root. */
const NOBODY = 65_534;
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin`;

/** Why a test with PgBouncer must be skipped on this machine, or false. In continuous integration it must not. */
export function pgbouncerMissing(): string | false {
  const isThere = spawnSync('pgbouncer', ['--version'], { env: { ...process.env, PATH } }).status === 0;
  return isThere || process.env['CI'] === 'true'
    ? false
    : 'pgbouncer is not installed (Debian: apt-get install pgbouncer)';
}

/** How PgBouncer gives its server connections to clients. */
export type PoolMode = 'session' | 'transaction' | 'statement';

/** One PgBouncer process. */
export class PgBouncer {
  /** The database through PgBouncer. */
  readonly url: string;
  readonly #directory: string;
  readonly #child: ChildProcess;

  private constructor(url: string, directory: string, child: ChildProcess) {
    this.url = url;
    this.#directory = directory;
    this.#child = child;
  }

  /** Starts one in front of the database of `databaseUrl`; settles when it listens. */
  static async start(databaseUrl: string, mode: PoolMode): Promise<PgBouncer> {
    const target = new URL(databaseUrl);
    const directory = await mkdtemp(join(tmpdir(), 'summing-counters-pgbouncer-'));
    const port = await freePort();
    const users = join(directory, 'userlist.txt');
    await writeFile(users, `"${target.username}" "${decodeURIComponent(target.password)}"\n`);
    const settings = join(directory, 'pgbouncer.ini');
    await writeFile(
      settings,
      [
        '[databases]',
        `* = host=${target.hostname} port=${target.port || '5432'}`,
        '[pgbouncer]',
        'listen_addr = 127.0.0.1',
        `listen_port = ${port}`,
        'unix_socket_dir =',
        'auth_type = trust',
        `auth_file = ${users}`,
        `pool_mode = ${mode}`,
        '',
      ].join('\n'),
    );
    const isRoot = process.getuid?.() === 0;
    if (isRoot) for (const file of [directory, users, settings]) await chown(file, NOBODY, NOBODY);
    await chmod(directory, 0o700);
    const ids = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
    const child = spawn('pgbouncer', [settings], {
      env: { ...process.env, PATH },
      cwd: '/',
      stdio: ['ignore', 'ignore', 'pipe'],
      ...ids,
    });
    const url = new URL(databaseUrl);
    [url.hostname, url.port] = ['127.0.0.1', String(port)];
    let said = '';
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`PgBouncer did not start: ${said}`)));
      child.stderr?.on('data', (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-10_000);
        if (said.includes('process up')) resolve();
      });
    });
    return new PgBouncer(url.href, directory, child);
  }

  /** Ends it at once and deletes its files. */
  async dispose(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
    await rm(this.#directory, { recursive: true, force: true });
  }
}
