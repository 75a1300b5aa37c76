import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { CounterClient, CounterClientError, type CounterClientOptions, type Retry } from 'summing-counters/client';
import { CounterPeer, faults, problem } from '../../support/counter-peer.js';

type Settings = Omit<CounterClientOptions, 'url'>;

/** Runs `body` with a peer and a client that retries fast and sends only on a flush or a full batch. */
async function withPeer(
  settings: Settings,
  body: (client: CounterClient, peer: CounterPeer) => Promise<void>,
): Promise<void> {
  const peer = await CounterPeer.start();
  const client = new CounterClient({
    url: peer.url,
    intervalMs: 60_000,
    retryBaseMs: 1,
    retryDelayMsMax: 5,
    requestTimeoutMs: 5_000,
    ...settings,
  });
  try {
    await body(client, peer);
  } finally {
    await client.close({ signal: AbortSignal.abort() }).catch(() => undefined);
    await peer.stop();
  }
}

async function failureOf(promise: Promise<unknown>): Promise<CounterClientError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof CounterClientError) return error;
    throw error;
  }
  return assert.fail('it did not reject');
}

test('increments of one key are sent as one member, and a flush counts them', () =>
  withPeer({ token: 'secret' }, async (client, peer) => {
    client.increment('hits');
    client.increment('hits', 41);
    client.incrementMany({ a: -2, b: 0 });
    client.incrementMany(new Map([['a', 1]]));
    await client.flush();
    assert.deepEqual(
      peer.requests.map(({ body, authorization }) => [body, authorization]),
      [['{"hits":42,"a":-1,"b":0}', 'Bearer secret']],
    );
    assert.equal(await client.get('hits'), 42n);
    assert.equal(await client.get('b'), 0n);
    assert.equal(await client.get('never'), undefined);
  }));

test('a batch is sent when the interval ends, and at once when it is full', () =>
  withPeer({ intervalMs: 20, batchKeysMax: 3 }, async (client, peer) => {
    client.increment('a');
    assert.equal(peer.requests.length, 0);
    await peer.until(({ counted }) => counted.size === 1);
    for (const key of ['b', 'c', 'd', 'e']) client.increment(key);
    await peer.until(({ counted }) => counted.size === 3);
    assert.deepEqual([...peer.counted.values()], ['{"a":1}', '{"b":1,"c":1,"d":1}', '{"e":1}']);
  }));

test('a full batch does not wait for the interval', () =>
  withPeer({ batchKeysMax: 2 }, async (client, peer) => {
    client.increment('a');
    client.increment('b');
    client.increment('c');
    await peer.until(({ counted }) => counted.size === 1);
    assert.deepEqual([...peer.counted.values()], ['{"a":1,"b":1}']);
  }));

test('a body has at most batchBytesMax bytes, unless one key alone is longer', () =>
  withPeer({ batchBytesMax: 22 }, async (client, peer) => {
    for (const key of ['aaaa', 'éé', 'cccc', 'a key that is long in itself']) client.increment(key);
    await client.flush();
    assert.deepEqual(
      [...peer.counted.values()],
      ['{"aaaa":1,"éé":1}', '{"cccc":1}', '{"a key that is long in itself":1}'],
    );
  }));

for (const fault of faults) {
  test(`a batch that meets "${fault}" twice is counted once, with one key and one content`, () =>
    withPeer({ requestTimeoutMs: fault === 'count-late' ? 100 : 5_000 }, async (client, peer) => {
      peer.behaviour.fault = ({ attempt }) => (attempt <= 2 ? fault : 'none');
      client.incrementMany({ a: 5, b: 7 });
      const flushed = client.flush();
      await peer.until(({ requests }) => requests.length > 0);
      // Increments that arrive while the batch is in flight are not part of it.
      client.increment('a', 100);
      await flushed;
      await client.flush();
      assert.deepEqual(
        [...peer.sums],
        [
          ['a', 105n],
          ['b', 7n],
        ],
      );
      assert.deepEqual([...peer.counted.values()], ['{"a":5,"b":7}', '{"a":100}']);
      assert.equal(new Set(peer.requests.map(({ idempotencyKey, body }) => `${idempotencyKey} ${body}`)).size, 2);
      // A 202 counts as such even if its body is lost.
      assert.equal(peer.requests.filter(({ body }) => body.includes('7')).length, fault === 'cut-body' ? 1 : 3);
    }));
}

test('one request is in flight at a time', async () => {
  let inFlight = 0;
  let most = 0;
  const counting: typeof fetch = async (input, init) => {
    inFlight += 1;
    most = Math.max(most, inFlight);
    try {
      return await fetch(input, init);
    } finally {
      inFlight -= 1;
    }
  };
  await withPeer({ fetch: counting, batchKeysMax: 2 }, async (client, peer) => {
    for (let key = 0; key < 40; key += 1) client.increment(`key ${key}`);
    await Promise.all([client.flush(), client.flush()]);
    assert.equal(peer.counted.size, 20);
    assert.equal(most, 1);
  });
});

test('the client waits for Retry-After, in seconds or as a date', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.fault = ({ attempt }) => (attempt === 1 ? 'overloaded' : 'none');
    for (const retryAfter of [() => '1', () => new Date(Date.now() + 2_000).toUTCString()]) {
      peer.behaviour.retryAfter = retryAfter();
      client.increment('a');
      await client.flush();
      const [second, first] = [peer.requests.at(-1)?.atMs ?? 0, peer.requests.at(-2)?.atMs ?? 0];
      assert.ok(second - first > 950, `${second - first} ms`);
    }
    assert.equal(peer.sums.get('a'), 2n);
  }));

test('waits between attempts are random, and later ones have a larger range', () =>
  withPeer({ retryBaseMs: 4, retryDelayMsMax: 40 }, async (client, peer) => {
    peer.behaviour.fault = ({ attempt }) => (attempt < 12 ? 'overloaded' : 'none');
    client.increment('a');
    await client.flush();
    assert.equal(peer.requests.length, 12);
    const waits = peer.requests.slice(1).map(({ atMs }, index) => atMs - (peer.requests[index]?.atMs ?? 0));
    assert.ok(new Set(waits.map((ms) => ms.toFixed(1))).size > 3, waits.join(' '));
    assert.ok(Math.max(...waits) > 4, waits.join(' '));
  }));

test('a batch is given up after retryForMsMax, and is reported as possibly counted', () =>
  withPeer({ retryForMsMax: 500 }, async (client, peer) => {
    peer.behaviour.fault = () => 'unknown-counted';
    client.increment('a', 3);
    const failure = await failureOf(client.flush());
    assert.equal(failure.code, 'outcome-unknown');
    assert.deepEqual([failure.status, failure.retryable, failure.counted], [500, true, 'unknown']);
    assert.deepEqual(failure.refused, [
      { increments: [['a', 3]], counted: 'unknown', token: peer.requests[0]?.idempotencyKey },
    ]);
    assert.ok(peer.requests.length > 1);
    await client.flush();
  }));

test('a batch that was always refused as overloaded is given up as not counted', () =>
  withPeer({ retryForMsMax: 30 }, async (client, peer) => {
    peer.behaviour.fault = () => 'overloaded';
    client.increment('a', 3);
    const failure = await failureOf(client.flush());
    assert.deepEqual([failure.code, failure.counted], ['overloaded', 'no']);
    peer.behaviour.fault = () => 'none';
    client.incrementMany(failure.refused.flatMap(({ increments }) => increments));
    await client.flush();
    assert.equal(peer.sums.get('a'), 3n);
  }));

test('a body that is too large is halved until it is accepted, each half with its own key', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.bodyBytesMax = 20;
    const expected = new Map<string, bigint>();
    for (let key = 0; key < 13; key += 1) {
      client.increment(`k${key}`, key);
      expected.set(`k${key}`, BigInt(key));
    }
    await client.flush();
    assert.deepEqual(peer.sums, expected);
    assert.ok(peer.requests.every(({ attempt }) => attempt === 1));
  }));

test('a body that is too large is not halved once an attempt may have been counted', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.fault = ({ attempt }) => {
      if (attempt > 1) peer.behaviour.bodyBytesMax = 8;
      return attempt === 1 ? 'drop-counted' : 'none';
    };
    client.incrementMany({ a: 1, b: 2 });
    const failure = await failureOf(client.flush());
    assert.deepEqual([failure.code, failure.counted, peer.requests.length], ['body-too-large', 'unknown', 2]);
    assert.deepEqual([...peer.sums.values()], [1n, 2n]);
  }));

test('a key that only the server refuses does not delay others', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.keyBytesMax = 4;
    const refused: CounterClientError[] = [];
    const keys = ['a', 'bb', 'too long', 'ccc', 'dddd', 'e'];
    client.incrementMany(keys.map((key) => [key, 2]));
    const failure = await failureOf(client.flush());
    refused.push(failure);
    assert.deepEqual(
      refused.map(({ code, counted, refused: [batch] }) => [code, counted, batch?.increments]),
      [['invalid-request', 'no', [['too long', 2]]]],
    );
    assert.deepEqual([...peer.sums.keys()].sort(), keys.filter((key) => key.length <= 4).sort());
  }));

test('onError is called once for each refused batch, and the next flush or close rejects', async () => {
  const told: CounterClientError[] = [];
  const settings: Settings = {
    batchKeysMax: 1,
    bufferKeysMax: 2,
    authRetryMs: 0,
    onError: (error) => told.push(error),
  };
  await withPeer(settings, async (client, peer) => {
    peer.behaviour.answer = (response) => {
      response.writeHead(401, { 'content-type': 'text/plain' }).end('no');
      return true;
    };
    for (let key = 0; key < 5; key += 1) {
      client.increment(`key ${key}`);
      await peer.until(({ requests }) => requests.length > key);
      while (told.length <= key) await new Promise((resolve) => setImmediate(resolve));
    }
    assert.deepEqual(
      told.flatMap(({ refused }) => refused.flatMap(({ increments }) => increments.map(([key]) => key))),
      ['key 0', 'key 1', 'key 2', 'key 3', 'key 4'],
    );
    const failure = await failureOf(client.close());
    assert.deepEqual([failure.code, failure.status, failure.counted], ['unexpected-answer', 401, 'unknown']);
    await client.close();
  });
});

test('401 and 403 are retried with the token of the moment, so that a token can be replaced', () => {
  let token = 'old';
  return withPeer({ token: () => Promise.resolve(token) }, async (client, peer) => {
    peer.behaviour.answer = (response, { authorization }) => {
      if (authorization === 'Bearer new') return false;
      problem(response, peer.requests.length % 2 === 0 ? 403 : 401, 'unauthorized', false, 'no');
      return true;
    };
    client.increment('a');
    const flushed = client.flush();
    await peer.until(({ requests }) => requests.length >= 4);
    token = 'new';
    await flushed;
    assert.deepEqual([...peer.sums], [['a', 1n]]);
    assert.equal(new Set(peer.requests.map(({ idempotencyKey }) => idempotencyKey)).size, 1);
  });
});

test('a token that the server refuses for longer than authRetryMs ends the batch, which is not counted', () =>
  withPeer({ token: 'old', authRetryMs: 50 }, async (client, peer) => {
    peer.behaviour.answer = (response) => {
      problem(response, 401, 'unauthorized', false, 'no');
      return true;
    };
    client.increment('a');
    const failure = await failureOf(client.flush());
    assert.deepEqual([failure.code, failure.status, failure.counted], ['unauthorized', 401, 'no']);
    assert.ok(peer.requests.length > 1);
  }));

test('onRetry tells each failed attempt, and stats has what is held, retried and failed', async () => {
  const retries: Retry[] = [];
  await withPeer({ batchKeysMax: 2, onRetry: (retry) => retries.push(retry) }, async (client, peer) => {
    assert.deepEqual(client.stats(), { pending: 0, inFlight: 0, retries: 0, lastError: undefined });
    peer.behaviour.fault = ({ attempt }) => (attempt <= 2 ? 'overloaded' : 'count-late');
    client.incrementMany({ a: 1, b: 1, c: 1 });
    await peer.until(({ requests }) => requests.length === 3);
    const { pending, inFlight, retries: counted, lastError } = client.stats();
    assert.deepEqual([pending, inFlight, counted], [1, 2, 2]);
    assert.equal(lastError?.code, 'overloaded');
    assert.deepEqual(
      retries.map(({ attempt, error }) => [attempt, error.code, error.status]),
      [
        [1, 'overloaded', 503],
        [2, 'overloaded', 503],
      ],
    );
    for (const { delayMs } of retries) assert.ok(delayMs >= 0 && delayMs <= 5);
  });
});

test('a message has the URL and the real cause', async () => {
  await withPeer({}, async (client, peer) => {
    peer.behaviour.keyBytesMax = 1;
    client.increment('long');
    const refused = await failureOf(client.flush());
    assert.match(refused.message, new RegExp(`^Given up on 1 keys: POST ${peer.url}/increment: 400 invalid-request: `));
  });
  const client = new CounterClient({ url: 'http://127.0.0.1:1/counters/', retryForMsMax: 1, retryBaseMs: 1 });
  assert.equal(
    (await failureOf(client.get('a'))).message,
    'GET http://127.0.0.1:1/counters/key_sum: no answer: fetch failed: bad port',
  );
  const peer = await CounterPeer.start();
  const { url } = peer;
  await peer.stop();
  const stopped = new CounterClient({ url });
  const { message } = await failureOf(stopped.get('a'));
  assert.match(
    message,
    new RegExp(`^GET ${url}/key_sum: no answer: fetch failed: connect ECONNREFUSED 127\\.0\\.0\\.1:`),
  );
  assert.equal(stopped.stats().lastError?.code, 'network');
});

test('with incrementErrors "report" increment returns false and onError gets the error', async () => {
  const told: CounterClientError[] = [];
  const settings: Settings = {
    batchKeysMax: 1,
    bufferKeysMax: 1,
    incrementErrors: 'report',
    onError: (error) => told.push(error),
  };
  await withPeer(settings, async (client, peer) => {
    peer.behaviour.fault = () => 'count-late';
    assert.equal(client.increment('a'), true);
    assert.equal(client.increment('', 2), false);
    assert.equal(client.increment('b', 0.5), false);
    assert.equal(client.incrementMany({ c: 1, d: 1 }), false);
    await client.close({ signal: AbortSignal.abort() }).catch(() => undefined);
    assert.equal(client.increment('e'), false);
    await new Promise((resolve) => setImmediate(resolve));
    const codes = told.filter(({ code }) => code !== 'aborted').map(({ code, refused }) => [code, refused]);
    const refused = (...increments: [string, number][]): unknown => [{ increments, counted: 'no', token: '' }];
    assert.deepEqual(codes, [
      ['invalid-increment', refused(['', 2])],
      ['invalid-increment', refused(['b', 0.5])],
      ['buffer-full', refused(['c', 1], ['d', 1])],
      ['closed', refused(['e', 1])],
    ]);
  });
  assert.throws(() => new CounterClient({ url: 'http://a', incrementErrors: 'report' }), TypeError);
});

test('at the end of a block with await using the client is flushed and closed', () =>
  withPeer({}, async (client, peer) => {
    client.increment('a');
    await client[Symbol.asyncDispose]();
    assert.deepEqual([...peer.sums], [['a', 1n]]);
    assert.throws(() => client.increment('a'), { code: 'closed' });
  }));

test('without onError refused keys count against the buffer until a flush has reported them', () =>
  withPeer({ batchKeysMax: 1, bufferKeysMax: 3 }, async (client, peer) => {
    peer.behaviour.keyBytesMax = 1;
    for (const key of ['k1', 'k2', 'k3']) {
      client.increment(key);
      await peer.until(({ requests }) => requests.some(({ body }) => body.includes(key)));
    }
    assert.throws(() => client.increment('a'), { code: 'buffer-full' });
    const failure = await failureOf(client.flush());
    assert.deepEqual(
      failure.refused.flatMap(({ increments }) => increments.map(([key]) => key)),
      ['k1', 'k2', 'k3'],
    );
    client.increment('a');
    await client.flush();
    assert.deepEqual([...peer.sums], [['a', 1n]]);
  }));

test('every waiting flush reports a refusal', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.keyBytesMax = 1;
    client.increment('long');
    const [one, other] = await Promise.all([failureOf(client.flush()), failureOf(client.flush())]);
    assert.equal(one, other);
    await client.flush();
  }));

test('a full buffer refuses every call with a new key, but accepts more for the keys in it', () =>
  withPeer({ bufferKeysMax: 2, batchKeysMax: 2 }, async (client, peer) => {
    peer.behaviour.fault = ({ attempt }) => (attempt < 3 ? 'overloaded' : 'none');
    client.increment('a');
    client.increment('b');
    assert.throws(() => client.increment('c'), { name: 'CounterClientError', code: 'buffer-full', retryable: true });
    await client.flush();
    client.increment('c');
    assert.throws(() => client.incrementMany({ c: 1, d: 1, e: 1 }), { code: 'buffer-full' });
    client.increment('c', 2);
    await client.flush();
    assert.deepEqual([...peer.sums.values()], [1n, 1n, 3n]);
  }));

test('bad keys and amounts are refused at once, with all other increments of the call', () =>
  withPeer({}, async (client, peer) => {
    const bad: readonly (readonly [unknown, unknown, 'TypeError' | 'RangeError'])[] = [
      ['', 1, 'RangeError'],
      ['a\0b', 1, 'RangeError'],
      ['\ud83d', 1, 'RangeError'],
      ['\ude00\ud83d', 1, 'RangeError'],
      ['x'.repeat(513), 1, 'RangeError'],
      [`x${'é'.repeat(256)}`, 1, 'RangeError'],
      [7, 1, 'TypeError'],
      [undefined, 1, 'TypeError'],
      ['a', 1.5, 'RangeError'],
      ['a', 2 ** 53, 'RangeError'],
      ['a', -(2 ** 53), 'RangeError'],
      ['a', Number.NaN, 'RangeError'],
      ['a', Number.POSITIVE_INFINITY, 'RangeError'],
      ['a', '1', 'TypeError'],
      ['a', 1n, 'TypeError'],
      ['a', null, 'TypeError'],
    ];
    for (const [key, amount, name] of bad) {
      // A caller without types may pass what the types forbid.
      assert.throws(() => client.increment(key as string, amount as number), { name });
      assert.throws(
        () =>
          client.incrementMany([
            ['good', 1],
            [key as string, amount as number],
          ]),
        { name },
      );
    }
    const good = ['x'.repeat(512), 'é'.repeat(256), '😀', '__proto__', 'constructor', '7', ' ', '"\\\n', '\u2028'];
    for (const key of good) client.increment(key, -0);
    await client.flush();
    assert.deepEqual(
      [...peer.sums],
      good.map((key) => [key, 0n]),
    );
    for (const key of good) assert.equal(await client.get(key), 0n);
    assert.equal(await client.get('good'), undefined);
  }));

test('a sum beyond the safe integers is split over batches and stays exact', () =>
  withPeer({}, async (client, peer) => {
    const largest = Number.MAX_SAFE_INTEGER;
    client.incrementMany([
      ['up', largest],
      ['up', largest],
      ['up', largest],
      ['down', -largest],
      ['down', -2],
      ['a', 1],
    ]);
    client.incrementMany([
      ['back', largest],
      ['back', largest],
      ['back', -largest],
    ]);
    await client.flush();
    assert.equal(await client.get('up'), 3n * BigInt(largest));
    assert.equal(await client.get('down'), -BigInt(largest) - 2n);
    assert.equal(await client.get('back'), BigInt(largest));
    assert.equal(peer.requests.length, 3);
    assert.ok([...peer.counted.values()].every((body) => !/\d{17}/.test(body)));
  }));

test('a sum of any length is read to the last digit', () =>
  withPeer({}, async (client, peer) => {
    const sums = [10n ** 400n + 7n, -(2n ** 53n) - 1n, 0n];
    for (const [index, sum] of sums.entries()) peer.sums.set(`"sum":${index}&+%`, sum);
    for (const [index, sum] of sums.entries()) assert.equal(await client.get(`"sum":${index}&+%`), sum);
  }));

test('get rejects for every answer that is not a sum, including the 404 of a wrong address', () =>
  withPeer({}, async (_, peer) => {
    const elsewhere = new CounterClient({ url: `${peer.url}/elsewhere/` });
    assert.deepEqual(await failureOf(elsewhere.get('a')).then(({ code, status }) => [code, status]), [
      'not-found',
      404,
    ]);
    const answers = [new Response('', { status: 200 }), new Response('1.0'), new Response('1', { status: 302 })];
    for (const answer of answers) {
      const client = new CounterClient({ url: peer.url, fetch: async () => answer });
      assert.equal((await failureOf(client.get('a'))).code, 'unexpected-answer');
    }
    await assert.rejects(elsewhere.get(''), RangeError);
    const aborted = await failureOf(elsewhere.get('a', { signal: AbortSignal.abort() }));
    assert.equal(aborted.code, 'aborted');
  }));

test('a flush ends with its signal, and its increments are still counted', () =>
  withPeer({}, async (client, peer) => {
    const end = new AbortController();
    peer.behaviour.fault = () => {
      end.abort();
      return end.signal.aborted && peer.requests.length > 3 ? 'none' : 'overloaded';
    };
    client.increment('a');
    const failure = await failureOf(client.flush({ signal: end.signal }));
    assert.deepEqual([failure.code, failure.refused], ['aborted', []]);
    await client.flush();
    assert.equal(peer.sums.get('a'), 1n);
  }));

test('close sends all waiting increments, and later ones are refused', () =>
  withPeer({}, async (client, peer) => {
    client.increment('a');
    const closed = client.close();
    assert.throws(() => client.increment('a'), { code: 'closed' });
    await closed;
    assert.equal(peer.sums.get('a'), 1n);
    await client.close();
    assert.equal(await client.get('a'), 1n);
  }));

test('an aborted close refuses all remaining increments, and reports which may be counted', async () => {
  const told: CounterClientError[] = [];
  await withPeer({ batchKeysMax: 2, onError: (error) => told.push(error) }, async (client, peer) => {
    peer.behaviour.fault = () => 'count-late';
    const end = new AbortController();
    client.incrementMany({ a: 1, b: 2, c: 3 });
    const failing = failureOf(client.close({ signal: end.signal }));
    await peer.until(({ requests }) => requests.length === 1);
    end.abort();
    const failure = await failing;
    assert.equal(failure.code, 'aborted');
    assert.deepEqual(
      failure.refused.map(({ increments, counted }) => [increments, counted]),
      [
        [
          [
            ['a', 1],
            ['b', 2],
          ],
          'unknown',
        ],
        [[['c', 3]], 'no'],
      ],
    );
    assert.equal(told.length, 2);
    await client.close();
    await peer.until(({ counted }) => counted.size === 1);
    assert.equal(peer.requests.length, 1);
  });
});

test('an answer that is not retryable is final, also with a code that the client does not know', () =>
  withPeer({}, async (client, peer) => {
    peer.behaviour.answer = (response) => {
      problem(response, 501, 'of-another-version', false, 'no');
      return true;
    };
    client.incrementMany({ a: 1, b: 2 });
    const failure = await failureOf(client.flush());
    assert.deepEqual([failure.code, failure.status, failure.counted], ['of-another-version', 501, 'no']);
    assert.equal(failure.refused.length, 1);
    assert.equal(peer.requests.length, 1);
  }));

test('a redirect is not followed: it is not an answer of a counter server', () =>
  withPeer({}, async (client, peer) => {
    for (const status of [301, 307]) {
      peer.behaviour.answer = (response) => {
        response.writeHead(status, { location: '/elsewhere' }).end();
        return true;
      };
      client.increment('a');
      const failure = await failureOf(client.flush());
      assert.deepEqual([failure.code, failure.status, failure.retryable], ['unexpected-answer', status, false]);
    }
    assert.equal(peer.requests.length, 2);
  }));

test('invalid settings are refused', () => {
  const url = 'http://127.0.0.1:1';
  const bad: readonly CounterClientOptions[] = [
    { url: 'nowhere' },
    { url: 'ftp://127.0.0.1' },
    { url: 'http://user:password@127.0.0.1' },
    { url: `${url}?a=1` },
    { url, token: 'two\nlines' },
    { url, intervalMs: 0 },
    { url, batchKeysMax: 1.5 },
    { url, retryForMsMax: 2 ** 31 },
    { url, batchKeysMax: 11, bufferKeysMax: 10 },
  ];
  for (const options of bad) {
    assert.throws(
      () => new CounterClient(options),
      (error) => error instanceof TypeError || error instanceof RangeError,
    );
  }
});

test('the built folder works alone: it sends unflushed increments, and then keeps no process alive', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'summing-counters-client-'));
  const peer = await CounterPeer.start();
  try {
    await cp(join(import.meta.dirname, '../../../../dist/client'), join(directory, 'client'), { recursive: true });
    await writeFile(join(directory, 'package.json'), '{"type":"module"}');
    const program = `import { CounterClient } from './client/counter-client.js';
      const client = new CounterClient({ url: ${JSON.stringify(peer.url)} });
      client.increment('alone', 42);
      await client.flush();
      process.stdout.write(String(await client.get('alone')));
      client.increment('last');`;
    await writeFile(join(directory, 'program.mjs'), program);
    const { stdout } = await promisify(execFile)(process.execPath, [join(directory, 'program.mjs')]);
    assert.equal(stdout, '42');
    assert.equal(peer.sums.get('last'), 1n);
  } finally {
    await peer.stop();
    await rm(directory, { recursive: true });
  }
});
