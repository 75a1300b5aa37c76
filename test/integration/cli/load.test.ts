/**
 * The load tool against the real server, also where connections, the server or its rows are lost under it.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { sumOf } from '../../support/counters.js';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { checkHistory } from '../../support/history/check-history.js';
import { readLoadHistory } from '../../support/history/load-history.js';
import { LoadCommand, reportOf, runLoadCommand, type LoadEnd } from '../../support/load-command.js';
import { scrape } from '../../support/metrics.js';
import { startServer, temporaryDirectory } from '../../support/server.js';
import { assertCleanStop, SuiteServer } from '../../support/suite-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { own } from '../../support/own.js';

/** The committed sum of all keys that begin with `prefix`. */
async function committed(node: SuiteServer, prefix: string): Promise<number> {
  await flushAll(node.url);
  let total = 0n;
  for (const [key, sum] of await node.table()) if (key.startsWith(prefix)) total += sum;
  return Number(total);
}

/** Sends until some requests are acknowledged: on a busy machine a run of less than a second may send nothing. */
async function runUntilCounted(node: SuiteServer, ...args: readonly string[]): Promise<LoadEnd> {
  const acknowledged = async (): Promise<number> =>
    (await scrape(node.url)).total('http_requests_total', { route: '/increment', status: '202' });
  const before = await acknowledged();
  const load = new LoadCommand(['--url', node.url, '--duration', '600', ...args]);
  await eventually('increments', async () => (await acknowledged()) >= before + 20);
  load.child.kill('SIGINT');
  return load.ended;
}

describe('the load tool', () => {
  const node = new SuiteServer();

  for (const kind of [
    ['--keys', 'fixed', '--increments', '3'],
    ['--keys', 'uniform', '--key-count', '250', '--increments', '40', '--key-bytes', '60'],
    ['--keys', 'zipf', '--zipf-exponent', '1.2', '--idempotency-keys'],
  ]) {
    test(`${kind.join(' ')}: every request is acknowledged, and the table holds what the report says`, async () => {
      const { code, report } = reportOf(await runUntilCounted(node, '--connections', '10', '--json', ...kind));
      assert.equal(code, 0, report.verdict.sentence);
      assert.equal(report.verdict.kind, 'arrived');
      assert.ok(report.requests.acknowledged >= 10, String(report.requests.acknowledged));
      const { refused, unknown, resent } = report.requests;
      assert.deepEqual(
        { refused, unknown, resent, lost: report.lost_connections },
        {
          refused: 0,
          unknown: 0,
          resent: 0,
          lost: 0,
        },
      );
      assert.equal(report.verdict.grown, String(report.increments.acknowledged));
      assert.equal(await committed(node, report.prefix), report.increments.acknowledged);
      const { p50, p90, p99, p99_9, max } = report.latency_ms;
      assert.ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 <= p99_9 && p99_9 <= max);
      assert.equal(report.latency_ms.measured_from, 'sent');
    });
  }

  test('the report ends with one sentence, and a second run with the same prefix counts what it added', async () => {
    const args = ['--connections', '5', '--prefix', 'again "é":'];
    const first = await runUntilCounted(node, ...args);
    assert.equal(first.code, 0, first.out);
    assert.match(first.out, /^acknowledged +[\d,]+ requests, [\d,]+ increments$/m);
    assert.match(first.out, /^latency, ms +p50 [\d.]+ +p90 [\d.]+ +p99 [\d.]+ +p99\.9 [\d.]+ +max [\d.]+$/m);
    const sentence =
      /^Every one of the ([\d,]+) acknowledged increments arrived: the sums of [\d,]+ keys grew by ([\d,]+)\.$/m;
    for (const { code, out } of [first, await runUntilCounted(node, ...args)]) {
      assert.equal(code, 0, out);
      const [, acknowledged, grown] = sentence.exec(out) ?? [];
      assert.ok(acknowledged !== undefined, out);
      assert.equal(grown, acknowledged);
    }
  });

  test('--rate is kept', async () => {
    const args = ['--url', node.url, '--duration', '1.5', '--rate', '200', '--json'];
    const { code, report } = await new LoadCommand(args).report();
    assert.equal(code, 0, report.verdict.sentence);
    const { acknowledged } = report.requests;
    assert.ok(acknowledged > 150 && acknowledged <= 200 * report.seconds + 1, `${acknowledged} in ${report.seconds} s`);
    assert.equal(report.latency_ms.measured_from, 'due');
  });

  test('a counter that is deleted under the load is named, with what was expected and found', async () => {
    const args = ['--prefix', 'gone:', '--key-count', '3', '--duration', '1.5', '--rate', '300', '--wait', '0'];
    const load = new LoadCommand(['--url', node.url, ...args]);
    await eventually('increments', async () => ((await sumOf(node.url, 'gone:1')) ?? 0n) >= 10n);
    assert.equal((await send(node.url, '/counters/gone:1', { method: 'DELETE' })).status, 200);
    const { code, out } = await load.ended;
    assert.equal(code, 1, out);
    assert.match(out, /^WRONG: 1 key of 3 does not hold what was acknowledged\.$/m);
    const [, expected = '', found = ''] = /^ {2}"gone:1": expected (\d+), found (\d+)$/m.exec(out) ?? [];
    assert.ok(Number(found) <= Number(expected) - 10, out);
    assert.doesNotMatch(out, /gone:[02]/);
  });

  test('a row that is changed in the table is found, also if its sum is too large', async () => {
    const args = ['--prefix', 'more:', '--keys', 'fixed', '--duration', '600', '--rate', '100', '--json'];
    const load = new LoadCommand(['--url', node.url, ...args]);
    await eventually('a row', async () => (await node.table()).has('more:0'));
    await node.execute(`update counters set sum = sum + 10000000000000000000 where key = 'more:0'`);
    // Not by its duration: on a slow machine the load would be checked before the row is changed.
    load.child.kill('SIGINT');
    const { code, report } = await load.report();
    assert.equal(code, 1);
    assert.equal(report.verdict.kind, 'wrong');
    const acknowledged = String(report.increments.acknowledged);
    const found = String(10n ** 19n + BigInt(acknowledged));
    const wrong = { key: 'more:0', expected_min: acknowledged, expected_max: acknowledged, found };
    assert.deepEqual(report.verdict.first_wrong, [wrong]);
  });

  test('SIGINT ends the sending; the run is then checked and reported', async () => {
    const load = new LoadCommand(['--url', node.url, '--prefix', 'stop:', '--duration', '600', '--json']);
    await eventually('increments', async () => ((await sumOf(node.url, 'stop:001')) ?? 0n) > 0n);
    load.child.kill('SIGINT');
    const { code, report } = await load.report();
    assert.equal(code, 0, report.verdict.sentence);
    assert.equal(report.requests.unknown, 0);
    assert.equal(await committed(node, 'stop:'), report.increments.acknowledged);
  });

  test('--delete deletes the keys of the run', async () => {
    const { code, report } = reportOf(await runUntilCounted(node, '--key-count', '50', '--delete', '--json'));
    assert.equal(code, 0, report.verdict.sentence);
    assert.equal(await committed(node, report.prefix), 0);
    assert.ok(![...(await node.table()).keys()].some((key) => key.startsWith(report.prefix)));
  });

  test('answers that are lost are unknown, or are sent again with the idempotency key until all is exact', async (t) => {
    const proxy = own(t, await TcpProxy.start(node.url));
    const fates = ['lose-answer', 'cut-before', 'cut-after', 'blackhole'] as const;
    const loads = { plain: { pieces: 0, lost: 0 }, exact: { pieces: 0, lost: 0 } };
    proxy.setRule((bytes) => {
      if (!bytes.includes('POST /increment')) return 'forward';
      const of = loads[bytes.includes('Idempotency-Key') ? 'exact' : 'plain'];
      of.pieces += 1;
      return of.pieces % 20 === 0 ? (fates[of.lost++ % fates.length] ?? 'forward') : 'forward';
    });
    const args = ['--url', proxy.urlOf(node.url), '--duration', '600', '--rate', '200', '--timeout', '1', '--json'];
    const directory = await temporaryDirectory();
    const histories = ['plain', 'exact'].map((name) => join(directory, name));
    const running = [[], ['--idempotency-keys']].map((more, index) => {
      const history = ['--history', histories[index] ?? ''];
      return new LoadCommand([...args, ...history, '--connections', '10', '--key-count', '5', ...more]);
    });
    // Not for a time: a slow machine sends less in it.
    await eventually('each load lost each kind', async () => loads.plain.lost >= 8 && loads.exact.lost >= 8);
    for (const { child } of running) child.kill('SIGINT');
    const [plain, exact] = await Promise.all(running.map((load) => load.report()));
    assert.ok(plain !== undefined && exact !== undefined);
    assert.equal(plain.code, 0, plain.report.verdict.sentence);
    assert.ok(plain.report.requests.unknown >= 3, JSON.stringify(plain.report));
    assert.match(plain.report.verdict.sentence, / Of \d+ increments with unknown outcome, \d+ (is|are) counted\.$/);
    assert.equal(exact.code, 0, exact.report.verdict.sentence);
    assert.equal(exact.report.requests.unknown, 0);
    assert.ok(exact.report.requests.resent >= 3, JSON.stringify(exact.report));
    assert.equal(exact.report.verdict.grown, String(exact.report.increments.acknowledged));
    assert.equal(await committed(node, exact.report.prefix), exact.report.increments.acknowledged);
    const table = await node.table();
    for (const [index, { report }] of [plain, exact].entries()) {
      const { requests, prefix } = report;
      const operations = readLoadHistory(histories[index] ?? '');
      const sums = new Map([...table].filter(([key]) => key.startsWith(prefix)));
      assert.deepEqual(checkHistory(operations, sums), []);
      const attempts = operations.filter(({ kind }) => kind === 'increment').length;
      assert.equal(attempts, requests.acknowledged + requests.refused + requests.unknown + requests.resent);
      // The checker sees one increment more than was sent.
      const [key, sum] = [...sums][0] ?? ['', 0n];
      assert.notDeepEqual(checkHistory(operations, new Map([...sums, [key, sum + 1000n]])), []);
    }
  });
});

describe('the load tool and a server with bearer tokens and little room', () => {
  const tokens = { both: 'secret-both', write: 'secret-write', read: 'secret-read' };
  const AUTH_TOKENS = `write:${tokens.both} read:${tokens.both} write:${tokens.write} read:${tokens.read}`;
  const node = new SuiteServer({ AUTH_TOKENS, MAX_PENDING_KEYS: '20' });

  test('refusals do not end the run and are not counted', async () => {
    const args = ['--url', node.url, '--duration', '1', '--key-count', '1000', '--json'];
    const { code, report } = await new LoadCommand(args, { SUMMING_COUNTERS_TOKEN: tokens.both }).report();
    assert.equal(code, 0, report.verdict.sentence);
    assert.deepEqual(
      report.refusals.map(({ name, count }) => ({ name, count })),
      [{ name: '503 overloaded', count: report.requests.refused }],
    );
    assert.ok(report.requests.refused > 0);
    assert.equal(report.requests.unknown, 0);
  });

  test('a token that may not read ends the command before it sends anything', async () => {
    const load = await runLoadCommand(['--url', node.url], { SUMMING_COUNTERS_TOKEN: tokens.write });
    assert.equal(load.code, 1);
    assert.match(load.err, /^summing-counters-load: GET \/counters is answered 403 forbidden: .* needs the scope read/);
    assert.doesNotMatch(load.err, /secret/);
  });

  test('a token that may not write ends the run at the first answer', async () => {
    const args = ['--url', node.url, '--duration', '600'];
    const load = await runLoadCommand(args, { SUMMING_COUNTERS_TOKEN: tokens.read });
    assert.equal(load.code, 1);
    assert.match(load.out, /^No increment was acknowledged: 403 forbidden \(.+\)\.$/m);
    assert.doesNotMatch(load.out + load.err, /secret/);
  });
});

describe('the load tool and a server that is killed', () => {
  test('the verdict holds over a restart, and without one the outcome is not known', async (t) => {
    const database = own(t, await createTestDatabase());
    const dataDir = await temporaryDirectory();
    const env = { DATABASE_URL: database.url, SHARDS: '2' };
    const first = own(t, await startServer({ env, dataDir }));
    const { url } = first;
    const args = ['--url', url, '--connections', '20', '--json'];
    const isUnderWay = async (key: string): Promise<boolean> => ((await sumOf(url, key)) ?? 0n) > 100n;
    const begin = (prefix: string, ...more: readonly string[]): LoadCommand =>
      new LoadCommand([...args, '--duration', '600', '--prefix', prefix, ...more]);
    const plain = begin('plain:', '--keys', 'zipf');
    const exact = begin('exact:', '--keys', 'zipf', '--idempotency-keys');
    await eventually('the loads', async () => (await isUnderWay('plain:000')) && (await isUnderWay('exact:000')));
    first.kill('SIGKILL');
    await first.ended;
    const second = own(t, await startServer({ env: { ...env, PORT: new URL(url).port }, dataDir }));
    const sums = (): Promise<(bigint | undefined)[]> =>
      Promise.all(['plain:000', 'exact:000'].map((key) => sumOf(url, key)));
    const atRestart = await sums();
    await eventually('the loads go on', async () =>
      (await sums()).every((sum, index) => (sum ?? 0n) > (atRestart[index] ?? 0n)),
    );
    for (const { child } of [plain, exact]) child.kill('SIGINT');
    const plainEnd = await plain.report();
    assert.equal(plainEnd.code, 0, plainEnd.report.verdict.sentence);
    // One on each connection, and another where a connection was lost again at once.
    assert.ok(plainEnd.report.requests.unknown <= 40, JSON.stringify(plainEnd.report.requests));
    assert.ok(plainEnd.report.lost_connections >= 20);
    const exactEnd = await exact.report();
    assert.equal(exactEnd.code, 0, exactEnd.report.verdict.sentence);
    assert.equal(exactEnd.report.requests.unknown, 0);
    assert.equal(exactEnd.report.verdict.grown, String(exactEnd.report.increments.acknowledged));
    const { unknown } = plainEnd.report.requests;
    const { resent } = exactEnd.report.requests;
    assert.ok(unknown + resent > 0, 'no request was in flight');

    const last = begin('last:', '--keys', 'fixed', '--wait', '0');
    await eventually('the last load', () => isUnderWay('last:0'));
    assert.equal((await increment(url, { other: 1 })).status, 202);
    second.kill('SIGKILL');
    await second.ended;
    last.child.kill('SIGTERM');
    const lastEnd = await last.report();
    assert.equal(lastEnd.code, 1);
    assert.equal(lastEnd.report.verdict.kind, 'unread');
    assert.match(lastEnd.report.verdict.sentence, /^Not known whether .* ECONNREFUSED/);
    const third = await startServer({ env, dataDir });
    await assertCleanStop(third);
  });
});
