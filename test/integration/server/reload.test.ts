import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { Agent as HttpAgent } from 'node:http';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { connect } from 'node:tls';
import { promisify } from 'node:util';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { EventReader } from '../../support/event-reader.js';
import { send } from '../../support/http.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const run = promisify(execFile);
/** Enough that each of three HTTP threads has some. */
const CONNECTIONS = 30;

/** Lines of the log that a SIGHUP led to. */
function reloads(server: TestServer): readonly string[] {
  return server.log.map(({ msg }) => String(msg)).filter((message) => message.startsWith('SIGHUP: '));
}

/** Sends SIGHUP; resolves to the line that the log says then. */
async function hangUp(server: TestServer): Promise<string> {
  const before = reloads(server).length;
  server.kill('SIGHUP');
  return eventually('the log says what SIGHUP did', async () => Promise.resolve(reloads(server)[before]));
}

async function statuses(url: string, token: string): Promise<ReadonlySet<number>> {
  const options = { headers: { authorization: `Bearer ${token}` }, agent: new HttpAgent() };
  const answers = await Promise.all(Array.from({ length: CONNECTIONS }, () => send(url, '/version', options)));
  return new Set(answers.map(({ status }) => status));
}

describe('SIGHUP', () => {
  let directory: string;
  let database: TestDatabase;
  const tls = { TLS_CERT_FILE: '', TLS_KEY_FILE: '' };

  before(async () => {
    directory = await temporaryDirectory();
    database = await createTestDatabase();
    tls.TLS_CERT_FILE = join(directory, 'cert.pem');
    tls.TLS_KEY_FILE = join(directory, 'key.pem');
  });
  after(async () => {
    await database.drop();
    await rm(directory, { recursive: true });
  });

  async function start(t: TestContext, env: Readonly<Record<string, string>>): Promise<TestServer> {
    return own(t, await startServer({ env: { DATABASE_URL: database.url, SHARDS: '1', ...env } }));
  }

  async function makeCertificate(name: string): Promise<void> {
    const made = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    await run('openssl', [...made, '-subj', `/CN=${name}`, '-keyout', tls.TLS_KEY_FILE, '-out', tls.TLS_CERT_FILE]);
  }

  /** The names of the certificates that new connections get. */
  async function names(server: TestServer): Promise<ReadonlySet<unknown>> {
    const { port } = new URL(server.url);
    const seen = Array.from(
      { length: CONNECTIONS },
      () =>
        new Promise((resolve, reject) => {
          const socket = connect({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false }, () => {
            resolve(socket.getPeerCertificate().subject.CN);
            socket.destroy();
          });
          socket.on('error', reject);
        }),
    );
    return new Set(await Promise.all(seen));
  }

  function post(server: TestServer, agent: Agent | false): Promise<number> {
    const { port } = new URL(server.url);
    return new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port, method: 'POST', path: '/increment', agent, rejectUnauthorized: false };
      const outgoing = request(options, (incoming) => {
        incoming.resume();
        incoming.on('end', () => resolve(incoming.statusCode ?? 0));
        incoming.on('error', reject);
      });
      outgoing.on('error', reject);
      outgoing.end('{"swapped":1}');
    });
  }

  for (const threads of ['1', '3']) {
    test(`reads the bearer tokens again, with ${threads} HTTP threads: the new one is valid, the old one is not`, async (t) => {
      const AUTH_TOKENS_FILE = join(directory, 'tokens');
      await writeFile(AUTH_TOKENS_FILE, 'admin:old-7f3a\nread:kept-91bc\n');
      const server = await start(t, { AUTH_TOKENS_FILE, HTTP_THREADS: threads });
      assert.deepEqual(await statuses(server.url, 'old-7f3a'), new Set([200]));
      await writeFile(AUTH_TOKENS_FILE, 'admin:new-2d5e\nread:kept-91bc\n');
      assert.equal(await hangUp(server), 'SIGHUP: 2 bearer tokens are valid now');
      assert.deepEqual(await statuses(server.url, 'old-7f3a'), new Set([401]));
      assert.deepEqual(await statuses(server.url, 'new-2d5e'), new Set([200]));
      assert.deepEqual(await statuses(server.url, 'kept-91bc'), new Set([200]));
      assert.doesNotMatch(server.output, /old-7f3a|new-2d5e|kept-91bc/);
      await assertCleanStop(server);
    });

    test(`with ${threads} HTTP threads new connections get the new certificate, none is refused meanwhile, and old ones go on`, async (t) => {
      await makeCertificate('first');
      const server = await start(t, { ...tls, HTTP_THREADS: threads, FLUSH_INTERVAL_MS: '50' });
      assert.deepEqual(await names(server), new Set(['first']));
      const old = new Agent({ keepAlive: true, maxSockets: 1 });
      let created = 0;
      assert.equal(await post(server, old), 202);
      created += 1;
      await makeCertificate('second');
      let isOver = false;
      const more = (count: number): Promise<boolean> => {
        const enough = created + count;
        return eventually('clients have answers', () => Promise.resolve(created >= enough));
      };
      const failures: string[] = [];
      const clients = Array.from({ length: 8 }, async () => {
        while (!isOver) {
          try {
            assert.equal(await post(server, false), 202);
            created += 1;
          } catch (error) {
            failures.push(String((error as NodeJS.ErrnoException).code ?? error));
          }
        }
      });
      await more(20);
      assert.equal(await hangUp(server), 'SIGHUP: new connections get the new certificate');
      assert.deepEqual(await names(server), new Set(['second']));
      await more(20);
      isOver = true;
      await Promise.all(clients);
      // A connection that the kernel holds for the old socket when that closes is reset; no attempt is refused.
      assert.deepEqual(
        failures.filter((code) => code !== 'ECONNRESET'),
        [],
      );
      assert.ok(failures.length <= 10, failures.join(' '));
      const [socket] = Object.values(old.freeSockets).flat();
      assert.equal(await post(server, old), 202);
      created += 1;
      assert.equal(socket?.destroyed, false);
      old.destroy();
      assert.equal(await hangUp(server), 'SIGHUP: the certificate is the same');
      await assertCleanStop(server);
    });
  }

  test('everything that was acknowledged during a change of the certificate is counted', async (t) => {
    const separate = own(t, await createTestDatabase());
    await makeCertificate('before');
    const server = own(t, await startServer({ env: { DATABASE_URL: separate.url, SHARDS: '1', ...tls } }));
    let [created, failed] = [0, 0];
    for (let round = 0; round < 5; round += 1) {
      await makeCertificate(`round-${round}`);
      const answers = Promise.allSettled(Array.from({ length: 40 }, () => post(server, false)));
      assert.match(await hangUp(server), /new certificate$/);
      for (const answer of await answers) {
        if (answer.status === 'fulfilled' && answer.value === 202) created += 1;
        else failed += 1;
      }
      assert.deepEqual(await names(server), new Set([`round-${round}`]));
    }
    await assertCleanStop(server);
    const sum = Number((await committedSums(separate.url)).get('swapped'));
    assert.ok(sum >= created && sum <= created + failed, `${sum} of ${created} and ${failed} unknown`);
    assert.ok(failed <= 20, `${failed} of 200 connections were reset`);
  });

  test('a token that is no longer valid ends its event streams, and no others', async (t) => {
    const AUTH_TOKENS_FILE = join(directory, 'stream-tokens');
    await writeFile(AUTH_TOKENS_FILE, 'read:gone-1c9a\nread:stays-5b07\n');
    const server = await start(t, { AUTH_TOKENS_FILE });
    const open = (token: string): Promise<EventReader> =>
      EventReader.open(server.url, '/watch?key=a', { authorization: `Bearer ${token}` });
    const [gone, stays] = [await open('gone-1c9a'), await open('stays-5b07')];
    await writeFile(AUTH_TOKENS_FILE, 'read:stays-5b07\n');
    await hangUp(server);
    await eventually('the stream ends', async () => Promise.resolve(gone.end !== 'open'));
    assert.deepEqual([gone.end, stays.end], ['ended', 'open']);
    stays.close();
    await assertCleanStop(server);
  });

  test('wrong tokens, a certificate without its key and a missing file keep the old ones, and the log says why', async (t) => {
    const AUTH_TOKENS_FILE = join(directory, 'wrong-tokens');
    await writeFile(AUTH_TOKENS_FILE, 'admin:first-33c1\n');
    await makeCertificate('valid');
    const server = await start(t, { ...tls, AUTH_TOKENS_FILE });
    await writeFile(AUTH_TOKENS_FILE, 'owner:second-8e0d\n');
    assert.match(await hangUp(server), /^SIGHUP: AUTH_TOKENS_FILE .* entry 1 is not\. The old bearer tokens and/);
    await writeFile(AUTH_TOKENS_FILE, 'admin:second-8e0d\n');
    await writeFile(tls.TLS_KEY_FILE, 'garbage');
    assert.match(await hangUp(server), /^SIGHUP: TLS_CERT_FILE and TLS_KEY_FILE must be .* The old/);
    await rm(tls.TLS_KEY_FILE);
    assert.match(await hangUp(server), /^SIGHUP: TLS_KEY_FILE .*ENOENT/);
    assert.deepEqual(await names(server), new Set(['valid']));
    await makeCertificate('repaired');
    assert.equal(await hangUp(server), 'SIGHUP: 1 bearer token is valid now; new connections get the new certificate');
    assert.deepEqual(await names(server), new Set(['repaired']));
    const errors = server.log.filter(({ level }) => level === 'error');
    assert.equal(errors.length, 3);
    assert.doesNotMatch(server.output, /first-33c1|second-8e0d|garbage/);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });

  test('SIGHUP changes nothing without tokens and TLS, and does not end a server that is starting', async (t) => {
    const unavailable = 'postgres://nobody@127.0.0.1:1/none';
    const env = { DATABASE_URL: unavailable, SHARDS: '1', JOURNAL: 'memory' };
    const server = own(t, await startServer({ env, until: 'Listening on' }));
    assert.equal(await hangUp(server), 'SIGHUP: neither bearer tokens nor TLS are configured; nothing was read again');
    assert.equal(server.isRunning, true);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });
});
