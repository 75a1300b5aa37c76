import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { counterOf, parseCounter, sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { RawConnection } from '../../support/raw-connection.js';
import { SuiteServer } from '../../support/suite-server.js';
import { runStatements } from '../../support/database-connection.js';
import { ownNode } from '../../support/own.js';

const LARGEST = 9007199254740991;

/** Keys with and without characters that are special in URLs. */
const ODD_KEYS = [
  'a b',
  'a+b',
  'a/b',
  '/',
  '//',
  '/a/',
  'a?b',
  'a#b',
  'a%b',
  '%41',
  'a&b=c',
  '😀',
  'é',
  '\u0001',
  '~',
  '*',
  ':name',
];

/** The path of a counter with every byte percent-encoded. */
function escapedPath(key: string): string {
  return `/counters/${[...Buffer.from(key)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')}`;
}

describe('reads', () => {
  // Increments stay pending until a test flushes.
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: '3600000', MAX_KEY_BYTES: '64' });

  async function flush(): Promise<void> {
    await flushAll(node.url);
  }

  test('any key is read by its percent-encoded path', async () => {
    for (const [index, key] of [...ODD_KEYS, '.', '..', '...'].entries()) {
      assertCreated(await increment(node.url, { [key]: index + 1 }));
      for (const path of [escapedPath(key), escapedPath(key).toUpperCase().replace('/COUNTERS/', '/counters/')]) {
        const answer = await send(node.url, path);
        assert.equal(answer.status, 200, path);
        assert.equal(answer.headers['content-type'], 'application/json');
        const view = parseCounter(answer.body);
        assert.deepEqual([view.key, view.sum], [key, BigInt(index + 1)]);
      }
    }
  });

  test('any key is read by GET /counters?key= and GET /key_sum?name=, form-encoded', async () => {
    for (const key of [...ODD_KEYS, '.', '..']) {
      const body = `{${JSON.stringify(`q${key}`)}:1,${JSON.stringify(key)}:0}`;
      assertCreated(await increment(node.url, body));
      assert.equal((await counterOf(node.url, `q${key}`))?.sum, 1n);
      assert.notEqual(await counterOf(node.url, key), undefined);
      const sum = await send(node.url, `/key_sum?${new URLSearchParams({ name: `q${key}` }).toString()}`);
      assert.deepEqual([sum.status, sum.headers['content-type'], sum.body], [200, 'text/plain', '1']);
    }
  });

  test('several keys are read in the order asked for, null for one that does not exist', async () => {
    assertCreated(await increment(node.url, { 's a': 1, 's+b': 2 }));
    await flush();
    assertCreated(await increment(node.url, { 's a': 10 }));
    const query = 'key=s%2Bb&key=never&key=s+a&key=s%20a&prefix=ignored';
    const answer = await send(node.url, `/counters?${query}`);
    assert.deepEqual([answer.status, answer.headers['content-type']], [200, 'application/json']);
    const times = [...answer.body.matchAll(/"updated_at":"([^"]+)"/g)].map(([, time]) => time);
    assert.equal(times.length, 3);
    assert.equal(
      answer.body.replaceAll(/"updated_at":"[^"]+"/g, '"updated_at":"T"'),
      '{"counters":[{"key":"s+b","sum":2,"committed":2,"pending":0,"updated_at":"T"},' +
        '{"key":"never","sum":null,"committed":0,"pending":0,"updated_at":null},' +
        '{"key":"s a","sum":11,"committed":1,"pending":10,"updated_at":"T"},' +
        '{"key":"s a","sum":11,"committed":1,"pending":10,"updated_at":"T"}]}',
    );
  });

  test('a hundred keys are read at once, of any size; 101 and a bad one are refused', async () => {
    const keys = Array.from({ length: 101 }, (_, index) => `h${index}😀`);
    assertCreated(
      await increment(node.url, Object.fromEntries(keys.map((key, index) => [key, index * LARGEST]).slice(0, 2))),
    );
    const query = (count: number): string =>
      keys
        .slice(0, count)
        .map((key) => `key=${encodeURIComponent(key)}`)
        .join('&');
    const answer = await send(node.url, `/counters?${query(100)}`);
    assert.equal(answer.status, 200);
    const sums = [...answer.body.matchAll(/"sum":([^,]+)/g)].map(([, sum]) => sum);
    assert.deepEqual(sums, ['0', String(LARGEST), ...Array.from({ length: 98 }, () => 'null')]);
    for (const bad of [query(101), 'key=a&key=', 'key=a&key=%00', 'key=a&key=%ff', `key=a&key=${'k'.repeat(65)}`]) {
      assertProblem(await send(node.url, `/counters?${bad}`), 'invalid-request');
    }
  });

  test('a delete that names two keys deletes neither', async () => {
    assertCreated(await increment(node.url, { 'two a': 1, 'two b': 1 }));
    const answer = await send(node.url, '/counters?key=two+a&key=two+b', { method: 'DELETE' });
    assertProblem(answer, 'invalid-request');
    assert.deepEqual([await sumOf(node.url, 'two a'), await sumOf(node.url, 'two b')], [1n, 1n]);
  });

  test('everything after /counters/ is the key, including raw slashes', async () => {
    assertCreated(await increment(node.url, { 'page:/home/a//b/': 1, '/x': 2 }));
    for (const path of [
      '/counters/page:/home/a//b/',
      '/counters/page:%2Fhome/a%2f/b/',
      '/counters/page:/home/a//b/?ignored=1',
    ]) {
      assert.equal(parseCounter((await send(node.url, path)).body).key, 'page:/home/a//b/');
    }
    assert.equal(parseCounter((await send(node.url, '/counters//x')).body).sum, 2n);
  });

  test('a plus is a plus in a path and a space in a query; %2B is a plus in both', async () => {
    assertCreated(await increment(node.url, { 'x+y': 1, 'x y': 2 }));
    const sums = async (paths: readonly string[]) =>
      Promise.all(paths.map(async (path) => (await send(node.url, path)).body));
    const texts = await sums([
      '/key_sum?name=x+y',
      '/key_sum?name=x%20y',
      '/key_sum?name=x%2By',
      '/key_sum?name=x%2by',
    ]);
    assert.deepEqual(texts, ['2', '2', '1', '1']);
    const paths = await sums([
      '/counters/x+y',
      '/counters/x%2By',
      '/counters/x%20y',
      '/counters?key=x+y',
      '/counters?key=x%2By',
    ]);
    assert.deepEqual(
      paths.map((body) => parseCounter(body).sum),
      [1n, 1n, 2n, 2n, 1n],
    );
  });

  test('the first parameter of a name is used, further ones are ignored', async () => {
    assertCreated(await increment(node.url, { first: 1, second: 2 }));
    assert.equal((await send(node.url, '/key_sum?a=b&&name=first&name=second&=')).body, '1');
    assert.equal((await send(node.url, '/key_sum?n%61me=second')).body, '2');
  });

  test('invalid escapes, invalid UTF-8, U+0000, an empty key and a key that is too long are 400', async () => {
    const bad = [
      '%',
      '%4',
      '%zz',
      '%%41',
      'a%',
      '%ff',
      '%c0%80',
      '%ed%a0%80',
      '%e2%82',
      '%00',
      'a%00',
      '',
      'k'.repeat(65),
    ];
    for (const key of bad) {
      for (const path of [`/counters/${key}`, `/counters?key=${key}`, `/key_sum?name=${key}`]) {
        assertProblem(await send(node.url, path), 'invalid-request');
      }
    }
    assertProblem(await send(node.url, `/key_sum?x=%zz&name=a`), 'invalid-request');
  });

  test('bytes beyond ASCII that are not percent-encoded are 400', async () => {
    for (const bytes of [Buffer.from('é'), Buffer.from([0xe9]), Buffer.from([0xff, 0xfe])]) {
      const connection = await RawConnection.open(node.url);
      await connection.write(
        Buffer.concat([Buffer.from('GET /counters/'), bytes, Buffer.from(' HTTP/1.1\r\nHost: localhost\r\n\r\n')]),
      );
      assert.equal((await connection.answer()).status, 400);
      connection.close();
    }
  });

  test('a read without a name or key is 400', async () => {
    for (const path of ['/key_sum', '/key_sum?', '/key_sum?key=a', '/key_sum?nam=a', '/counters?key=', '/counters/']) {
      assertProblem(await send(node.url, path), 'invalid-request');
    }
  });

  test('a key that was never counted is 404, never 0', async () => {
    for (const path of ['/counters/never', '/counters?key=never', '/key_sum?name=never']) {
      assertProblem(await send(node.url, path), 'unknown-counter');
    }
  });

  test('HEAD answers like GET, without a body', async () => {
    assertCreated(await increment(node.url, { head: 12345 }));
    for (const path of [
      '/key_sum?name=head',
      '/counters/head',
      '/counters?key=head',
      '/counters/never',
      '/key_sum',
      '/healthz',
      '/readyz',
    ]) {
      const connection = await RawConnection.open(node.url);
      await connection.write(`HEAD ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      const head = await connection.answer(true);
      // If HEAD had a body, the client would read it as the beginning of this answer.
      await connection.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      const get = await connection.answer();
      connection.close();
      assert.equal(head.status, get.status);
      for (const name of ['content-type', 'content-length'])
        assert.equal(head.headers.get(name), get.headers.get(name));
    }
  });

  test('other methods on reads, probes and /flush are 405 with Allow', async () => {
    const allowed = {
      '/key_sum?name=a': 'GET, HEAD',
      '/healthz': 'GET, HEAD',
      '/readyz': 'GET, HEAD',
      '/flush': 'POST',
    };
    for (const [path, allow] of Object.entries(allowed)) {
      for (const method of ['PUT', 'PATCH', path === '/flush' ? 'GET' : 'POST']) {
        const answer = await send(node.url, path, { method });
        assertProblem(answer, 'method-not-allowed');
        assert.equal(answer.headers.allow, allow);
      }
    }
    for (const path of ['/counters/a', '/counters?key=a']) {
      assertProblem(await send(node.url, path, { method: 'POST', body: '{"a":1}' }), 'method-not-allowed');
    }
  });

  test('a client reads its own writes: pending, then committed, then both', async () => {
    assertCreated(await increment(node.url, { mixed: 3 }));
    assert.deepEqual(await counterOf(node.url, 'mixed'), {
      key: 'mixed',
      sum: 3n,
      committed: 0n,
      pending: 3n,
      updatedAt: null,
    });
    await flush();
    const committed = await counterOf(node.url, 'mixed');
    assert.deepEqual([committed?.sum, committed?.committed, committed?.pending], [3n, 3n, 0n]);
    assert.match(committed?.updatedAt ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    const age = Date.now() - Date.parse(committed?.updatedAt ?? '');
    assert.ok(age >= -1000 && age < 60_000, `updated_at is ${age} ms old`);
    assertCreated(await increment(node.url, { mixed: -5 }));
    const both = await counterOf(node.url, 'mixed');
    assert.deepEqual(both, { ...committed, sum: -2n, pending: -5n });
    assert.equal((await send(node.url, '/key_sum?name=mixed')).body, '-2');
  });

  test('sums beyond 2^53 are exact, in both directions, pending and committed', async () => {
    const expected = 5n * BigInt(LARGEST);
    for (let times = 0; times < 5; times += 1) {
      assertCreated(await increment(node.url, `{"huge":${LARGEST},"tiny":-${LARGEST}}`));
    }
    const check = async (committed: bigint): Promise<void> => {
      for (const [key, sign] of [
        ['huge', 1n],
        ['tiny', -1n],
      ] as const) {
        const view = await counterOf(node.url, key);
        assert.deepEqual([view?.sum, view?.committed], [sign * expected, sign * committed]);
        assert.equal((await send(node.url, `/key_sum?name=${key}`)).body, String(sign * expected));
      }
    };
    await check(0n);
    await flush();
    await check(expected);
    assertCreated(await increment(node.url, `{"huge":-${LARGEST},"tiny":${LARGEST}}`));
    assert.equal(await sumOf(node.url, 'huge'), 4n * BigInt(LARGEST));
    for (let times = 0; times < 4; times += 1) assertCreated(await increment(node.url, `{"huge":-${LARGEST}}`));
    assert.equal(await sumOf(node.url, 'huge'), 0n);
    await flush();
    assert.deepEqual([(await node.table()).get('huge'), (await node.table()).get('tiny')], [0n, -4n * BigInt(LARGEST)]);
  });

  test('an amount of zero creates the counter, in reads and in the table', async () => {
    assertCreated(await increment(node.url, { nothing: 0 }));
    assert.equal((await send(node.url, '/key_sum?name=nothing')).body, '0');
    await flush();
    assert.equal((await node.table()).get('nothing'), 0n);
    assert.equal((await counterOf(node.url, 'nothing'))?.updatedAt === null, false);
  });

  test('POST /flush commits everything acknowledged before and answers the number of keys that it wrote', async () => {
    await flush();
    const keys = Array.from({ length: 100 }, (_, index) => `flushed-${index}`);
    assertCreated(await increment(node.url, Object.fromEntries(keys.map((key) => [key, 2]))));
    const answer = await send(node.url, '/flush', { method: 'POST' });
    assert.deepEqual(
      [answer.status, answer.headers['content-type'], answer.body],
      [200, 'application/json', '{"flushed_keys":100}'],
    );
    const table = await node.table();
    for (const key of keys) assert.equal(table.get(key), 2n);
    assert.equal((await send(node.url, '/flush', { method: 'POST', body: 'ignored' })).body, '{"flushed_keys":0}');
  });

  test('1,001 concurrent posts of 0 to 1000 to one key sum to 500500, in reads and in the table', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1001 });
    const amounts = Array.from({ length: 1001 }, (_, amount) => amount);
    const answers = await Promise.all(amounts.map((amount) => increment(node.url, { hits: amount }, { agent })));
    for (const answer of answers) assert.equal(answer.status, 202, answer.body);
    assert.equal((await send(node.url, '/key_sum?name=hits')).body, '500500');
    await flush();
    assert.equal((await node.table()).get('hits'), 500500n);
    agent.destroy();
  });

  test('many concurrent flushes with increments between them commit everything acknowledged', async () => {
    let acknowledged = 0n;
    for (let round = 0; round < 10; round += 1) {
      const before = acknowledged;
      const flushes = Array.from({ length: 20 }, () => send(node.url, '/flush', { method: 'POST' }));
      const posts = Array.from({ length: 20 }, () => increment(node.url, { contended: 1 }));
      for (const answer of await Promise.all(flushes)) assert.equal(answer.status, 200);
      assert.ok(((await node.table()).get('contended') ?? 0n) >= before);
      for (const answer of await Promise.all(posts)) assertCreated(answer);
      acknowledged += 20n;
      assert.equal(await sumOf(node.url, 'contended'), acknowledged);
    }
    await flush();
    assert.equal((await node.table()).get('contended'), acknowledged);
  });

  test('a sum includes what another writer adds to the table', async () => {
    assertCreated(await increment(node.url, { shared: 1 }));
    await node.execute(`insert into counters (key, sum) values ('shared', 10)`);
    const view = await counterOf(node.url, 'shared');
    assert.deepEqual([view?.sum, view?.committed, view?.pending], [11n, 10n, 1n]);
    await flush();
    await eventually('both are in the table', async () => (await node.table()).get('shared') === 11n);
  });

  test('a fraction that another writer stores is cut off in reads, and a value that is no number is an error', async () => {
    const values = [
      ['foreign:scale', '12345678901234567890.0'],
      ['foreign:fraction', '-1.9'],
      ['foreign:nan', 'NaN'],
    ] as const;
    for (const [key, value] of values) {
      await node.execute(`insert into counters (key, sum) values ('${key}', '${value}')`);
    }
    assertCreated(await increment(node.url, { 'foreign:ours': 4 }));
    await flush();
    const sums = values.map(async ([key]) => (await send(node.url, `/key_sum?name=${key}`)).body);
    const [scale, fraction, nan] = await Promise.all(sums);
    assert.deepEqual([scale, fraction], ['12345678901234567890', '-1']);
    assertProblem({ ...(await send(node.url, '/key_sum?name=foreign:nan')), body: nan ?? '' }, 'internal-error');
    assert.equal((await send(node.url, '/key_sum?name=foreign:ours')).body, '4');
    await node.execute(`delete from counters where key = 'foreign:nan'`);
    const page = await send(node.url, '/counters?prefix=foreign:');
    const listed = [...page.body.matchAll(/"sum":([^,]*)/g)].map(([, sum]) => sum);
    assert.deepEqual(listed, ['-1', '4', '12345678901234567890']);
  });
});

test('a counter whose sum is not a number is left out of lists and logged once, and every page has its next', async (t) => {
  const { server, databaseUrl } = await ownNode(t, { SHARDS: '1' });
  const rows = `('a', '1'), ('b', 'NaN'), ('c', '3'), ('d', 'NaN'), ('e', '5')`;
  await runStatements(databaseUrl, `insert into counters (key, sum) values ${rows}`);
  const page = async (query: string): Promise<{ readonly keys: readonly string[]; readonly next: string | null }> => {
    const answer = await send(server.url, `/counters?${query}`);
    assert.equal(answer.status, 200, answer.body);
    const { counters, next } = JSON.parse(answer.body) as { counters: { key: string }[]; next: string | null };
    return { keys: counters.map(({ key }) => key), next };
  };
  assert.deepEqual(await page(''), { keys: ['a', 'c', 'e'], next: null });
  assert.deepEqual(await page('limit=2'), { keys: ['a'], next: 'b' });
  assert.deepEqual(await page('limit=2&after=b'), { keys: ['c'], next: 'd' });
  assert.deepEqual(await page('limit=1&after=a'), { keys: [], next: 'b' });
  const answer = await send(server.url, '/counters/b');
  assertProblem(answer, 'internal-error');
  assert.match(answer.body, /NaN as a sum; correct that row/);
  const logged = server.log.filter(({ msg }) => String(msg).includes('lists omit it'));
  assert.deepEqual(
    logged.map(({ level, key, sum }) => [level, key, sum]),
    [
      ['error', 'b', 'NaN'],
      ['error', 'd', 'NaN'],
    ],
  );
});
