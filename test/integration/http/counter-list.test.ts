import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LIST_COUNTERS, LIST_COUNTERS_BELOW } from '#product/db/statements.js';
import { connectTo } from '../../support/database.js';
import { type Answer, flushAll, increment, send } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { seedOfRun } from '../../support/random-runs.js';
import { SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

interface Page {
  readonly counters: readonly { readonly key: string; readonly sum: bigint; readonly updatedAt: string }[];
  readonly next: string | null;
}

const COUNTER = /\{"key":("(?:[^"\\]|\\.)*"),"sum":(0|-?[1-9][0-9]*),"updated_at":("[^"]*")\}/g;

/** Parses the document, whose numbers may exceed a double, and asserts that it has no other members. */
function parsePage(answer: Answer): Page {
  assert.equal(answer.status, 200, answer.body);
  assert.equal(answer.headers['content-type'], 'application/json');
  const matches = [...answer.body.matchAll(COUNTER)];
  const { next } = JSON.parse(answer.body) as { next: string | null };
  const whole = `{"counters":[${matches.map(([text]) => text).join(',')}],"next":${JSON.stringify(next)}}`;
  assert.equal(answer.body, whole);
  const counters = matches.map(([, key = '', sum = '', updatedAt = '']) => ({
    key: JSON.parse(key) as string,
    sum: BigInt(sum),
    updatedAt: JSON.parse(updatedAt) as string,
  }));
  return { counters, next };
}

function bytewise(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

describe('GET /counters', () => {
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: '3600000' });

  async function list(parameters: Readonly<Record<string, string>>): Promise<Page> {
    return parsePage(await send(node.url, `/counters?${new URLSearchParams(parameters).toString()}`));
  }

  /** All pages of a prefix, as a client reads them. */
  async function walk(prefix: string, limit: number): Promise<readonly Page[]> {
    const pages: Page[] = [];
    for (let after: string | undefined; pages.length < 1000;) {
      const page = await list({ prefix, limit: String(limit), ...(after === undefined ? {} : { after }) });
      pages.push(page);
      if (page.next === null) return pages;
      after = page.next;
    }
    throw new Error('the pages do not end');
  }

  async function commit(keys: readonly string[]): Promise<void> {
    assertCreated(await increment(node.url, `{${keys.map((key) => `${JSON.stringify(key)}:1`).join(',')}}`));
    await flushAll(node.url);
  }

  test('without committed counters the page is empty; pending ones are not in it', async () => {
    assert.deepEqual(await list({}), { counters: [], next: null });
    assertCreated(await increment(node.url, { pending: 5 }));
    assert.deepEqual(await list({}), { counters: [], next: null });
    assert.deepEqual(parsePage(await send(node.url, '/counters')), { counters: [], next: null });
    await flushAll(node.url);
    const { counters, next } = await list({});
    assert.deepEqual([counters[0]?.key, counters[0]?.sum, counters.length, next], ['pending', 5n, 1, null]);
    assert.match(counters[0]?.updatedAt ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  test('pages hold every key of the prefix exactly once, in bytewise order, whatever their size', async () => {
    const seed = seedOfRun();
    console.log(`SEED=${seed}`);
    const random = new Mulberry32(seed);
    // UTF-16 order differs from bytewise order between U+E000 to U+FFFF and beyond; locales differ everywhere.
    const letters = [
      'a',
      'A',
      'b',
      'Z',
      '_',
      ' ',
      '%',
      '+',
      '/',
      'é',
      'ß',
      '\u0001',
      '\u007f',
      '\ue000',
      '\uffff',
      '😀',
    ];
    const keys = new Set<string>();
    while (keys.size < 700) {
      keys.add(`w:${Array.from({ length: 1 + random.below(4) }, () => random.pick(letters)).join('')}`);
    }
    await commit([...keys, 'w', 'w;', 'v:zz', 'w9']);
    const expected = [...keys].sort(bytewise);
    for (const limit of [1, 7, 100, 349, 350, 699, 700, 701, 1000]) {
      const pages = limit === 1 ? await walk('w:a', 1) : await walk('w:', limit);
      const wanted = limit === 1 ? expected.filter((key) => key.startsWith('w:a')) : expected;
      assert.deepEqual(
        pages.flatMap(({ counters }) => counters.map(({ key }) => key)),
        wanted,
        `limit ${limit}`,
      );
      assert.equal(pages.length, Math.max(1, Math.ceil(wanted.length / limit)), `limit ${limit}`);
      for (const page of pages.slice(0, -1)) assert.equal(page.next, page.counters.at(-1)?.key);
    }
  });

  test('a prefix gives exactly the keys that begin with it', async () => {
    const keys = [
      'p',
      'p\u0001',
      'p%',
      'p_',
      'pa',
      'p\ud7ff',
      'p\ue000',
      'p😀',
      'p😁',
      'p\u{10ffff}',
      'p\u{10ffff}x',
      'q',
    ];
    await commit([...keys, '\u{10ffff}', '\u{10ffff}\u{10ffff}z']);
    const all = (await walk('', 1000)).flatMap(({ counters }) => counters.map(({ key }) => key));
    for (const prefix of [...keys, '', '\u{10ffff}', '\u{10ffff}\u{10ffff}', 'nothing begins with this']) {
      const { counters } = await list({ prefix, limit: '1000' });
      assert.deepEqual(
        counters.map(({ key }) => key),
        all.filter((key) => key.startsWith(prefix)),
        JSON.stringify(prefix),
      );
    }
  });

  test('`after` may be any text: before, within or behind the prefix', async () => {
    await commit(['r1', 'r2', 'r3']);
    const keysAfter = async (after: string): Promise<readonly string[]> =>
      (await list({ prefix: 'r', after })).counters.map(({ key }) => key);
    assert.deepEqual(await keysAfter(''), ['r1', 'r2', 'r3']);
    assert.deepEqual(await keysAfter('a'), ['r1', 'r2', 'r3']);
    assert.deepEqual(await keysAfter('r'), ['r1', 'r2', 'r3']);
    assert.deepEqual(await keysAfter('r1'), ['r2', 'r3']);
    assert.deepEqual(await keysAfter('r1\u0001'), ['r2', 'r3']);
    assert.deepEqual(await keysAfter('r2x'), ['r3']);
    assert.deepEqual(await keysAfter('r3'), []);
    assert.deepEqual(await keysAfter('s'), []);
  });

  test('the default is 100 counters, and next is null exactly on the last page', async () => {
    await commit(Array.from({ length: 101 }, (_, index) => `d:${String(index).padStart(3, '0')}`));
    const first = await list({ prefix: 'd:' });
    assert.deepEqual([first.counters.length, first.next], [100, 'd:099']);
    const rest = await list({ prefix: 'd:', after: 'd:099' });
    assert.deepEqual([rest.counters.length, rest.next], [1, null]);
    assert.equal((await list({ prefix: 'd:', limit: '101' })).next, null);
  });

  test('sums beyond 2^53 are exact integer literals', async () => {
    const big = 10n ** 60n + 1n;
    await node.execute(`insert into counters (key, sum) values ('x:big', ${big}), ('x:small', -${big})`);
    const { counters } = await list({ prefix: 'x:' });
    assert.deepEqual(
      counters.map(({ sum }) => sum),
      [big, -big],
    );
  });

  test('parameters are form-encoded, and the list includes an empty key of another writer', async () => {
    await commit(['f a', 'f+a', 'f%20a']);
    const keys = async (query: string): Promise<readonly string[]> =>
      parsePage(await send(node.url, `/counters?${query}`)).counters.map(({ key }) => key);
    assert.deepEqual(await keys('prefix=f+'), ['f a']);
    assert.deepEqual(await keys('after&&prefix=f+'), ['f a']);
    assert.deepEqual(await keys('prefix=f%20'), ['f a']);
    assert.deepEqual(await keys('prefix=f%2B'), ['f+a']);
    assert.deepEqual(await keys('prefix=f&after=f+a&limit=1'), ['f%20a']);
    await node.execute(`insert into counters (key, sum) values ('', 3)`);
    assert.deepEqual(await keys('limit=1'), ['']);
    assert.equal((await keys('limit=1&after=')).includes(''), false);
  });

  test('a limit that is not a number from 1 to 1000, an invalid escape and U+0000 are 400', async () => {
    for (const limit of ['0', '1001', '-1', '1.5', '1e2', '', 'ten', '+5', '10000000000', '0x10']) {
      const answer = await send(node.url, `/counters?${new URLSearchParams({ limit }).toString()}`);
      assert.match(assertProblem(answer, 'invalid-request'), /limit/);
    }
    for (const query of ['prefix=%00', 'after=a%00', 'prefix=%ff', 'after=%', 'prefix=%ed%a0%80', 'limit=5&x=%zz']) {
      assertProblem(await send(node.url, `/counters?${query}`), 'invalid-request');
    }
  });

  test('HEAD answers like GET', async () => {
    const [head, get] = [
      await send(node.url, '/counters?limit=3', { method: 'HEAD' }),
      await send(node.url, '/counters?limit=3'),
    ];
    assert.deepEqual(
      [head.status, head.body, head.headers['content-length']],
      [200, '', String(Buffer.byteLength(get.body))],
    );
  });

  test('with many counters both statements scan a range of the primary key index, without a sort', async (t) => {
    await node.execute(`insert into counters (key, sum) select 'many:' || n, n from generate_series(1, 50000) n`);
    await node.execute('analyze counters');
    const connection = own(t, await connectTo(node.databaseUrl));
    for (const [text, values] of [
      [LIST_COUNTERS, '101, $$many:3$$'],
      [LIST_COUNTERS_BELOW, '101, $$many:3$$, $$many:4$$'],
    ] as const) {
      for (const mode of ['force_custom_plan', 'force_generic_plan']) {
        await connection.query({ text: `set plan_cache_mode = ${mode}` });
        await connection.query({ text: `prepare page as ${text}` });
        const rows = await connection.query<Record<'QUERY PLAN', string>>({
          text: `explain execute page(${values})`,
        });
        await connection.query({ text: 'deallocate page' });
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
        assert.match(plan, /Index Scan using counters_pkey/, plan);
        assert.match(plan, /Index Cond: \(\(?key >= /, plan);
        assert.doesNotMatch(plan, /Sort|Seq Scan|Filter/, plan);
      }
    }
  });

  test('pages of a thousand counters and reads of single ones alternate, and all are correct', async () => {
    const keys = Array.from({ length: 50_000 }, (_, index) => `many:${index + 1}`).sort(bytewise);
    const reads = Array.from({ length: 50 }, (_, index) => send(node.url, `/counters/many:${index + 1}`));
    const pages = Array.from({ length: 20 }, () => list({ prefix: 'many:', limit: '1000' }));
    for (const [index, answer] of (await Promise.all(reads)).entries()) {
      assert.equal((JSON.parse(answer.body) as { sum: number }).sum, index + 1);
    }
    for (const { counters, next } of await Promise.all(pages))
      assert.deepEqual([counters.length, next], [1000, keys[999]]);
  });
});
