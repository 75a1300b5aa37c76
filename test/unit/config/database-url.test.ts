import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { HOSTS_MAX, psqlAddress, readDatabaseUrl, type DatabaseUrl } from '#product/config/database-url.js';
import { describeTarget, parseDatabaseUrl } from '#product/db/connection.js';

function read(text: string): DatabaseUrl {
  const url = readDatabaseUrl(text);
  if ('problem' in url) throw new Error(url.problem);
  return url;
}

function problemOf(text: string): string {
  const url = readDatabaseUrl(text);
  assert.ok('problem' in url, text);
  assert.ok(!url.problem.includes('hunter2'), url.problem);
  return url.problem;
}

/** Host and port of each host, as pg understands them. */
function placesOf(text: string): readonly (readonly [string, number])[] {
  return parseDatabaseUrl(text).hosts.map(({ host, port }) => [host, port]);
}

describe('DATABASE_URL with several hosts', () => {
  test('names them before the path or in the query, with one port or one for each', () => {
    const both = [
      ['a', 5432],
      ['b', 5433],
    ];
    for (const text of [
      'postgres://me:hunter2@a:5432,b:5433/db',
      'postgres://me:hunter2@a,b:5433/db',
      'postgres://me:hunter2@/db?host=a,b&port=5432,5433',
      'postgres:///db?host=a,b&port=,5433',
      'ecto://me@a,b/db?port=5432,5433',
      'postgresql://other/db?port=5432%2C5433&host=c&host=a%2Cb',
    ]) {
      assert.deepEqual(placesOf(text), both, text);
    }
    assert.deepEqual(placesOf('postgres://me@/db?host=a,b&port=6432'), [
      ['a', 6432],
      ['b', 6432],
    ]);
  });

  test('may have addresses of IPv6 and directories of sockets', () => {
    assert.deepEqual(placesOf('postgres://me@[::1]:5433,%2Frun%2Fpostgresql,[fe80::2]/db'), [
      ['::1', 5433],
      ['/run/postgresql', 5432],
      ['fe80::2', 5432],
    ]);
    assert.deepEqual(placesOf('postgres://me@/db?host=/run/postgresql,::1'), [
      ['/run/postgresql', 5432],
      ['::1', 5432],
    ]);
  });

  test('gives each host the user, the password, the database and the other parameters', () => {
    const { hostUrls } = read('postgres://me:p%40ss,%2F@a,b/db?sslmode=verify-full&application_name=x%20y');
    assert.deepEqual(
      hostUrls.map((hostUrl) => hostUrl.replace(/host=[ab]/, 'host=?')),
      [0, 1].map(() => 'postgresql://me:p%40ss,%2F@list/db?sslmode=verify-full&application_name=x%20y&host=?'),
    );
    const target = parseDatabaseUrl('postgres://me:hunter2,@a:5432,b:5433/db?target_session_attrs=primary');
    assert.deepEqual([target.user, target.database, target.session], ['me', 'db', 'primary']);
    assert.equal(describeTarget(target), 'postgresql://me@a:5432,b:5433/db');
  });

  test('asks for a session that can write, unless target_session_attrs says otherwise', () => {
    assert.equal(read('postgres://a,b/db').session, 'read-write');
    assert.equal(read('postgres://a/db').session, 'any');
    for (const session of ['any', 'read-write', 'primary']) {
      assert.equal(read(`postgres://a,b/db?target_session_attrs=${session}`).session, session);
      assert.equal(read(`postgres://a/db?target_session_attrs=${session}`).session, session);
    }
  });

  test('is refused with target_session_attrs for sessions that cannot write', () => {
    for (const session of ['read-only', 'standby', 'prefer-standby']) {
      assert.equal(
        problemOf(`postgres://me:hunter2@a,b/db?target_session_attrs=${session}`),
        `has target_session_attrs=${session}, but the server must write: use read-write, primary or any.`,
      );
    }
    assert.match(problemOf('postgres://a,b/db?target_session_attrs=hunter2'), /^has an unknown target_session_attrs: /);
  });

  test('is refused with another number of ports, a port that is none, a nameless host or too many hosts', () => {
    assert.match(problemOf('postgres://me:hunter2@/db?host=a,b,c&port=1,2'), /^has 3 hosts and 2 ports; give one port/);
    assert.match(problemOf('postgres://me:hunter2@a,b:x/db'), /^is not a valid URL/);
    assert.match(problemOf('postgres://me:hunter2@a,b:65536/db'), /^is not a valid URL/);
    assert.match(problemOf('postgres://me:hunter2@/db?host=a,b&port=1,0'), /^has the port 0/);
    assert.match(problemOf('postgres://me:hunter2@a,,b/db'), /^has a host without a name/);
    const hosts = Array.from({ length: HOSTS_MAX + 1 }, (_, index) => `h${index}`).join(',');
    assert.equal(
      problemOf(`postgres://me:hunter2@${hosts}/db`),
      `has ${HOSTS_MAX + 1} hosts; ${HOSTS_MAX} are the most.`,
    );
  });
});

test('one host in the query may follow a user, as libpq allows', () => {
  assert.deepEqual(placesOf('postgres://me:hunter2@/db?host=/run/postgresql'), [['/run/postgresql', 5432]]);
});

test('psql gets the list without the password, and asks for a session that can write', () => {
  assert.deepEqual(psqlAddress('ecto://me:p%40ss@a:5432,b/db?sslmode=require'), {
    address: 'postgresql://me@a:5432,b/db?sslmode=require&target_session_attrs=read-write',
    password: 'p@ss',
  });
  assert.deepEqual(psqlAddress('postgres://me@/db?host=a,b&password=hunter2&target_session_attrs=any'), {
    address: 'postgresql://me@/db?host=a,b&target_session_attrs=any',
    password: 'hunter2',
  });
  assert.equal(psqlAddress('postgres://me:100%@db.example/app').password, '100%');
  assert.deepEqual(psqlAddress('postgres://db.example/app'), {
    address: 'postgresql://db.example/app',
    password: '',
  });
});
