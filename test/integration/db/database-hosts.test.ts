/** Connections over a list of hosts in DATABASE_URL, to a primary and its standby, and to hosts that fail. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createSecureContext, TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { connect, parseDatabaseUrl, type DatabaseConnection, type DatabaseTarget } from '#product/db/connection.js';
import { classifyDatabaseError, NoHostError } from '#product/db/database-errors.js';
import { databaseProblem } from '#product/db/database-problem.js';
import { connectTo, runStatements } from '../../support/database-connection.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { freePort } from '../../support/free-port.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { PostgresPair } from '../../support/postgres-pair.js';
import { temporaryDirectory } from '../../support/server.js';

const run = promisify(execFile);
const options = { applicationName: 'test', connectTimeoutMs: 2_000 };

/** A host that accepts connections and never answers. */
async function silentHost(): Promise<{ readonly host: string; readonly close: () => void }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => sockets.add(socket.on('error', () => undefined).resume()));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return {
    host: `127.0.0.1:${address.port}`,
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Where a new connection of the target leads. */
async function portOf(target: DatabaseTarget): Promise<number | undefined> {
  const connection = await connect(target, options);
  try {
    return connection.backend.host?.port;
  } finally {
    await connection.close();
  }
}

function hostOf(url: string): string {
  return new URL(url).host;
}

async function failureOf(attempt: Promise<DatabaseConnection>): Promise<unknown> {
  return attempt.then(
    () => assert.fail('a host was usable'),
    (error: unknown) => error,
  );
}

describe('a list of hosts', () => {
  let unused: OutagePostgres;
  let pair: PostgresPair;
  let primaryPort: number;
  let standbyPort: number;

  before(async () => {
    unused = await OutagePostgres.prepare();
    pair = await PostgresPair.start(unused, 'asynchronous');
    primaryPort = Number(new URL(pair.primaryUrl).port);
    standbyPort = Number(new URL(pair.standbyUrl).port);
  });

  after(async () => {
    await pair.dispose();
    await unused.dispose();
  });

  const listOf = (hosts: readonly string[], session = 'read-write'): string => {
    const { username, password, pathname } = new URL(pair.primaryUrl);
    return `postgres://${username}:${password}@${hosts.join(',')}${pathname}?target_session_attrs=${session}`;
  };

  test('leads to the primary, wherever it stands; any takes the first that answers', async () => {
    const hosts = [hostOf(pair.standbyUrl), hostOf(pair.primaryUrl)];
    for (const session of ['read-write', 'primary']) {
      assert.equal(await portOf(parseDatabaseUrl(listOf(hosts, session))), primaryPort, session);
      assert.equal(await portOf(parseDatabaseUrl(listOf(hosts.toReversed(), session))), primaryPort, session);
    }
    assert.equal(await portOf(parseDatabaseUrl(listOf(hosts, 'any'))), standbyPort);
  });

  test('passes over a primary that is read-only by default with read-write, and not with primary', async () => {
    const name = new URL(pair.primaryUrl).pathname.slice(1);
    await runStatements(pair.primary.url, `alter database ${name} set default_transaction_read_only = on`);
    try {
      assert.equal(await portOf(parseDatabaseUrl(listOf([hostOf(pair.primaryUrl)], 'primary'))), primaryPort);
      const error = await failureOf(connect(parseDatabaseUrl(listOf([hostOf(pair.primaryUrl)])), options));
      assert.equal(databaseProblem(error).cause, 'read-only');
      assert.equal(classifyDatabaseError(error), 'retry');
    } finally {
      await runStatements(pair.primary.url, `alter database ${name} reset default_transaction_read_only`);
    }
  });

  test('bounds the time for each host, and begins with the one that worked last', async () => {
    const silent = await silentHost();
    try {
      const target = parseDatabaseUrl(listOf([silent.host, hostOf(pair.primaryUrl)]));
      const startedAtMs = performance.now();
      assert.equal(await portOf(target), primaryPort);
      const firstMs = performance.now() - startedAtMs;
      assert.ok(firstMs >= 950 && firstMs < options.connectTimeoutMs, String(firstMs));
      assert.equal(await portOf(target), primaryPort);
      assert.ok(performance.now() - startedAtMs - firstMs < 900, 'the silent host was asked again');
    } finally {
      silent.close();
    }
  });

  test('fails within the connect timeout, with one error that names each host and why, without the password', async () => {
    const silent = await silentHost();
    try {
      const closed = `127.0.0.1:${await freePort()}`;
      const target = parseDatabaseUrl(listOf([closed, hostOf(pair.standbyUrl), silent.host]));
      const startedAtMs = performance.now();
      const error = await failureOf(connect(target, options));
      assert.ok(performance.now() - startedAtMs < options.connectTimeoutMs + 500);
      assert.ok(error instanceof NoHostError);
      assert.equal(
        error.message,
        `no host can be used: ${closed}: connect ECONNREFUSED ${closed}; ` +
          `${hostOf(pair.standbyUrl)}: it is a standby; ${silent.host}: timeout expired`,
      );
      const { cause, reason } = databaseProblem(error);
      assert.equal(cause, 'no-host');
      for (const text of [closed, hostOf(pair.standbyUrl), silent.host]) assert.ok(reason.includes(text), reason);
      assert.ok(!reason.includes(new URL(pair.primaryUrl).password));
      assert.equal(classifyDatabaseError(error), 'retry');
    } finally {
      silent.close();
    }
  });

  test('whose hosts all refuse the role is refused, with the cause that they share', async () => {
    const url = listOf([hostOf(pair.primaryUrl), hostOf(pair.standbyUrl)]).replace(/:[^:@]+@/, ':wrong@');
    const error = await failureOf(connect(parseDatabaseUrl(url), options));
    assert.equal(databaseProblem(error).cause, 'login-refused');
    assert.equal(classifyDatabaseError(error), 'refused');
  });

  test('with any moves on to the next host after a session that takes no writes', async () => {
    const target = parseDatabaseUrl(listOf([hostOf(pair.standbyUrl), hostOf(pair.primaryUrl)], 'any'));
    const connection = await connect(target, options);
    await assert.rejects(connection.query({ text: 'create table refused ()' }), { code: '25006' });
    assert.equal(connection.lost, true);
    assert.equal(await portOf(target), primaryPort);
  });

  test('is used by migrate, journal and psql', async (t) => {
    const DATABASE_URL = listOf([hostOf(pair.standbyUrl), hostOf(pair.primaryUrl)]);
    const env = { ...process.env, DATABASE_URL };
    const tool = (name: string): string => fileURLToPath(import.meta.resolve(`#product/cli/${name}.js`));
    const { stdout } = await run(process.execPath, [tool('migrate')], { env });
    assert.match(stdout, new RegExp(`@${hostOf(pair.standbyUrl)},${hostOf(pair.primaryUrl)}/\\S+ has the schema`));
    assert.deepEqual(await runJournalCommand(['rejected'], { DATABASE_URL }), {
      code: 0,
      output: (await runJournalCommand(['rejected'], { DATABASE_URL: pair.primaryUrl })).output,
    });
    if (spawnSync('psql', ['--version']).status !== 0) {
      t.diagnostic('psql is not installed');
      return;
    }
    const query = ['-At', '-c', `select inet_server_port() || ' ' || pg_is_in_recovery()`];
    const psql = await run(process.execPath, [tool('psql'), ...query], { env });
    assert.equal(psql.stdout, `${primaryPort} false\n`);
  });

  test('gives TLS the name of the host that is tried', async () => {
    const directory = await temporaryDirectory();
    const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
    const made = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost';
    await run('openssl', [...made.split(' '), '-keyout', key, '-out', cert]);
    const secureContext = createSecureContext({ cert: await readFile(cert), key: await readFile(key) });
    const names: string[] = [];
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => {
        socket.write('S');
        const secure = new TLSSocket(socket, {
          isServer: true,
          secureContext,
          SNICallback: (name, callback) => {
            names.push(name);
            callback(null, secureContext);
          },
        });
        secure.on('error', () => undefined).once('data', () => secure.destroy());
      });
    });
    await once(server.listen(0), 'listening');
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    try {
      const hosts = [`127.0.0.1:${await freePort()}`, `localhost:${address.port}`];
      await failureOf(connect(parseDatabaseUrl(`${listOf(hosts)}&sslmode=no-verify`), options));
      assert.deepEqual(names, ['localhost']);
    } finally {
      server.close();
    }
  });

  // The last one: it ends the pair.
  test('leads to the standby once that is promoted, also for a target that knows the old primary', async () => {
    const target = parseDatabaseUrl(pair.url);
    assert.equal(await portOf(target), primaryPort);
    await pair.primary.kill();
    await runStatements(pair.standby.url, 'select pg_promote()');
    assert.equal(await portOf(target), standbyPort);
    const connection = await connectTo(pair.url);
    await connection.query({ text: 'create table written ()' });
    await connection.close();
  });
});
