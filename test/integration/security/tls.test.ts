import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { request } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from 'node:tls';
import { promisify } from 'node:util';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { runLoadCommand } from '../../support/load-command.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop } from '../../support/suite-server.js';
import { own, refusedStart } from '../../support/own.js';

const run = promisify(execFile);

interface TlsAnswer {
  readonly status: number;
  readonly body: string;
}

describe('TLS', () => {
  let directory: string;
  let database: TestDatabase;
  let server: TestServer;
  let authority: Buffer;
  let env: Readonly<Record<string, string>>;

  before(async () => {
    directory = await temporaryDirectory();
    const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
    const made = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    await run('openssl', [...made, ...subject, '-keyout', key, '-out', cert]);
    authority = await readFile(cert);
    database = await createTestDatabase();
    env = { DATABASE_URL: database.url, SHARDS: '1', TLS_CERT_FILE: cert, TLS_KEY_FILE: key };
    server = await startServer({ env });
  });
  after(async () => {
    try {
      await assertCleanStop(server);
    } finally {
      await server.dispose();
      await database.drop();
      await rm(directory, { recursive: true });
    }
  });

  /** The client verifies the certificate and the name. */
  function ask(method: string, path: string, body?: string, url = server.url): Promise<TlsAnswer> {
    const { port } = new URL(url);
    return new Promise((resolve, reject) => {
      const options = { host: 'localhost', family: 4, port, method, path, ca: authority, agent: false };
      const outgoing = request(options, (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => (text += chunk));
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: text }));
      });
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  }

  test('the load tool sends and reads over TLS, and sends nothing where the certificate is not trusted', async () => {
    const args = ['--url', server.url, '--duration', '0.3', '--connections', '5'];
    const trusted = await runLoadCommand(args, { NODE_EXTRA_CA_CERTS: env['TLS_CERT_FILE'] ?? '' });
    assert.equal(trusted.code, 0, trusted.out + trusted.err);
    const untrusted = await runLoadCommand(args);
    assert.equal(untrusted.code, 1);
    // Node 24 adds advice.
    assert.match(
      untrusted.err,
      /^summing-counters-load: https:\S+ does not answer: self.signed certificate(; .*)?\.$/m,
    );
    // Reading is allowed then; autocannon would send to anybody.
    const careless = await runLoadCommand(args, { NODE_TLS_REJECT_UNAUTHORIZED: '0' });
    assert.equal(careless.code, 1);
    assert.match(careless.out, /^No increment was acknowledged: certificate refused: .*SELF_SIGNED/m);
  });

  test('the log says https, and every operation is served, including probes', async () => {
    assert.match(server.url, /^https:\/\/127\.0\.0\.1:\d+$/);
    assert.deepEqual(await ask('GET', '/healthz'), { status: 200, body: 'ok' });
    assert.deepEqual(await ask('GET', '/readyz'), { status: 200, body: '{"status":"ok"}' });
    assert.deepEqual(await ask('POST', '/increment', '{"a":1,"b":2}'), { status: 202, body: 'created' });
    const large = JSON.stringify(Object.fromEntries(Array.from({ length: 20_000 }, (_, key) => [`large-${key}`, key])));
    assert.equal((await ask('POST', '/increment', large)).status, 202);
    assert.deepEqual(await ask('GET', '/key_sum?name=b'), { status: 200, body: '2' });
    assert.equal((await ask('POST', '/flush')).status, 200);
    const page = await ask('GET', '/counters?prefix=large-&limit=1000');
    assert.equal((JSON.parse(page.body) as { counters: unknown[] }).counters.length, 1000);
    assert.equal((await ask('DELETE', '/counters/a')).body, '{"key":"a","sum":1}');
  });

  test('with three HTTP threads each of many connections is served', async (t) => {
    const threads = own(t, await startServer({ env: { ...env, HTTP_THREADS: '3' } }));
    assert.match(threads.url, /^https:/);
    const answers = await Promise.all(
      Array.from({ length: 60 }, () => ask('POST', '/increment', '{"threads":1}', threads.url)),
    );
    for (const answer of answers) assert.deepEqual(answer, { status: 202, body: 'created' });
    assert.deepEqual(await ask('GET', '/key_sum?name=threads', undefined, threads.url), { status: 200, body: '60' });
    await assertCleanStop(threads);
  });

  test('the client gets the configured certificate, over TLS 1.2 or later', async () => {
    const { port } = new URL(server.url);
    const peer = await new Promise<{ protocol: string | null; authorized: boolean }>((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port: Number(port), ca: authority, servername: 'localhost' }, () => {
        resolve({ protocol: socket.getProtocol(), authorized: socket.authorized });
        socket.destroy();
      });
      socket.on('error', reject);
    });
    assert.equal(peer.authorized, true);
    assert.match(peer.protocol ?? '', /^TLSv1\.[23]$/);
    await assert.rejects(
      new Promise((resolve, reject) => {
        const socket = connect(
          { host: '127.0.0.1', port: Number(port), ca: authority, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' },
          () => resolve(socket.destroy()),
        );
        socket.on('error', reject);
      }),
    );
  });

  test('TLS 1.2 offers forward-secret AEAD suites only', async () => {
    const { port } = new URL(server.url);
    const handshake = (ciphers: string): Promise<string> =>
      new Promise((resolve, reject) => {
        const options = { host: '127.0.0.1', port: Number(port), ca: authority, servername: 'localhost' };
        const socket = connect({ ...options, maxVersion: 'TLSv1.2', ciphers }, () => {
          resolve(socket.getCipher().name);
          socket.destroy();
        });
        socket.on('error', reject);
      });
    assert.match(await handshake('DEFAULT'), /^ECDHE-.*-(GCM-SHA|CHACHA20)/);
    // The certificate is of an elliptic curve; CBC suites of that kind are what a server offers by default.
    for (const ciphers of ['ECDHE-ECDSA-AES128-SHA', 'ECDHE-ECDSA-AES256-SHA', 'ECDHE-ECDSA-AES128-SHA256']) {
      await assert.rejects(handshake(`${ciphers}@SECLEVEL=0`), { code: /ERR_SSL|ECONNRESET|EPROTO/ }, ciphers);
    }
  });

  test('plain HTTP on the port gets no answer, including probes, and TLS still works', async () => {
    const { port } = new URL(server.url);
    for (const path of ['/healthz', '/increment']) {
      await assert.rejects(
        new Promise((resolve, reject) => {
          const outgoing = httpRequest({ host: '127.0.0.1', port, path, agent: false, timeout: 20_000 }, resolve);
          outgoing.on('error', reject);
          outgoing.end();
        }),
        { code: /ECONNRESET|HPE_/ },
      );
    }
    assert.equal((await ask('GET', '/healthz')).status, 200);
  });

  test('a file that is missing, of another kind or swapped ends the start with 78 and a sentence that names the variable', async () => {
    const foreignKey = join(directory, 'foreign.pem');
    const garbage = join(directory, 'garbage.pem');
    await run('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', foreignKey]);
    await writeFile(garbage, 'garbage');
    const { TLS_CERT_FILE: cert = '', TLS_KEY_FILE: key = '' } = env;
    const cases: readonly (readonly [Readonly<Record<string, string>>, RegExp])[] = [
      [{ TLS_CERT_FILE: join(directory, 'missing'), TLS_KEY_FILE: key }, /TLS_CERT_FILE .*ENOENT/],
      [{ TLS_CERT_FILE: cert, TLS_KEY_FILE: join(directory, 'missing') }, /TLS_KEY_FILE .*ENOENT/],
      [{ TLS_CERT_FILE: cert, TLS_KEY_FILE: '' }, /TLS_KEY_FILE must be set/],
      [{ TLS_CERT_FILE: garbage, TLS_KEY_FILE: key }, /TLS_CERT_FILE and TLS_KEY_FILE/],
      [{ TLS_CERT_FILE: cert, TLS_KEY_FILE: garbage }, /TLS_CERT_FILE and TLS_KEY_FILE/],
      [{ TLS_CERT_FILE: cert, TLS_KEY_FILE: foreignKey }, /TLS_CERT_FILE and TLS_KEY_FILE/],
      [{ TLS_CERT_FILE: key, TLS_KEY_FILE: cert }, /TLS_CERT_FILE and TLS_KEY_FILE/],
    ];
    for (const [files, sentence] of cases) {
      const { output } = await refusedStart({ ...env, ...files }, 78, sentence);
      assert.doesNotMatch(output, /PRIVATE KEY/);
    }
  });
});
