import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';
import pg from 'pg';
import { connect, describeTarget, parseDatabaseUrl } from '#product/db/connection.js';
import { classifyDatabaseError, isStatementRefused, type DatabaseErrorKind } from '#product/db/database-errors.js';
import { StartError } from '#product/core/errors.js';

function fromServer(code: string, severity = 'ERROR'): pg.DatabaseError {
  return Object.assign(new pg.DatabaseError(`an error ${code}`, 0, 'error'), { code, severity });
}

const KINDS: readonly (readonly [DatabaseErrorKind, readonly string[]])[] = [
  ['unreachable', ['57P03', '53300']],
  [
    'retry',
    [
      '55P03',
      '57014',
      '40001',
      '40P01',
      '08006',
      '08P01',
      '57P01',
      '57P02',
      '53100',
      '53200',
      '25006',
      '25P03',
      '40003',
      '58030',
    ],
  ],
  ['refused', ['28P01', '28000', '42501', '3D000']],
  ['poison', ['22021', '22003', '23514', '23502', '54000']],
  ['other', ['42P01', '42601', '21000', 'XX000', 'P0001', '58P01']],
];

for (const [kind, codes] of KINDS) {
  test(`a server's error ${codes.join(', ')} is ${kind}`, () => {
    for (const code of codes) assert.equal(classifyDatabaseError(fromServer(code)), kind, code);
  });
}

test('an error of the network is unreachable before a connection and retry within one', () => {
  for (const code of ['ECONNREFUSED', 'ENOTFOUND', 'ETIMEDOUT', 'EHOSTUNREACH', 'EAI_AGAIN']) {
    assert.equal(classifyDatabaseError(Object.assign(new Error(code), { code })), 'unreachable', code);
  }
  for (const code of ['ECONNRESET', 'EPIPE']) {
    assert.equal(classifyDatabaseError(Object.assign(new Error(code), { code })), 'retry', code);
  }
  assert.equal(classifyDatabaseError(undefined), 'other');
});

test('a server that only listens is unreachable, and one that hangs up is to be retried', async () => {
  const kinds: DatabaseErrorKind[] = [];
  for (const hangUp of [false, true]) {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      if (hangUp) socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    const target = parseDatabaseUrl(`postgres://u:p@127.0.0.1:${address.port}/d`);
    await connect(target, { applicationName: 't', connectTimeoutMs: 200 }).then(
      () => assert.fail('nobody answered'),
      (error: unknown) => kinds.push(classifyDatabaseError(error)),
    );
    server.close();
  }
  assert.deepEqual(kinds, ['unreachable', 'retry']);
});

test('an error reply of a server that goes on means that nothing was committed', () => {
  for (const code of ['55P03', '57014', '40P01', '22021', '42P01', '53100', '25006']) {
    assert.equal(isStatementRefused(fromServer(code)), true, code);
  }
});

test('without a reply, or with an error reply of a session that ends, the outcome is unknown', () => {
  assert.equal(isStatementRefused(fromServer('57P01', 'FATAL')), false);
  assert.equal(isStatementRefused(fromServer('57P01')), false);
  assert.equal(isStatementRefused(fromServer('25P04', 'FATAL')), false);
  assert.equal(isStatementRefused(fromServer('53100', 'PANIC')), false);
  assert.equal(isStatementRefused(fromServer('40P01', 'FATAL')), false);
  assert.equal(isStatementRefused(new Error('Query read timeout')), false);
  assert.equal(isStatementRefused(Object.assign(new Error('reset'), { code: 'ECONNRESET' })), false);
});

test('a severity in another language counts only for error classes that never end a session', () => {
  assert.equal(isStatementRefused(fromServer('22021', 'FEHLER')), true);
  assert.equal(isStatementRefused(fromServer('55P03', 'ERREUR')), true);
  assert.equal(isStatementRefused(fromServer('53100', 'PANIK')), false);
});

test('a database URL is described without its password, and ecto: is postgresql:', () => {
  const target = parseDatabaseUrl('ecto://me:se%3Acret@db.example:6543/app?ssl=false');
  assert.equal(describeTarget(target), 'postgresql://me@db.example:6543/app');
  assert.equal(describeTarget(parseDatabaseUrl('postgres://me:secret@[::1]/app')), 'postgresql://me@[::1]:5432/app');
});

test('an invalid database URL is refused, and the error does not contain the password', () => {
  for (const url of [
    'mysql://u:secret@h/d',
    'secret',
    'postgres://u:secret@h:port/d',
    'postgres://u:secret@h:99999/d',
    '',
  ]) {
    assert.throws(
      () => parseDatabaseUrl(url),
      (error) => error instanceof StartError && error.exitCode === 78 && !error.message.includes('secret'),
      url,
    );
  }
});
