import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, describe, test } from 'node:test';
import type { Config } from '#product/config/config.js';
import { configHelp } from '#product/config/help.js';
import { logLevelOf, readConfig, readReloaded } from '#product/config/read-config.js';
import { configWarnings } from '#product/config/setting-warnings.js';
import { descriptorLimit, ownDescriptors } from '#product/config/descriptor-limit.js';
import { StartError } from '#product/core/errors.js';
import { KEY_BYTES_LIMIT } from '#product/core/increment.js';
import {
  IDEMPOTENT_HEADER_BYTES,
  INCREMENT_HEADER_BYTES,
  PENDING_KEY_OVERHEAD_BYTES,
  RECORD_BYTES_MAX,
  RECORD_HEADER_BYTES,
} from '#product/shard-worker/protocol/record-layout.js';
import { settings } from '#product/config/settings.js';

const directory = mkdtempSync(join(tmpdir(), 'summing-counters-config-'));
after(() => rmSync(directory, { recursive: true }));

function file(name: string, content: string): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

function problemsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    readConfig(env);
  } catch (error) {
    assert.ok(error instanceof StartError);
    assert.equal(error.exitCode, 78);
    return error.problems;
  }
  return [];
}

function onlyProblemOf(env: NodeJS.ProcessEnv): string {
  const [problem, ...others] = problemsOf(env);
  assert.deepEqual(others, []);
  return problem ?? '(no problem)';
}

test('an empty environment gives the defaults of the contract', () => {
  assert.deepEqual(readConfig({}), {
    host: '127.0.0.1',
    port: 3333,
    databaseUrl: undefined,
    dataDir: resolve('data'),
    shards: Math.max(1, Math.min(4, availableParallelism() - 1)),
    httpThreads: 1,
    role: 'serve',
    journal: 'file',
    nats: undefined,
    sqs: undefined,
    natsStream: 'summing-counters',
    natsReplicas: 1,
    journalSync: 'always',
    journalBytesMax: 1024 ** 3,
    journalKeepSeconds: 0,
    flushIntervalMs: 1000,
    flushKeysMax: 10_000,
    pendingKeysMax: 1_000_000,
    pendingBytesMax: 256 * 1024 ** 2,
    bodyBytesMax: 1024 ** 2,
    isBodyBytesMaxGiven: false,
    keyBytesMax: 512,
    watchersMax: 1000,
    connectionsMax: Math.min(1_000_000_000, descriptorLimit() - 100),
    ackTimeoutMs: 5000,
    idempotencyWindowHours: 24,
    idempotencyRowsMax: 100_000_000,
    streamExpiryDays: 7,
    shutdownTimeoutMs: 30_000,
    drainDelayMs: 0,
    authTokens: [],
    allowedHosts: [],
    corsOrigins: [],
    tls: undefined,
    adoptCounters: 0,
    logLevel: 'info',
    logSummarySeconds: 60,
  } satisfies Config);
});

test('a variable that is empty or only white space is unset, and foreign variables are ignored', () => {
  const variables = Object.values(settings).map(({ variable }) => variable);
  const empty = Object.fromEntries(
    variables.map((variable, n) => [variable, n % 2 || variable === 'AUTH_TOKENS' ? '' : ' \t']),
  );
  assert.deepEqual(readConfig({ ...empty, PATH: '/bin', PORTS: 'x' }), readConfig({}));
});

test('with a given database the journal keeps committed records for a minute by default', () => {
  const DATABASE_URL = 'postgres://db/counters';
  assert.equal(readConfig({ DATABASE_URL }).journalKeepSeconds, 60);
  assert.equal(readConfig({ DATABASE_URL, JOURNAL_KEEP_SECONDS: '7' }).journalKeepSeconds, 7);
});

/** Variable, member, smallest and largest accepted value, and other settings that the relations require. */
const bounds: readonly (readonly [string, keyof Config, number, number, NodeJS.ProcessEnv?])[] = [
  ['PORT', 'port', 0, 65_535],
  ['SHARDS', 'shards', 1, 64],
  ['HTTP_THREADS', 'httpThreads', 1, 64],
  ['JOURNAL_MAX_BYTES', 'journalBytesMax', 64 * 1024, 16 * 1024 ** 4, { MAX_BODY_BYTES: '8192' }],
  ['JOURNAL_KEEP_SECONDS', 'journalKeepSeconds', 0, 315_360_000],
  ['FLUSH_INTERVAL_MS', 'flushIntervalMs', 1, 3_600_000],
  ['FLUSH_MAX_KEYS', 'flushKeysMax', 1, 100_000_000],
  ['MAX_PENDING_KEYS', 'pendingKeysMax', 1, 100_000_000, { SHARDS: '1' }],
  ['MAX_PENDING_BYTES', 'pendingBytesMax', 1024, 900 * 1024 ** 2, { MAX_BODY_BYTES: '51', MAX_PENDING_KEYS: '100000' }],
  ['MAX_BODY_BYTES', 'bodyBytesMax', 16, 16 * 1024 ** 2, { MAX_PENDING_BYTES: '512MiB' }],
  ['MAX_KEY_BYTES', 'keyBytesMax', 1, KEY_BYTES_LIMIT],
  ['MAX_CONNECTIONS', 'connectionsMax', 1, 1_000_000_000],
  ['MAX_WATCHERS', 'watchersMax', 1, 1_000_000],
  ['ACK_TIMEOUT_MS', 'ackTimeoutMs', 10, 600_000],
  ['IDEMPOTENCY_WINDOW_HOURS', 'idempotencyWindowHours', 1, 8760],
  ['IDEMPOTENCY_MAX_ROWS', 'idempotencyRowsMax', 1, 1_000_000_000_000],
  ['STREAM_EXPIRY_DAYS', 'streamExpiryDays', 0, 3650],
  ['SHUTDOWN_TIMEOUT_MS', 'shutdownTimeoutMs', 100, 3_600_000],
  ['DRAIN_DELAY_MS', 'drainDelayMs', 0, 3_599_999, { SHUTDOWN_TIMEOUT_MS: '3600000' }],
  ['LOG_SUMMARY_SECONDS', 'logSummarySeconds', 0, 86_400],
  ['ADOPT_COUNTERS', 'adoptCounters', 0, 1],
  ['NATS_REPLICAS', 'natsReplicas', 1, 5],
];

for (const [variable, member, smallest, largest, others] of bounds) {
  test(`${variable} is a whole number from ${smallest} to ${largest}`, () => {
    for (const value of [smallest, largest]) {
      assert.equal(readConfig({ ...others, [variable]: String(value) })[member], value);
    }
    for (const text of [String(smallest - 1), String(largest + 1), '1.5', '1e3', '0x10', '+1', '-1', 'many', '1 2']) {
      const problem = onlyProblemOf({ ...others, [variable]: text });
      assert.ok(problem.startsWith(`${variable} is `) && problem.includes('but must be '), problem);
      assert.ok(problem.includes(text), problem);
    }
  });
}

test('every setting that is a number has a test of its limits', () => {
  const numbers = Object.entries(readConfig({})).filter(([, value]) => typeof value === 'number');
  assert.deepEqual(numbers.map(([member]) => member).sort(), bounds.map(([, member]) => member).sort());
});

test('sizes are in bytes, or have a unit of KiB, MiB, GiB or TiB, with or without a space', () => {
  const size = (text: string): number => readConfig({ JOURNAL_MAX_BYTES: text }).journalBytesMax;
  assert.equal(size('67108864'), 64 * 1024 ** 2);
  assert.equal(size('67108864 B'), 64 * 1024 ** 2);
  assert.equal(size('64MiB'), 64 * 1024 ** 2);
  assert.equal(size('65536 KiB'), 64 * 1024 ** 2);
  assert.equal(size('1 gib'), 1024 ** 3);
  assert.equal(size('2TiB'), 2 * 1024 ** 4);
  for (const text of ['64MB', '64M', 'MiB', '1.5GiB', '64 MiB 3']) {
    const expected = `JOURNAL_MAX_BYTES is "${text}", but must be a size, 64 KiB to 16 TiB, in bytes or with KiB, MiB or GiB.`;
    assert.equal(onlyProblemOf({ JOURNAL_MAX_BYTES: text }), expected);
  }
});

/**
 * Most bytes that a record for the increments of a body of `bodyBytes` can need. The shortest increment in JSON is
 * `"k":1,`: six bytes, whose entry has fifteen.
 */
function recordBytesOfBody(bodyBytes: number): number {
  return (
    RECORD_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES + 255 + Math.ceil((bodyBytes / 6) * (INCREMENT_HEADER_BYTES + 1))
  );
}

test('the increments of the largest configurable body fit one record', () => {
  const { bodyBytesMax } = readConfig({ MAX_BODY_BYTES: '16MiB', MAX_PENDING_BYTES: '512MiB' });
  assert.ok(recordBytesOfBody(bodyBytesMax) <= RECORD_BYTES_MAX);
});

test('the increments of any body fit the smallest memory that can be configured with it', () => {
  for (const bodyBytes of [51, 1024, 1024 ** 2, 16 * 1024 ** 2]) {
    // {"k":1,"k":1}
    const increments = Math.floor((bodyBytes - 1) / '"k":1,'.length);
    const incrementBytes = INCREMENT_HEADER_BYTES + 1 + PENDING_KEY_OVERHEAD_BYTES;
    assert.ok(increments * incrementBytes <= Math.max(1024, 20 * bodyBytes), String(bodyBytes));
  }
});

test('a limit of open files that is too low for the server and its connections is a warning that names a good one', () => {
  const own = ownDescriptors({ shards: 1, httpThreads: 1 });
  const config = readConfig({ SHARDS: '1', MAX_CONNECTIONS: '30' });
  assert.deepEqual(configWarnings(config, own + 100), []);
  assert.deepEqual(configWarnings(config, own + 99), [
    `The limit of open files is ${own + 99}, but journal, database and threads need about ${own} and connections 100: ` +
      `raise it to at least ${own + 100} (ulimit -n ${own + 100}, or LimitNOFILE=${own + 100} in a systemd unit).`,
  ]);
  const many = readConfig({ SHARDS: '1', MAX_CONNECTIONS: '5000' });
  assert.match(configWarnings(many, own + 4999)[0] ?? '', new RegExp(`raise it to at least ${own + 5000} `));
  assert.deepEqual(configWarnings(many, own + 5000), []);
});

test('limits that are too small for some legal bodies are accepted with a warning', () => {
  const warningsOf = (env: NodeJS.ProcessEnv): readonly string[] => configWarnings(readConfig(env));
  assert.deepEqual(warningsOf({ MAX_PENDING_BYTES: '20MiB', JOURNAL_MAX_BYTES: '8MiB' }), []);
  assert.deepEqual(warningsOf({ MAX_PENDING_BYTES: '20971519', JOURNAL_MAX_BYTES: '8191KiB' }), [
    'MAX_PENDING_BYTES is 20971519 bytes: the server always refuses some bodies within MAX_BODY_BYTES; set at least 20 MiB.',
    'JOURNAL_MAX_BYTES is 8191 KiB: the server always refuses some bodies within MAX_BODY_BYTES; set at least 8 MiB.',
  ]);
});

test('limits that contradict each other are refused from the first such value on', () => {
  assert.equal(onlyProblemOf({ SHARDS: '4', MAX_PENDING_KEYS: '4' }), '(no problem)');
  assert.equal(
    onlyProblemOf({ SHARDS: '4', MAX_PENDING_KEYS: '3' }),
    'MAX_PENDING_KEYS is 3, but must be at least SHARDS, 4.',
  );
  const keysMax = 1_000_000;
  const bytesMax = 1_000_000_000 - 192 * keysMax;
  assert.equal(onlyProblemOf({ MAX_PENDING_BYTES: String(bytesMax) }), '(no problem)');
  assert.equal(
    onlyProblemOf({ MAX_PENDING_BYTES: String(bytesMax + 1) }),
    `MAX_PENDING_BYTES is ${bytesMax + 1} bytes and MAX_PENDING_KEYS ${keysMax}: MAX_PENDING_BYTES + 192 × ` +
      'MAX_PENDING_KEYS must be at most 1000000000, the limit of one flush.',
  );
  // More keys than fit the bytes need no more bytes.
  assert.equal(onlyProblemOf({ MAX_PENDING_KEYS: '100000000' }), '(no problem)');
  assert.equal(onlyProblemOf({ DRAIN_DELAY_MS: '999', SHUTDOWN_TIMEOUT_MS: '1000' }), '(no problem)');
  assert.equal(
    onlyProblemOf({ DRAIN_DELAY_MS: '1000', SHUTDOWN_TIMEOUT_MS: '1000' }),
    'DRAIN_DELAY_MS is 1000, but must be less than SHUTDOWN_TIMEOUT_MS, 1000.',
  );
});

test('a relation is not checked with a value that is itself invalid', () => {
  assert.match(onlyProblemOf({ MAX_BODY_BYTES: '1TiB' }), /^MAX_BODY_BYTES is "1TiB"/);
});

test('HOST accepts addresses and names, and nothing else', () => {
  for (const HOST of ['0.0.0.0', '::', '::1', 'localhost', 'node-1.example']) {
    assert.equal(readConfig({ HOST }).host, HOST);
  }
  for (const HOST of ['a b', 'http://x', 'x/y', 'a'.repeat(254)]) {
    assert.equal(onlyProblemOf({ HOST }), `HOST is "${HOST}", but must be an address or a host name.`);
  }
});

test('DATA_DIR is made absolute', () => {
  assert.equal(readConfig({ DATA_DIR: 'a/../b' }).dataDir, resolve('b'));
  assert.equal(readConfig({ DATA_DIR: '/var/lib/counters/' }).dataDir, '/var/lib/counters');
});

test('an unknown word is refused, and the problem lists the known ones', () => {
  for (const JOURNAL_SYNC of ['always', 'everysec'])
    assert.equal(readConfig({ JOURNAL_SYNC }).journalSync, JOURNAL_SYNC);
  assert.equal(onlyProblemOf({ JOURNAL_SYNC: 'no' }), 'JOURNAL_SYNC is "no", but must be one of always, everysec.');
  for (const LOG_LEVEL of ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']) {
    assert.equal(readConfig({ LOG_LEVEL }).logLevel, LOG_LEVEL);
  }
  assert.match(onlyProblemOf({ LOG_LEVEL: 'INFO' }), /^LOG_LEVEL is "INFO", but must be one of .*debug/);
});

test('a journal is one of the known kinds', () => {
  const DATABASE_URL = 'postgresql://me@db/counters';
  for (const JOURNAL of ['memory', 'file', 'postgres'])
    assert.equal(readConfig({ JOURNAL, DATABASE_URL }).journal, JOURNAL);
  assert.equal(
    onlyProblemOf({ JOURNAL: 'kafka' }),
    'JOURNAL is "kafka", but must be memory, file, postgres, nats://HOST:PORT or sqs:QUEUE_URL.',
  );
});

test('the URL of a queue has its region where its host names it', () => {
  const DATABASE_URL = 'postgresql://me@db/counters';
  const read = (queueUrl: string): Config => readConfig({ JOURNAL: `sqs:${queueUrl}`, ROLE: 'ingest', DATABASE_URL });
  for (const [queueUrl, region] of [
    ['https://sqs.eu-west-1.amazonaws.com/123456789012/counters.fifo', 'eu-west-1'],
    ['https://sqs-fips.us-gov-west-1.amazonaws.com/1/counters.fifo', 'us-gov-west-1'],
    ['https://vpce-0a1b.sqs.us-east-2.vpce.amazonaws.com/1/counters.fifo', 'us-east-2'],
    ['http://127.0.0.1:4566/000000000000/counters.fifo', undefined],
  ] as const) {
    const { journal, sqs } = read(queueUrl);
    assert.deepEqual({ journal, sqs }, { journal: 'sqs', sqs: { queueUrl, region } });
  }
});

test('what is not the URL of a FIFO queue is refused, and so is a server that would read its own queue', () => {
  const settings = { ROLE: 'roll-up', DATABASE_URL: 'postgresql://me@db/counters' };
  for (const JOURNAL of ['sqs:', 'sqs:counters.fifo', 'sqs:ftp://host/counters.fifo', 'sqs:https://'])
    assert.match(onlyProblemOf({ ...settings, JOURNAL }), /but must be the URL of a queue/);
  assert.match(onlyProblemOf({ ...settings, JOURNAL: 'sqs:https://host/1/counters' }), /must be a FIFO queue/);
  const secret = onlyProblemOf({ ...settings, JOURNAL: 'sqs:https://me:hunter2@host/1/counters.fifo' });
  assert.match(secret, /^JOURNAL holds a user or a password/);
  const JOURNAL = 'sqs:https://host/1/counters.fifo';
  assert.match(onlyProblemOf({ ...settings, JOURNAL, ROLE: 'serve' }), /^ROLE is serve, but/);
  assert.equal(onlyProblemOf({ ...settings, JOURNAL, MAX_BODY_BYTES: '128 KiB' }), '(no problem)');
});

test('roles and the journal in PostgreSQL need what other servers reach', () => {
  const DATABASE_URL = 'postgresql://me@db/counters';
  assert.equal(readConfig({}).role, 'serve');
  for (const ROLE of ['serve', 'ingest', 'roll-up'])
    assert.equal(readConfig({ ROLE, JOURNAL: 'postgres', DATABASE_URL }).role, ROLE);
  assert.equal(
    onlyProblemOf({ JOURNAL: 'postgres' }),
    'JOURNAL is postgres, which needs a DATABASE_URL that other servers reach, too.',
  );
  for (const ROLE of ['ingest', 'roll-up']) {
    for (const JOURNAL of ['memory', 'file']) {
      const problem = `ROLE is ${ROLE}, which needs a JOURNAL that other servers reach, too: postgres, nats://HOST:PORT or sqs:QUEUE_URL. It is ${JOURNAL}.`;
      assert.equal(onlyProblemOf({ ROLE, JOURNAL, DATABASE_URL }), problem);
    }
  }
  assert.equal(onlyProblemOf({ ROLE: 'leader' }), 'ROLE is "leader", but must be one of serve, ingest, roll-up.');
});

describe('DATABASE_URL', () => {
  test('gets the scheme postgresql: from each of the three accepted schemes', () => {
    for (const scheme of ['postgres', 'postgresql', 'ecto', 'ECTO']) {
      const { databaseUrl } = readConfig({ DATABASE_URL: `${scheme}://me:p%40ss@db:6432/counters?sslmode=require` });
      assert.equal(databaseUrl, 'postgresql://me:p%40ss@db:6432/counters?sslmode=require');
    }
  });

  test('of another scheme or form is refused without being quoted', () => {
    for (const DATABASE_URL of [
      'mysql://me:hunter2@db/x',
      'me:hunter2@db',
      'postgres:me:hunter2',
      'postgres://me:hunter2@db:x/',
    ]) {
      const problem = onlyProblemOf({ DATABASE_URL });
      assert.match(problem, /^DATABASE_URL .*postgres:\/\/USER:PASSWORD@HOST:PORT\/DATABASE/);
      assert.ok(!problem.includes('hunter2'), problem);
    }
  });
});

describe('DATABASE_URL_FILE', () => {
  test('holds the URL, with or without a newline at the end', () => {
    for (const end of ['', '\n', '\r\n']) {
      const config = readConfig({ DATABASE_URL_FILE: file('url', `ecto://me:p%40ss@db/counters${end}`) });
      assert.equal(config.databaseUrl, 'postgresql://me:p%40ss@db/counters');
      assert.equal(config.journalKeepSeconds, 60);
    }
    const DATABASE_URL_FILE = file('list', 'postgres://me:p%40ss@a,b:5433/counters\n');
    assert.equal(readConfig({ DATABASE_URL_FILE }).databaseUrl, 'postgresql://me:p%40ss@a,b:5433/counters');
  });

  test('that is missing, empty or wrong is refused without its content', () => {
    const missing = onlyProblemOf({ DATABASE_URL_FILE: join(directory, 'no-url') });
    assert.match(missing, /^DATABASE_URL_FILE is ".*no-url", which must be a file .*\(ENOENT\)\.$/);
    const empty = onlyProblemOf({ DATABASE_URL_FILE: file('empty-url', '\n') });
    assert.match(empty, /^DATABASE_URL_FILE names ".*empty-url", whose content is empty\.$/);
    for (const text of ['mysql://me:hunter2@db/x', 'me:hunter2@db', 'postgres://me:hunter2@db:x/']) {
      const problem = onlyProblemOf({ DATABASE_URL_FILE: file('wrong-url', text) });
      assert.match(problem, /^DATABASE_URL_FILE names ".*wrong-url", whose content .*postgres:\/\/USER:PASSWORD@HOST/);
      assert.ok(!problem.includes('hunter2'), problem);
    }
  });

  test('together with DATABASE_URL is refused', () => {
    const url = 'postgres://me:hunter2@db/x';
    const problem = onlyProblemOf({ DATABASE_URL: url, DATABASE_URL_FILE: file('both-url', url) });
    assert.equal(problem, 'DATABASE_URL_FILE and DATABASE_URL are both set; unset one of them.');
  });
});

test('a reload reads bearer tokens and TLS files, and looks at no other setting', () => {
  const AUTH_TOKENS_FILE = file('reloaded', 'admin:one\n');
  assert.deepEqual(readReloaded({ AUTH_TOKENS_FILE, PORT: 'wrong', DATABASE_URL_FILE: '/none' }), {
    authTokens: [{ scope: 'admin', token: 'one' }],
    tls: undefined,
  });
  assert.deepEqual(readReloaded({}), { authTokens: [], tls: undefined });
  assert.throws(() => readReloaded({ AUTH_TOKENS_FILE: file('reloaded', 'owner:two\n') }), StartError);
});

test('the log of a start with a wrong configuration has LOG_LEVEL, or the default where that is wrong, too', () => {
  assert.equal(logLevelOf({ LOG_LEVEL: ' warn ', PORT: 'x' }), 'warn');
  for (const LOG_LEVEL of ['', 'loud']) assert.equal(logLevelOf({ LOG_LEVEL }), 'info');
});

test('a journal URL is quoted without its password', () => {
  const unknown = onlyProblemOf({ JOURNAL: 'kafka://me:hunter2@queue' });
  assert.ok(unknown.includes('kafka://***@queue') && !unknown.includes('hunter2'), unknown);
  for (const host of ['', 'broker:0', 'broker:70000', 'broker:4222/stream', 'one,,two']) {
    const problem = onlyProblemOf({ JOURNAL: `nats://me:hunter2@${host}`, DATABASE_URL: 'postgres://db/counters' });
    assert.match(problem, /^JOURNAL (has a server that is not HOST:PORT|is not a valid URL)/);
    assert.ok(!problem.includes('hunter2'), problem);
  }
  const encoded = onlyProblemOf({ JOURNAL: 'nats://me:hunter2%@broker', DATABASE_URL: 'postgres://db/counters' });
  assert.match(encoded, /^JOURNAL has a user or a password that is not percent-encoded/);
  assert.ok(!encoded.includes('hunter2'), encoded);
});

test('the URL of a broker has its servers, and who connects to them', () => {
  const DATABASE_URL = 'postgres://db/counters';
  const read = (JOURNAL: string, env = {}): Config => readConfig({ JOURNAL, DATABASE_URL, ...env });
  const none = { user: undefined, password: undefined, token: undefined, credsFile: undefined, tls: undefined };
  assert.deepEqual(read('nats://a:1,[::1]:2,c').nats, { servers: ['a:1', '[::1]:2', 'c:4222'], ...none });
  assert.equal(read('nats://a').journal, 'nats');
  assert.deepEqual(read('nats://me:p%40ss@a:1,nats://b').nats, {
    ...none,
    servers: ['a:1', 'b:4222'],
    user: 'me',
    password: 'p@ss',
  });
  assert.deepEqual(read('nats://s3cret@a').nats, { ...none, servers: ['a:4222'], token: 's3cret' });
  const tls = { caFile: undefined, certFile: undefined, keyFile: undefined };
  assert.deepEqual(read('tls://a').nats?.tls, tls);
  const own = read('nats://url:url@a', { NATS_USER: 'me', NATS_PASSWORD: 'mine' }).nats;
  assert.deepEqual([own?.user, own?.password], ['me', 'mine']);
  assert.equal(read('file').nats, undefined);
  for (const [env, isBodyBytesMaxGiven] of [
    [{}, false],
    [{ MAX_BODY_BYTES: '' }, false],
    [{ MAX_BODY_BYTES: '1 MiB' }, true],
  ] as const)
    assert.equal(read('nats://a', env).isBodyBytesMaxGiven, isBodyBytesMaxGiven);
});

test('a broker takes one kind of access, a certificate with its key, and a stream with a simple name', () => {
  const env = { JOURNAL: 'nats://me:hunter2@a', DATABASE_URL: 'postgres://db/counters' };
  assert.match(onlyProblemOf({ ...env, NATS_TOKEN: 't' }), /^A user, a token and NATS_CREDS_FILE exclude each other/);
  assert.match(
    onlyProblemOf({ ...env, NATS_TLS_CERT_FILE: import.meta.filename }),
    /^NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE belong together/,
  );
  assert.match(onlyProblemOf({ ...env, NATS_STREAM: 'a.b' }), /^NATS_STREAM is "a\.b", but must be/);
  assert.match(
    onlyProblemOf({ ...env, NATS_REPLICAS: '6' }),
    /^NATS_REPLICAS is "6", but must be a whole number, 1 to 5/,
  );
});

describe('bearer tokens', () => {
  test('have a scope each, and are separated by commas or white space', () => {
    const { authTokens } = readConfig({ AUTH_TOKENS: 'write:a.b-c_d~e+f/g==, read:xyz\nadmin:0\t write:w,' });
    assert.deepEqual(authTokens, [
      { scope: 'write', token: 'a.b-c_d~e+f/g==' },
      { scope: 'read', token: 'xyz' },
      { scope: 'admin', token: '0' },
      { scope: 'write', token: 'w' },
    ]);
  });

  test('of the file are added to those of the variable; comments and empty lines are ignored', () => {
    const AUTH_TOKENS_FILE = file('tokens', '# for the writers\nwrite:one # first\r\n\n  read:two\n');
    assert.deepEqual(readConfig({ AUTH_TOKENS: 'admin:zero', AUTH_TOKENS_FILE }).authTokens, [
      { scope: 'admin', token: 'zero' },
      { scope: 'write', token: 'one' },
      { scope: 'read', token: 'two' },
    ]);
  });

  test('that are malformed are reported by their number and never quoted', () => {
    for (const entry of [
      'hunter2',
      'writer:hunter2',
      ':hunter2',
      'write:',
      'write:hunter2"',
      'read:hünter2',
      'write:=',
    ]) {
      for (const env of [
        { AUTH_TOKENS: `read:ok,${entry}` },
        { AUTH_TOKENS_FILE: file('bad', `read:ok\n${entry}\n`) },
      ]) {
        const problem = onlyProblemOf(env);
        assert.match(problem, /^AUTH_TOKENS(_FILE)? must be a list of SCOPE:TOKEN .*entry 2 is not\.$/);
        assert.ok(!/h[uü]nter2/.test(problem), problem);
      }
    }
  });

  test('of a file need a readable file with at least one token', () => {
    const absent = join(directory, 'absent');
    assert.match(onlyProblemOf({ AUTH_TOKENS_FILE: absent }), /^AUTH_TOKENS_FILE is ".*absent", .*\(ENOENT\)\.$/);
    assert.match(onlyProblemOf({ AUTH_TOKENS_FILE: directory }), /\(EISDIR\)\.$/);
    const nothing = file('nothing', '# nobody\n');
    assert.match(onlyProblemOf({ AUTH_TOKENS_FILE: nothing }), /must hold at least one SCOPE:TOKEN\.$/);
  });

  test('begin a comment with # only at the start of a line or after white space', () => {
    const AUTH_TOKENS_FILE = file('hash', 'admin:ab # cdef\n\t#read:none\nread:two\t# second\n');
    assert.deepEqual(readConfig({ AUTH_TOKENS_FILE }).authTokens, [
      { scope: 'admin', token: 'ab' },
      { scope: 'read', token: 'two' },
    ]);
    // Cut at the #, this would be a shorter token than the operator has given out.
    assert.match(onlyProblemOf({ AUTH_TOKENS_FILE: file('cut', 'admin:ab#cdef\n') }), /entry 1 is not\.$/);
  });

  test('as white space alone are an error, not an open server', () => {
    for (const AUTH_TOKENS of [' ', '\n', ' \t ']) {
      assert.equal(onlyProblemOf({ AUTH_TOKENS }), 'AUTH_TOKENS is white space only; unset it, or give it a value.');
    }
    assert.deepEqual(readConfig({ AUTH_TOKENS: '' }).authTokens, []);
  });

  test('as separators alone are an error, not an open server', () => {
    for (const AUTH_TOKENS of [',', ' , ,', ',\n,']) {
      assert.match(onlyProblemOf({ AUTH_TOKENS }), /^AUTH_TOKENS must hold at least one SCOPE:TOKEN\.$/);
    }
  });
});

describe('TLS', () => {
  test('needs both files', () => {
    const certOnly = { TLS_CERT_FILE: file('cert', 'x') };
    assert.equal(onlyProblemOf(certOnly), 'TLS_KEY_FILE must be set as well, because TLS_CERT_FILE is set.');
    const keyOnly = { TLS_KEY_FILE: file('key', 'x') };
    assert.equal(onlyProblemOf(keyOnly), 'TLS_CERT_FILE must be set as well, because TLS_KEY_FILE is set.');
  });

  test('needs a certificate and its key', () => {
    const certificate = (name: string): { TLS_CERT_FILE: string; TLS_KEY_FILE: string } => {
      const files = { TLS_CERT_FILE: join(directory, `${name}.crt`), TLS_KEY_FILE: join(directory, `${name}.key`) };
      const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
      const output = ['-subj', '/CN=localhost', '-out', files.TLS_CERT_FILE, '-keyout', files.TLS_KEY_FILE];
      execFileSync('openssl', [...request, ...output], { stdio: 'ignore' });
      return files;
    };
    const [one, two] = [certificate('one'), certificate('two')];
    assert.deepEqual(readConfig(one).tls, { certFile: one.TLS_CERT_FILE, keyFile: one.TLS_KEY_FILE });
    const mismatch = onlyProblemOf({ ...one, TLS_KEY_FILE: two.TLS_KEY_FILE });
    assert.match(mismatch, /^TLS_CERT_FILE and TLS_KEY_FILE must be a certificate and its private key in PEM form /);
    assert.match(onlyProblemOf({ ...one, TLS_CERT_FILE: file('no.crt', 'x') }), /in PEM form/);
    const absent = onlyProblemOf({ ...one, TLS_KEY_FILE: join(directory, 'absent.key') });
    assert.match(
      absent,
      /^TLS_KEY_FILE is ".*absent.key", which must be a file that this process can read \(ENOENT\)\.$/,
    );
  });
});

test('every problem is reported, in one sentence each', () => {
  const problems = problemsOf({
    PORT: 'http',
    SHARDS: '0',
    ROLE: 'leader',
    JOURNAL: 'kafka',
    DATABASE_URL: 'mysql://x',
    TLS_KEY_FILE: '/nowhere/key.pem',
    AUTH_TOKENS: 'nobody:x',
    LOG_LEVEL: 'loud',
    DRAIN_DELAY_MS: '30000',
  });
  const variables = ['PORT', 'SHARDS', 'ROLE', 'JOURNAL', 'DATABASE_URL', 'TLS_KEY_FILE', 'AUTH_TOKENS', 'LOG_LEVEL'];
  for (const variable of [...variables, 'TLS_CERT_FILE', 'DRAIN_DELAY_MS']) {
    assert.equal(problems.filter((problem) => problem.startsWith(`${variable} `)).length, 1, variable);
  }
  assert.equal(problems.length, variables.length + 2);
  for (const problem of problems) assert.match(problem, /^[A-Z_]+ [^\n]+\.$/);
});

test('the configuration is deeply frozen', () => {
  const config = readConfig({ AUTH_TOKENS: 'write:x' });
  assert.ok(Object.isFrozen(config) && Object.isFrozen(config.authTokens));
  assert.ok(config.authTokens.every((token) => Object.isFrozen(token)));
});

test('the help begins one line with every variable, with its default and limits, and fits 80 columns', () => {
  const lines = configHelp().trimEnd().split('\n');
  for (const line of lines) assert.ok(line.length <= 80, line);
  for (const { variable } of Object.values(settings)) {
    assert.equal(lines.filter((line) => line.startsWith(`${variable} `)).length, 1, variable);
  }
  assert.match(configHelp(), /^PORT +default: 3333; accepts: 0 to 65535\n +port to listen on/m);
  assert.match(
    configHelp(),
    /^MAX_BODY_BYTES +default: 1 MiB, less where nats or sqs hold less;\n +accepts: 16 bytes to 16 MiB\n/m,
  );
  assert.match(configHelp(), /^JOURNAL_SYNC +default: always; accepts: always \| everysec\n/m);
});

test('CORS_ORIGINS is a list of origins as browsers send them', () => {
  assert.deepEqual(readConfig({ CORS_ORIGINS: 'https://example.org, http://localhost:8080 *' }).corsOrigins, [
    'https://example.org',
    'http://localhost:8080',
    '*',
  ]);
  const wrong = ['example.org', 'https://example.org/', 'https://Example.org', 'https://example.org:443', 'null'];
  for (const CORS_ORIGINS of [...wrong, 'ftp://example.org', 'https://a:b@example.org']) {
    assert.match(
      onlyProblemOf({ CORS_ORIGINS }),
      /^CORS_ORIGINS must be origins such as https:.*, or \*, .* is not\.$/,
    );
  }
});

test('ALLOWED_HOSTS is a list of host names without ports', () => {
  assert.deepEqual(readConfig({ ALLOWED_HOSTS: 'Counters.example.org, other *' }).allowedHosts, [
    'counters.example.org',
    'other',
    '*',
  ]);
  for (const ALLOWED_HOSTS of ['example.org:3333', 'http://example.org', 'a/b', '.example.org']) {
    assert.match(onlyProblemOf({ ALLOWED_HOSTS }), /^ALLOWED_HOSTS must be host names without port, .* is not\.$/);
  }
});
