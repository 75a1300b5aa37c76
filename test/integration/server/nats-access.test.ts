/** A server with the journal in NATS, and brokers that want to know who it is. */
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, problemCode } from '../../support/http.js';
import { makeCertificates, makeJwtAccess, type Certificate } from '../../support/nats-access.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, temporaryDirectory } from '../../support/server.js';
import { own, refusedStart } from '../../support/own.js';

type Environment = Readonly<Record<string, string>>;

const REFUSED = /The broker refuses the server: .*\. Check user, password, token or NATS_CREDS_FILE\./;

describe('access to NATS', { skip: natsServerMissing() }, () => {
  let database: TestDatabase;
  let directory: string;
  let authority: string;
  let certificates: readonly Certificate[];
  before(async () => {
    database = await createTestDatabase();
    directory = await temporaryDirectory();
    ({ authority, certificates } = await makeCertificates(directory, ['broker', 'client']));
  });
  after(async () => {
    await rm(directory, { recursive: true });
    await database.drop();
  });

  function settings(env: Environment): Environment {
    return { DATABASE_URL: database.url, LOG_LEVEL: 'debug', SHARDS: '1', ...env };
  }

  /** Starts, counts and stops. None of `secrets` is in the log. */
  async function assertCounts(env: Environment, secrets: readonly string[] = []): Promise<void> {
    const server = await startServer({ env: settings(env) });
    try {
      assertCreated(await increment(server.url, { allowed: 1 }));
      assert.equal((await server.stop()).code, 0);
      for (const secret of secrets) assert.ok(!server.output.includes(secret), server.output);
    } finally {
      await server.dispose();
    }
  }

  /** The start ends with 78 and one line that says why. */
  async function assertRefused(env: Environment, reason: RegExp, secrets: readonly string[] = []): Promise<void> {
    const { log, output } = await refusedStart(settings(env), 78, reason);
    assert.ok(log.filter(({ level }) => level === 'fatal').length <= 1, output);
    for (const secret of secrets) assert.ok(!output.includes(secret), output);
  }

  test('a user and a password are given, and never logged; a wrong one ends the start', async (t) => {
    const broker = own(t, await NatsServer.start('authorization { user: counters, password: "s3cret-pa55" }'));
    await assertCounts({ JOURNAL: `nats://counters:s3cret-pa55@${broker.address}` }, ['s3cret-pa55']);
    const given = { JOURNAL: broker.journal, NATS_USER: 'counters' };
    await assertCounts({ ...given, NATS_PASSWORD: 's3cret-pa55' }, ['s3cret-pa55']);
    await assertRefused({ JOURNAL: `nats://counters:wr0ng@${broker.address}` }, REFUSED, ['wr0ng']);
    await assertRefused({ JOURNAL: broker.journal }, REFUSED);
  });

  test('a token is given, and never logged; a wrong one ends the start', async (t) => {
    const broker = own(t, await NatsServer.start('authorization { token: "t0ken-secret" }'));
    await assertCounts({ JOURNAL: `nats://t0ken-secret@${broker.address}` }, ['t0ken-secret']);
    await assertCounts({ JOURNAL: broker.journal, NATS_TOKEN: 't0ken-secret' }, ['t0ken-secret']);
    await assertRefused({ JOURNAL: broker.journal, NATS_TOKEN: 'wr0ng' }, REFUSED, ['wr0ng']);
  });

  test('a file of credentials is given; one of another account, or without credentials, ends the start', async (t) => {
    const { configuration, credentials, foreignCredentials } = makeJwtAccess();
    const broker = own(t, await NatsServer.start(configuration));
    const file = async (name: string, text: string): Promise<Environment> => {
      const path = join(directory, name);
      await writeFile(path, text);
      return { JOURNAL: broker.journal, NATS_CREDS_FILE: path };
    };
    const seed = /SU[A-Z0-9]{50,}/.exec(credentials)?.[0] ?? assert.fail('a seed is in the file');
    await assertCounts(await file('user.creds', credentials), [seed]);
    await assertRefused(await file('foreign.creds', foreignCredentials), REFUSED);
    await assertRefused(await file('empty.creds', 'nothing\n'), /NATS_CREDS_FILE/);
    await assertRefused({ JOURNAL: broker.journal, NATS_CREDS_FILE: join(directory, 'none') }, /NATS_CREDS_FILE/);
  });

  test('a broker with TLS is trusted by the authority of the settings only, and a client shows its certificate', async (t) => {
    const [broker, client] = certificates;
    assert.ok(broker !== undefined && client !== undefined);
    const files = `cert_file: "${broker.cert}", key_file: "${broker.key}", ca_file: "${authority}"`;
    const open = own(t, await NatsServer.start(`tls { ${files} }`));
    const closed = own(t, await NatsServer.start(`tls { ${files}, verify: true }`));
    const trusted = { NATS_TLS_CA_FILE: authority };
    const known = { ...trusted, NATS_TLS_CERT_FILE: client.cert, NATS_TLS_KEY_FILE: client.key };
    const refused = /The broker cannot be reached by TLS: .*\. Check .*NATS_TLS_CA_FILE/;
    await assertCounts({ JOURNAL: `tls://${open.address}`, ...trusted });
    await assertRefused({ JOURNAL: `tls://${open.address}` }, refused);
    await assertCounts({ JOURNAL: `tls://${closed.address}`, ...known });
    await assertRefused({ JOURNAL: `tls://${closed.address}`, ...trusted }, refused);
  });

  test('where TLS is asked for, a broker without it gets nothing', async (t) => {
    const broker = own(t, await NatsServer.start());
    const env = { JOURNAL: `tls://${broker.address}`, NATS_TLS_CA_FILE: authority };
    await assertRefused(env, /The broker cannot be reached by TLS/);
  });

  test('a password that is changed under a running server is an outage, which heals with the old one', async (t) => {
    const broker = own(t, await NatsServer.start('authorization { user: counters, password: "first" }'));
    const server = own(t, await startServer({ env: settings({ JOURNAL: `nats://counters:first@${broker.address}` }) }));
    assertCreated(await increment(server.url, { before: 1 }));
    await broker.stop();
    await broker.start('authorization { user: counters, password: "second" }');
    assert.equal(problemCode(await increment(server.url, { refused: 1 })), 'journal-unavailable');
    await server.waitFor('Journal in NATS unavailable; refusing increments');
    await broker.stop();
    await broker.start();
    await eventually('increments', async () => (await increment(server.url, { after: 1 })).status === 202);
    assert.equal((await server.stop()).code, 0);
  });
});
