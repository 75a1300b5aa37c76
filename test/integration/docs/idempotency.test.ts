import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { sumOf } from '../../support/counters.js';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { FlushHold } from '../../support/flush-hold.js';
import { increment, problemCode, send, type Answer } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { SuiteServer } from '../../support/suite-server.js';

const page = readFileSync(join(import.meta.dirname, '../../../../docs/idempotency.md'), 'utf8');

/** The rows of the table: case, answer, counted. */
const rows = page
  .split('\n')
  .filter((line) => line.startsWith('| '))
  .map((line) => line.split('|').map((cell) => cell.trim()))
  .map(([, name = '', answer = '', counted = '']) => ({ name, answer, counted }))
  .filter(({ name }) => name !== 'case' && name !== '---');

const KEYS_MAX = 200;

describe('the table of docs/idempotency.md', () => {
  const held = new FlushHold();
  after(() => held.release());
  const node = new SuiteServer({
    FLUSH_INTERVAL_MS: '3600000',
    MAX_PENDING_KEYS: String(KEYS_MAX),
    MAX_KEY_BYTES: '64',
  });
  let idempotencyKeys = 0;

  function newIdempotencyKey(): string {
    idempotencyKeys += 1;
    return `key-${idempotencyKeys}-"quoted"~!`;
  }

  function withIdempotencyKey(
    idempotencyKey: string,
    body: unknown,
    to: { readonly url: string } = node,
  ): Promise<Answer> {
    return increment(to.url, body, { headers: { 'idempotency-key': idempotencyKey } });
  }

  function deleteCounter(key: string, idempotencyKey: string): Promise<Answer> {
    return send(node.url, `/counters/${key}`, { method: 'DELETE', headers: { 'idempotency-key': idempotencyKey } });
  }

  async function flush(to: { readonly url: string } = node): Promise<void> {
    await held.release();
    const answer = await send(to.url, '/flush', { method: 'POST' });
    assert.equal(answer.status, 200, answer.body);
  }

  function assertReplayed(answer: Answer): void {
    assertCreated(answer);
    assert.equal(answer.headers['idempotency-replayed'], 'true');
  }

  function assertNew(answer: Answer): void {
    assertCreated(answer);
    assert.equal(answer.headers['idempotency-replayed'], undefined);
  }

  /** Asserts the sum in a read, and in the table after a flush. */
  async function assertSum(key: string, expected: bigint | undefined): Promise<void> {
    assert.equal(await sumOf(node.url, key), expected);
    await flush();
    assert.equal((await node.table()).get(key), expected);
  }

  /** Runs `use` with another server, by default on the suite's database. */
  async function withServer(
    env: Readonly<Record<string, string>>,
    use: (server: TestServer, restart: (signal: NodeJS.Signals) => Promise<TestServer>) => Promise<void>,
  ): Promise<void> {
    const dataDir = await temporaryDirectory();
    const options = {
      dataDir,
      env: { DATABASE_URL: node.databaseUrl, SHARDS: '2', FLUSH_INTERVAL_MS: '3600000', ...env },
    };
    let server = await startServer(options);
    try {
      await use(server, async (signal) => {
        server.kill(signal);
        await server.ended;
        server = await startServer(options);
        return server;
      });
      assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
    } finally {
      await server.dispose();
      await rm(dataDir, { recursive: true, force: true });
    }
  }

  const cases: Readonly<Record<string, () => Promise<void>>> = {
    'a new key': async () => {
      assertNew(await withIdempotencyKey(newIdempotencyKey(), { new: 3, newer: -4 }));
      await assertSum('new', 3n);
      await assertSum('newer', -4n);
    },

    'the same request again, after the answer': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertNew(await withIdempotencyKey(idempotencyKey, { again: 5 }));
      assertReplayed(await withIdempotencyKey(idempotencyKey, { again: 5 }));
      await flush();
      assertReplayed(await withIdempotencyKey(idempotencyKey, { again: 5 }));
      await assertSum('again', 5n);
    },

    'the same content again, written differently: order, white space, escapes, amounts split or over several lines':
      async () => {
        const idempotencyKey = newIdempotencyKey();
        const headers = { 'idempotency-key': idempotencyKey, 'content-type': 'application/x-ndjson' };
        assertNew(await withIdempotencyKey(idempotencyKey, '{"spelt":6,"other":1}'));
        for (const body of [
          '{"other":1,"spelt":6}',
          ' { "spelt" : 6.0 , "other":1}\n',
          '{"\\u0073pelt":6,"other":1}',
          '{"spelt":2,"other":1,"spelt":4}',
        ]) {
          assertReplayed(await withIdempotencyKey(idempotencyKey, body));
        }
        assertReplayed(await increment(node.url, '{"spelt":7}\n{"other":1,"spelt":-1}\n', { headers }));
        await assertSum('spelt', 6n);
        await assertSum('other', 1n);
      },

    'the same request many times at once': async () => {
      const idempotencyKey = newIdempotencyKey();
      const answers = await Promise.all(
        Array.from({ length: 40 }, () => withIdempotencyKey(idempotencyKey, { moment: 7, both: 1 })),
      );
      for (const answer of answers) assertCreated(answer);
      assert.equal(answers.filter(({ headers }) => headers['idempotency-replayed'] === 'true').length, 39);
      await assertSum('moment', 7n);
      await assertSum('both', 1n);
    },

    'the same request again, after a crash or restart of the node': () =>
      withServer({}, async (server, restart) => {
        const [crashed, flushed] = [newIdempotencyKey(), newIdempotencyKey()];
        assertNew(await withIdempotencyKey(crashed, { crashed: 8 }, server));
        const second = await restart('SIGKILL');
        assertCreated(await withIdempotencyKey(crashed, { crashed: 8 }, second));
        assertNew(await withIdempotencyKey(flushed, { restarted: 8 }, second));
        const third = await restart('SIGTERM');
        assertCreated(await withIdempotencyKey(flushed, { restarted: 8 }, third));
        assertCreated(await withIdempotencyKey(crashed, { crashed: 8 }, third));
        await flush(third);
        const table = await node.table();
        assert.deepEqual([table.get('crashed'), table.get('restarted')], [8n, 8n]);
      }),

    'the same request again, at another node': () =>
      withServer({}, async (other) => {
        const [committed, pending] = [newIdempotencyKey(), newIdempotencyKey()];
        assertNew(await withIdempotencyKey(committed, { elsewhere: 9 }));
        await flush();
        assertCreated(await withIdempotencyKey(committed, { elsewhere: 9 }, other));
        assertNew(await withIdempotencyKey(pending, { elsewhere: 10 }));
        assertCreated(await withIdempotencyKey(pending, { elsewhere: 10 }, other));
        await Promise.all([flush(), flush(other)]);
        assert.equal((await node.table()).get('elsewhere'), 19n);
        assert.deepEqual([await sumOf(node.url, 'elsewhere'), await sumOf(other.url, 'elsewhere')], [19n, 19n]);
      }),

    'other content with the key, at the node that remembers the key': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertNew(await withIdempotencyKey(idempotencyKey, { content: 1 }));
      for (const body of [{ content: 2 }, { contents: 1 }, { content: 1, more: 0 }]) {
        assertProblem(await withIdempotencyKey(idempotencyKey, body), 'idempotency-mismatch');
      }
      assertReplayed(await withIdempotencyKey(idempotencyKey, { content: 1 }));
      await assertSum('content', 1n);
      assert.deepEqual([await sumOf(node.url, 'contents'), await sumOf(node.url, 'more')], [undefined, undefined]);
    },

    'other content with the key, at another node or after a restart': () =>
      withServer({}, async (other, restart) => {
        const idempotencyKey = newIdempotencyKey();
        assertNew(await withIdempotencyKey(idempotencyKey, { firstContent: 1 }));
        await flush();
        assertCreated(await withIdempotencyKey(idempotencyKey, { secondContent: 1 }, other));
        await flush(other);
        const restarted = await restart('SIGTERM');
        assertCreated(await withIdempotencyKey(idempotencyKey, { thirdContent: 1 }, restarted));
        await flush(restarted);
        const table = await node.table();
        const sums = ['firstContent', 'secondContent', 'thirdContent'].map((key) => table.get(key));
        assert.deepEqual(sums, [1n, undefined, undefined]);
      }),

    'a request that is refused with 400, then a valid one with the key': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertProblem(await withIdempotencyKey(idempotencyKey, '{"good":1,"bad":1.5}'), 'invalid-request');
      assertNew(await withIdempotencyKey(idempotencyKey, { good: 1 }));
      await assertSum('good', 1n);
    },

    'a request that is refused with 503, then the same request again': async () => {
      await flush();
      await held.hold(node.databaseUrl);
      const idempotencyKey = newIdempotencyKey();
      assertCreated(await increment(node.url, keys('room', KEYS_MAX - 1)));
      assertProblem(await withIdempotencyKey(idempotencyKey, { refused: 1, 'refused-too': 1 }), 'overloaded');
      await flush();
      assertNew(await withIdempotencyKey(idempotencyKey, { refused: 1, 'refused-too': 1 }));
      await assertSum('refused', 1n);
    },

    'the same request again, while limits refuse new requests': async () => {
      await flush();
      await held.hold(node.databaseUrl);
      const idempotencyKey = newIdempotencyKey();
      assertNew(await withIdempotencyKey(idempotencyKey, { 'known-full': 1 }));
      assertCreated(await increment(node.url, keys('full', KEYS_MAX - 1)));
      assertProblem(await withIdempotencyKey(newIdempotencyKey(), { 'known-full': 1 }), 'overloaded');
      const answers = await Promise.all(
        Array.from({ length: 20 }, () => withIdempotencyKey(idempotencyKey, { 'known-full': 1 })),
      );
      for (const answer of answers) assertReplayed(answer);
      await assertSum('known-full', 1n);
    },

    'other content with the key, while limits refuse new requests': async () => {
      await flush();
      await held.hold(node.databaseUrl);
      const idempotencyKey = newIdempotencyKey();
      assertNew(await withIdempotencyKey(idempotencyKey, { 'other-full': 1 }));
      assertCreated(await increment(node.url, keys('full', KEYS_MAX - 1)));
      assertProblem(await withIdempotencyKey(idempotencyKey, { 'other-full': 2 }), 'idempotency-mismatch');
      await assertSum('other-full', 1n);
    },

    'an answer `outcome-unknown`, then the same request again until it is 202': () =>
      withServer({ ACK_TIMEOUT_MS: '10', MAX_PENDING_KEYS: '1000000' }, async (hasty) => {
        const body = keys('unknown', 20_000);
        const seen = new Set<number>();
        let sent = 0;
        for (const deadline = performance.now() + 60_000; !seen.has(500) && performance.now() < deadline;) {
          const idempotencyKey = newIdempotencyKey();
          sent += 1;
          for (let status = 0; status !== 202;) {
            const answer = await withIdempotencyKey(idempotencyKey, body, hasty);
            ({ status } = answer);
            if (status === 500) assert.equal(problemCode(answer), 'outcome-unknown');
            else assert.ok(status === 202 || status === 503, answer.body);
            seen.add(status);
          }
        }
        assert.ok(seen.has(500), 'no request took longer than 10 ms');
        await flush(hasty);
        const table = await node.table();
        for (const index of [0, 9_999, 19_999]) assert.equal(table.get(`unknown-${index}`), BigInt(sent));
      }),

    'the same request again, after `IDEMPOTENCY_WINDOW_HOURS`, if no node remembers the key': async () => {
      const database = await createTestDatabase();
      try {
        await withServer({ DATABASE_URL: database.url, IDEMPOTENCY_WINDOW_HOURS: '1' }, async (server, restart) => {
          const idempotencyKey = newIdempotencyKey();
          assertNew(await withIdempotencyKey(idempotencyKey, { windowed: 1 }, server));
          await flush(server);
          await execute(database.url, `update idempotency_keys set claimed_at = claimed_at - interval '64 minutes'`);
          const within = await restart('SIGTERM');
          assertCreated(await withIdempotencyKey(idempotencyKey, { windowed: 1 }, within));
          await flush(within);
          assert.equal(await sumOf(within.url, 'windowed'), 1n);
          await execute(database.url, `update idempotency_keys set claimed_at = claimed_at - interval '3 minutes'`);
          const after = await restart('SIGTERM');
          assertNew(await withIdempotencyKey(idempotencyKey, { windowed: 1 }, after));
          await flush(after);
          assert.equal(await sumOf(after.url, 'windowed'), 2n);
        });
      } finally {
        await database.drop();
      }
    },

    'a new key, with `IDEMPOTENCY_MAX_ROWS` keys stored': () => atMaxRows('key'),
    'a request without a key, with `IDEMPOTENCY_MAX_ROWS` keys stored': () => atMaxRows('none'),

    'an empty `Idempotency-Key`': async () => {
      for (let times = 0; times < 2; times += 1) assertNew(await withIdempotencyKey('', { empty: 1 }));
      await assertSum('empty', 2n);
    },

    'a key of more than 255 characters, or with a space, a control character or a character beyond ASCII': async () => {
      for (const idempotencyKey of ['x'.repeat(256), 'a b', 'aéb', 'a\tb', 'a\u00ffb']) {
        assertProblem(await withIdempotencyKey(idempotencyKey, { illegal: 1 }), 'invalid-request');
      }
      assertNew(await withIdempotencyKey('x'.repeat(255), { illegal: 1 }));
      await assertSum('illegal', 1n);
    },

    'the same key on `POST /increment` and on `DELETE`': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertNew(await withIdempotencyKey(idempotencyKey, { 'two-uses': 2 }));
      const deleted = await deleteCounter('two-uses', idempotencyKey);
      assert.deepEqual([deleted.status, deleted.body], [200, '{"key":"two-uses","sum":2}']);
      assertReplayed(await withIdempotencyKey(idempotencyKey, { 'two-uses': 2 }));
      await assertSum('two-uses', undefined);
    },

    'a `DELETE` with a key, then the same request again': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertCreated(await increment(node.url, { deleted: 3 }));
      const first = await deleteCounter('deleted', idempotencyKey);
      assert.deepEqual([first.status, first.body], [200, '{"key":"deleted","sum":3}']);
      assertCreated(await increment(node.url, { deleted: 4 }));
      const again = await deleteCounter('deleted', idempotencyKey);
      assert.deepEqual([again.status, again.body], [200, first.body]);
      await assertSum('deleted', 4n);
    },

    'a `DELETE` with a key of a counter that does not exist, then the same request again once it exists': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertProblem(await deleteCounter('not-yet', idempotencyKey), 'unknown-counter');
      assertCreated(await increment(node.url, { 'not-yet': 6 }));
      assertProblem(await deleteCounter('not-yet', idempotencyKey), 'unknown-counter');
      await assertSum('not-yet', 6n);
    },

    'a `DELETE` of another counter with the key': async () => {
      const idempotencyKey = newIdempotencyKey();
      assertCreated(await increment(node.url, { one: 1, another: 2 }));
      assert.equal((await deleteCounter('one', idempotencyKey)).status, 200);
      assertProblem(await deleteCounter('another', idempotencyKey), 'idempotency-mismatch');
      await assertSum('another', 2n);
    },
  };

  async function atMaxRows(kind: 'key' | 'none'): Promise<void> {
    const database = await createTestDatabase();
    try {
      await withServer({ DATABASE_URL: database.url, IDEMPOTENCY_MAX_ROWS: '2' }, async (server) => {
        const known = newIdempotencyKey();
        assertNew(await withIdempotencyKey(known, { rows: 1 }, server));
        assertNew(await withIdempotencyKey(newIdempotencyKey(), { rows: 1 }, server));
        for (const isCommitted of [false, true]) {
          if (isCommitted) await flush(server);
          if (kind === 'key')
            assert.match(
              assertProblem(await withIdempotencyKey(newIdempotencyKey(), { rows: 100 }, server), 'overloaded'),
              /^IDEMPOTENCY_MAX_ROWS \(2\) is reached; retry after /,
            );
          else assertNew(await increment(server.url, { rows: 10 }));
        }
        assert.equal(await sumOf(server.url, 'rows'), kind === 'key' ? 2n : 22n);
      });
    } finally {
      await database.drop();
    }
  }

  for (const { name, answer, counted } of rows) {
    test(`${name}: ${answer}; counted ${counted}`, async () => {
      const exercise = cases[name];
      assert.ok(exercise, 'this row of the table has no test');
      await exercise();
    });
  }

  test('every case that is tested is a row of the table', () => {
    assert.deepEqual(
      Object.keys(cases),
      rows.map(({ name }) => name),
    );
  });
});

function keys(prefix: string, count: number): Readonly<Record<string, number>> {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`${prefix}-${index}`, 1]));
}

async function execute(url: string, text: string): Promise<void> {
  const connection = await connectTo(url);
  try {
    await connection.query({ text });
  } finally {
    await connection.close();
  }
}
