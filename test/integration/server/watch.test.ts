import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { EventReader } from '../../support/event-reader.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { scrape } from '../../support/metrics.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { assertCleanStop, SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

/** A change made through this server shows within this time. */
const SHOWS_MS = 2_000;

const ADMIN = { authorization: 'Bearer admin-token' };

describe('watch', () => {
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: '3600000', MAX_KEY_BYTES: '64' });

  test('a stream begins with the document of each key, null for one that does not exist', async (t) => {
    assertCreated(await increment(node.url, { 'w a': 3, 'w\n"\\': -4 }));
    const keys = new URLSearchParams([
      ['key', 'w\n"\\'],
      ['key', 'never'],
      ['key', 'w a'],
      ['key', 'w a'],
    ]);
    const reader = own(t, await EventReader.open(node.url, `/watch?${keys.toString()}`));
    await eventually('three events', async () => reader.events.length === 3);
    await sleep(300);
    assert.deepEqual(
      reader.events.map(({ event, data }) => `${event} ${data}`),
      [
        'counter {"key":"w\\n\\"\\\\","sum":-4,"committed":0,"pending":-4,"updated_at":null}',
        'counter {"key":"never","sum":null,"committed":0,"pending":0,"updated_at":null}',
        'counter {"key":"w a","sum":3,"committed":0,"pending":3,"updated_at":null}',
      ],
    );
  });

  test('a change shows within two seconds, at most once a second, and only if the sum changes', async (t) => {
    assertCreated(await increment(node.url, { busy: 1, quiet: 1 }));
    const reader = own(t, await EventReader.open(node.url, '/watch?key=busy&key=quiet'));
    await reader.until('busy', '1');
    const begin = performance.now();
    let sum = 1;
    while (performance.now() - begin < 3_500) {
      assertCreated(await increment(node.url, { busy: 1 }));
      sum += 1;
      await sleep(20);
    }
    const last = performance.now();
    assert.ok((await reader.until('busy', String(sum))) - last < SHOWS_MS);
    // A flush moves what is pending and changes no sum.
    await flushAll(node.url);
    await sleep(1_500);
    assert.deepEqual(reader.sums('quiet'), ['1']);
    const times = reader.events.filter(({ data }) => data.startsWith('{"key":"busy"')).map(({ atMs }) => atMs);
    assert.ok(times.length >= 4 && times.length <= 6, String(times));
    for (const [index, at] of times.entries()) {
      if (index > 0) assert.ok(at - (times[index - 1] ?? 0) > 800, String(times));
    }
  });

  test('what another writer commits shows, and so does a delete', async (t) => {
    assertCreated(await increment(node.url, { foreign: 5 }));
    await send(node.url, '/flush', { method: 'POST' });
    const reader = own(t, await EventReader.open(node.url, '/watch?key=foreign'));
    await reader.until('foreign', '5');
    await node.execute(`update counters set sum = 12345678901234567890 where key = 'foreign'`);
    const committed = performance.now();
    assert.ok((await reader.until('foreign', '12345678901234567890')) - committed < SHOWS_MS);
    assert.equal((await send(node.url, '/counters/foreign', { method: 'DELETE' })).status, 200);
    await reader.until('foreign', 'null');
  });

  test('a row that holds no integer spoils no other counter', async (t) => {
    await node.execute(`insert into counters (key, sum) values ('broken', 'NaN'), ('sound', 1)`);
    const reader = own(t, await EventReader.open(node.url, '/watch?key=broken&key=sound'));
    await reader.until('sound', '1');
    await node.execute(`update counters set sum = 2 where key in ('broken', 'sound')`);
    await Promise.all([reader.until('sound', '2'), reader.until('broken', '2')]);
    assert.deepEqual(reader.sums('broken'), ['2']);
    await node.execute(`delete from counters where key in ('broken', 'sound')`);
  });

  test('a hundred keys are watched; none, 101 and a bad one are refused', async (t) => {
    const query = (count: number): string =>
      Array.from({ length: count }, (_, index) => `key=hundred-${index}`).join('&');
    const reader = own(t, await EventReader.open(node.url, `/watch?${query(100)}`));
    await eventually('a hundred events', async () => reader.events.length === 100);
    for (const bad of ['', '?key=', '?kay=a', `?${query(101)}`, '?key=a&key=%00', `?key=${'k'.repeat(65)}`]) {
      assertProblem(await send(node.url, `/watch${bad}`), 'invalid-request');
    }
  });

  test('the head of a stream is that of server-sent events', async () => {
    const answer = await send(node.url, '/watch?key=a', { method: 'HEAD' });
    assert.equal(answer.status, 200);
    assert.deepEqual(
      [answer.headers['content-type'], answer.headers['cache-control'], answer.headers['x-accel-buffering']],
      ['text/event-stream', 'no-store', 'no'],
    );
  });

  test('streams count as watchers until the client goes', async () => {
    const readers = await Promise.all(Array.from({ length: 5 }, () => EventReader.open(node.url, '/watch?key=a')));
    assert.equal((await scrape(node.url)).total('watchers'), 5);
    for (const reader of readers) reader.close();
    await eventually('no watchers', async () => (await scrape(node.url)).total('watchers') === 0);
  });
});

describe('bounds of watching', () => {
  const node = new SuiteServer({
    MAX_WATCHERS: '3',
    HTTP_THREADS: '3',
    FLUSH_INTERVAL_MS: '3600000',
  });

  test('MAX_WATCHERS holds for all HTTP threads together, and each of them serves streams', async (t) => {
    const opened = await Promise.allSettled(
      Array.from({ length: 40 }, () => EventReader.open(node.url, '/watch?key=threads')),
    );
    const readers = opened.flatMap((result) => (result.status === 'fulfilled' ? [own(t, result.value)] : []));
    assert.equal(readers.length, 3);
    for (const result of opened) {
      if (result.status === 'rejected') assert.match(String(result.reason), /503 .*MAX_WATCHERS.*"overloaded"/s);
    }
    assertCreated(await increment(node.url, { threads: 7 }));
    await Promise.all(readers.map((reader) => reader.until('threads', '7')));
    for (const reader of readers) reader.close();
    await eventually('room again', async () => {
      const answer = await send(node.url, '/watch?key=a', { method: 'HEAD' });
      return answer.status === 200 && (await scrape(node.url)).total('watchers') === 0;
    });
  });
});

describe('watching while the server stops, and without the database', () => {
  let postgres: OutagePostgres;
  let server: TestServer;
  before(async () => {
    postgres = await OutagePostgres.prepare();
    await postgres.start();
    const AUTH_TOKENS = 'admin:admin-token,write:write-token';
    const env = { DATABASE_URL: postgres.url, AUTH_TOKENS, FLUSH_INTERVAL_MS: '100', HTTP_THREADS: '2' };
    server = await startServer({ env });
  });
  after(async () => {
    await server.dispose();
    await postgres.dispose();
  });

  test('a stream needs a token that may read', async () => {
    assertProblem(await send(server.url, '/watch?key=a'), 'unauthorized');
    assertProblem(
      await send(server.url, '/watch?key=a', { headers: { authorization: 'Bearer write-token' } }),
      'forbidden',
    );
  });

  test('a stream outlives an outage and then sends the current values; one opened meanwhile gets them, too', async () => {
    assertCreated(await increment(server.url, { out: 1, still: 1 }, { headers: ADMIN }));
    const reader = await EventReader.open(server.url, '/watch?key=out&key=still', ADMIN);
    await reader.until('still', '1');
    await postgres.stop('fast');
    await eventually('degraded', async () => (await send(server.url, '/readyz')).body.includes('degraded'));
    assertCreated(await increment(server.url, { out: 1 }, { headers: ADMIN }));
    const late = await EventReader.open(server.url, '/watch?key=out', ADMIN);
    await sleep(2_000);
    assert.deepEqual([reader.end, late.end, late.events], ['open', 'open', []]);
    await postgres.start();
    await Promise.all([reader.until('out', '2'), late.until('out', '2')]);
    await eventually('the current value of what has not changed', async () => reader.sums('still').length === 2);
    reader.close();
    late.close();
  });

  test('a stop ends the streams in good order', async () => {
    const readers = await Promise.all(
      Array.from({ length: 8 }, () => EventReader.open(server.url, '/watch?key=out', ADMIN)),
    );
    const began = performance.now();
    await assertCleanStop(server);
    assert.ok(performance.now() - began < 5_000);
    for (const reader of readers) assert.equal(reader.end, 'ended');
  });
});
