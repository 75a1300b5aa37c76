import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  access,
  chmod,
  chown,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { classifyDatabaseError } from '#product/db/database-errors.js';
import { choosePostgresAccount } from '#product/db/embedded/postgres-account.js';
import { embeddedPackageDir, prepareBinaries } from '#product/db/embedded/postgres-binaries.js';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { serverArguments } from '#product/db/embedded/postgres-process.js';
import { StartError } from '#product/core/errors.js';
import { connectTo, silentLogger } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';

/** A directory for one test, which other accounts can enter. */
async function directoryOf(context: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'summing-counters-embedded-'));
  context.after(() => rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }));
  await chmod(dir, 0o755);
  return dir;
}

function start(dataDir: string): Promise<EmbeddedPostgres> {
  return startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections: 5 });
}

async function query(url: string, text: string): Promise<unknown[]> {
  const connection = await connectTo(url);
  try {
    return await connection.query({ text });
  } finally {
    await connection.close();
  }
}

test('the write-ahead log stays small after a burst', async (context) => {
  const dir = await directoryOf(context);
  const server = await start(dir);
  try {
    for (let round = 0; round < 60; round += 1)
      await query(server.url, `select pg_logical_emit_message(false, 'test', repeat('x', 10000000))`);
    const size = `select sum(size)::float8 / 1e6 as mb, pg_current_wal_lsn() - '0/0' > 600e6 as written from pg_ls_waldir()`;
    await eventually(
      'the log is at most 256 MB and a segment',
      async () => {
        const [row] = (await query(server.url, size)) as { mb: number; written: boolean }[];
        assert.equal(row?.written, true);
        return row.mb <= 256 * 1.048576 + 17;
      },
      60_000,
    );
  } finally {
    await server.stop();
  }
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Starts another process that runs the server; settles once the server runs. */
async function startInProcess(dataDir: string): Promise<{ child: ChildProcess; pid: number; url: string }> {
  const child = spawnServerProcess(dataDir);
  assert.ok(child.stdout !== null);
  for await (const line of createInterface({ input: child.stdout })) {
    // embedded-process.ts prints this.
    if (line.startsWith('{')) return { child, ...(JSON.parse(line) as { pid: number; url: string }) };
  }
  throw new Error('the process ended before its server ran');
}

function spawnServerProcess(dataDir: string): ChildProcess {
  const program = path.join(import.meta.dirname, '../../support/embedded-process.js');
  return spawn(process.execPath, [program, dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
}

test('a new server is durable, reachable from this machine only, and keeps its rows over a stop', async (context) => {
  const dir = await directoryOf(context);
  const first = await start(dir);
  assert.match(first.version, /^18\./);
  assert.equal((await stat(path.join(dir, 'postgres-password'))).mode & 0o777, 0o600);
  const settings = await query(
    first.url,
    `select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'full_page_writes',
       'data_checksums', 'server_encoding', 'listen_addresses', 'unix_socket_directories') order by name`,
  );
  assert.deepEqual(settings, [
    { name: 'data_checksums', setting: 'on' },
    { name: 'fsync', setting: 'on' },
    { name: 'full_page_writes', setting: 'on' },
    { name: 'listen_addresses', setting: '127.0.0.1' },
    { name: 'server_encoding', setting: 'UTF8' },
    { name: 'synchronous_commit', setting: 'on' },
    { name: 'unix_socket_directories', setting: '' },
  ]);
  const wrong = new URL(first.url);
  wrong.password = 'wrong';
  await assert.rejects(connectTo(wrong.href), (error) => classifyDatabaseError(error) === 'refused');
  await query(first.url, 'create table kept as select 42 as n');
  await Promise.all([first.stop(), first.stop()]);
  assert.equal(isAlive(first.pid), false);
  await assert.rejects(connectTo(first.url), (error) => classifyDatabaseError(error) === 'unreachable');

  const second = await start(dir);
  assert.deepEqual(await query(second.url, 'select n from kept'), [{ n: 42 }]);
  await second.stop();
  assert.match(await readFile(path.join(dir, 'postgres.log'), 'utf8'), /database system is shut down/);
});

test('a killed server runs again under the same address, with everything that it had committed', async (context) => {
  const dir = await directoryOf(context);
  const server = await start(dir);
  const { url, pid } = server;
  await query(url, 'create table kept as select 42 as n');
  const exits: string[] = [];
  server.onExit((reason) => exits.push(reason));
  process.kill(pid, 'SIGKILL');
  await eventually('the server runs again', () => Promise.resolve(server.pid !== pid));
  assert.deepEqual(exits, ['PostgreSQL ended with SIGKILL']);
  assert.equal(server.url, url);
  assert.deepEqual(await query(url, 'select n from kept'), [{ n: 42 }]);
  await server.stop();
  assert.equal(isAlive(server.pid), false);
});

test('a stop during a restart of the server leaves no process', async (context) => {
  const dir = await directoryOf(context);
  const server = await start(dir);
  const exited = new Promise<void>((resolve) => server.onExit(() => resolve()));
  process.kill(server.pid, 'SIGKILL');
  await exited;
  await server.stop();
  // A child that was forked just before its parent was killed holds the port until it notices.
  await eventually('nobody listens', async () => {
    const error: unknown = await connectTo(server.url).then(
      (connection) => connection.close(),
      (failure: unknown) => failure,
    );
    return classifyDatabaseError(error) === 'unreachable';
  });
  await (await start(dir)).stop();
});

test('kill -9 of the process leaves no server, and the next start has the rows', async (context) => {
  const dir = await directoryOf(context);
  const { child, pid, url } = await startInProcess(dir);
  await query(url, 'create table kept as select 42 as n');
  child.kill('SIGKILL');
  await once(child, 'exit');
  await eventually('the server has ended', () => Promise.resolve(!isAlive(pid)));
  const server = await start(dir);
  assert.deepEqual(await query(server.url, 'select n from kept'), [{ n: 42 }]);
  await server.stop();
});

test('after kill -9 of the process while the server is being made, the next start succeeds', async (context) => {
  const dir = await directoryOf(context);
  const child = spawnServerProcess(dir);
  await eventually('the cluster is being made', async () =>
    (await readdir(dir, { recursive: true })).some((file) => file.endsWith('cluster/PG_VERSION')),
  );
  child.kill('SIGKILL');
  await once(child, 'exit');
  await assert.rejects(access(path.join(dir, 'postgres')));
  const server = await start(dir);
  assert.deepEqual(await query(server.url, 'select 1 as n'), [{ n: 1 }]);
  await server.stop();
  assert.deepEqual((await readdir(dir)).sort(), ['postgres', 'postgres-password', 'postgres.log']);
});

test('a server that an earlier run left running is stopped, and the new one starts', async (context) => {
  const dir = await directoryOf(context);
  const before = await start(dir);
  await before.stop();
  const binaries = await prepareBinaries(embeddedPackageDir(), path.join(dir, 'lib'));
  const account = await choosePostgresAccount(binaries.postgres, dir);
  const command = serverArguments({
    dir: path.join(dir, 'postgres'),
    port: Number(new URL(before.url).port),
    connectionsMax: 5,
  });
  // Not bound to this process.
  const [program = '', ...args] = [...account.prefix, binaries.postgres, ...command];
  const orphan = spawn(program, args, {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
    ...account.ids,
  });
  for await (const line of createInterface({ input: orphan.stderr })) {
    if (line.includes('ready to accept connections')) break;
  }
  const exited = once(orphan, 'exit');
  const server = await start(dir);
  assert.deepEqual(await exited, [0, null]);
  assert.deepEqual(await query(server.url, 'select 1 as n'), [{ n: 1 }]);
  await server.stop();
});

test('a pid file that names another live process, or a zombie, does not prevent the start', async (context) => {
  const dir = await directoryOf(context);
  const pidFile = path.join(dir, 'postgres', 'postmaster.pid');
  const first = await start(dir);
  const contents = await readFile(pidFile, 'utf8');
  await first.stop();
  // The shell becomes sleep, which does not wait for the child of the shell.
  const parent = spawn('sh', ['-c', 'sleep 0.1 & echo $!; exec sleep 600'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [zombie] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
  await eventually(
    'the child of the shell is a zombie',
    async () => os.platform() !== 'linux' || (await readFile(`/proc/${zombie}/stat`, 'utf8')).includes(') Z '),
  );
  // Under the account of the server, so that the server sees the process.
  const { ids } = await choosePostgresAccount(process.execPath, dir);
  const sleeper = spawn('sleep', ['600'], { stdio: 'ignore', ...ids });
  try {
    for (const pid of [process.pid, sleeper.pid, zombie]) {
      await writeFile(pidFile, contents.replace(/^\d+/, String(pid)), { mode: 0o600 });
      if (ids !== undefined) await chown(pidFile, ids.uid, ids.gid);
      await (await start(dir)).stop();
    }
    assert.equal(sleeper.exitCode ?? sleeper.signalCode, null, 'the process named was left alone');
  } finally {
    for (const child of [parent, sleeper]) child.kill('SIGKILL');
  }
});

test('the server runs in a directory that no other user can enter, and later in the same directory opened to all', async (context) => {
  const dir = await directoryOf(context);
  const dataDir = path.join(dir, 'home', 'data');
  await mkdir(dataDir, { recursive: true });
  await chmod(path.join(dir, 'home'), 0o700);
  const first = await start(dataDir);
  await query(first.url, 'create table kept as select 42 as n');
  await first.stop();
  await chmod(path.join(dir, 'home'), 0o755);
  const second = await start(dataDir);
  assert.deepEqual(await query(second.url, 'select n from kept'), [{ n: 42 }]);
  await second.stop();
  await chmod(path.join(dir, 'home'), 0o700);
  const third = await start(dataDir);
  assert.deepEqual(await query(third.url, 'select n from kept'), [{ n: 42 }]);
  await third.stop();
});

test('missing links of the package are made beside the libraries, also by two starts at the same time', async (context) => {
  const dir = await directoryOf(context);
  const packageDir = await copyPackageWithoutLinks(dir);
  const linkDir = path.join(dir, 'links');
  await Promise.all([prepareBinaries(packageDir, linkDir), prepareBinaries(packageDir, linkDir)]);
  await assert.rejects(access(linkDir));
  const server = await startEmbeddedPostgres({
    dataDir: path.join(dir, 'data'),
    logger: silentLogger,
    maxConnections: 5,
    packageDir,
  });
  await server.stop();
});

test('where the package is read-only the links are made elsewhere, and the programs find them', async (context) => {
  const dir = await directoryOf(context);
  const packageDir = await copyPackageWithoutLinks(dir);
  const lib = path.join(packageDir, 'native', 'lib');
  const linkDir = path.join(dir, 'own', 'links');
  await mkdir(path.dirname(linkDir));
  await chmod(path.dirname(linkDir), 0o777);
  await chmod(lib, 0o555);
  // File modes do not limit root.
  const isRoot = process.geteuid?.() === 0;
  if (isRoot) process.seteuid?.(65534);
  const binaries = await prepareBinaries(packageDir, linkDir).finally(() => {
    if (isRoot) process.seteuid?.(0);
  });
  assert.ok((await readdir(linkDir)).length > 0);
  const [version] = (await once(
    createInterface({
      input: spawn(binaries.initdb, ['--version'], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, ...binaries.environment },
      }).stdout,
    }),
    'line',
  )) as [string];
  assert.match(version, /^initdb \(PostgreSQL\) 18\./);
  const linked = await readlink(path.join(linkDir, (await readdir(linkDir))[0] ?? ''));
  assert.ok(linked.startsWith(lib));
  await chmod(lib, 0o755);
});

/** The package as npm unpacks it: without symbolic links. */
async function copyPackageWithoutLinks(dir: string): Promise<string> {
  const packageDir = path.join(dir, 'package');
  await cp(embeddedPackageDir(), packageDir, { recursive: true });
  const list = JSON.parse(await readFile(path.join(packageDir, 'native', 'pg-symlinks.json'), 'utf8')) as {
    target: string;
  }[];
  for (const { target } of list) await rm(path.join(packageDir, target), { force: true });
  return packageDir;
}

const startErrorSaying =
  (pattern: RegExp) =>
  (error: unknown): boolean =>
    error instanceof StartError && error.problems.length === 1 && pattern.test(error.message);

test('a directory of another major version, or without its password, is refused in one sentence', async (context) => {
  const dir = await directoryOf(context);
  await mkdir(path.join(dir, 'postgres'));
  await writeFile(path.join(dir, 'postgres', 'PG_VERSION'), '17\n');
  await assert.rejects(start(dir), startErrorSaying(/PostgreSQL 17 and the embedded one is 18/));
  await writeFile(path.join(dir, 'postgres', 'PG_VERSION'), '18\n');
  await assert.rejects(start(dir), startErrorSaying(/postgres-password is missing/));
});

test('a platform without a package is told to set DATABASE_URL', () => {
  const arch = Object.getOwnPropertyDescriptor(process, 'arch');
  assert.ok(arch !== undefined);
  Object.defineProperty(process, 'arch', { ...arch, value: 'mips' });
  try {
    assert.throws(() => embeddedPackageDir(), startErrorSaying(/mips.*set DATABASE_URL/));
  } finally {
    Object.defineProperty(process, 'arch', arch);
  }
});
