import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { runStatements } from '../../support/database-connection.js';
import { eventually } from '../../support/eventually.js';
import { FlushHold } from '../../support/flush-hold.js';
import { flushAll, increment, onConnections, send } from '../../support/http.js';
import { imbalances, MetricsPage, scrape } from '../../support/metrics.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { promtool, promtoolMissing } from '../../support/promtool.js';
import { startServer } from '../../support/server.js';
import { SuiteServer } from '../../support/suite-server.js';
import { own, ownDirectory } from '../../support/own.js';

const MONITORING = join(import.meta.dirname, '../../../../monitoring');
const NEVER_MS = '3600000';

/** Every metric of ours with its type and its labels besides `le`. */
const METRICS: Readonly<Record<string, readonly [type: string, ...labels: string[]]>> = {
  build_info: ['gauge', 'journal', 'node', 'role', 'uws', 'version'],
  http_requests_total: ['counter', 'route', 'status'],
  increments_accepted_total: ['counter', 'shard'],
  increments_recovered_total: ['counter', 'shard'],
  increments_adopted_total: ['counter', 'shard'],
  increments_flushed_total: ['counter', 'shard'],
  increments_deduplicated_total: ['counter', 'shard'],
  increments_handed_over_total: ['counter', 'shard'],
  increments_rejected_total: ['counter', 'shard'],
  increments_lost_total: ['counter', 'shard'],
  increments_pending: ['gauge', 'shard'],
  refusals_total: ['counter', 'code'],
  idempotency_replays_total: ['counter', 'shard'],
  idempotency_mismatches_total: ['counter', 'shard'],
  pending_keys: ['gauge', 'shard'],
  pending_keys_limit: ['gauge'],
  pending_bytes: ['gauge', 'shard'],
  pending_bytes_limit: ['gauge'],
  journal_bytes: ['gauge', 'shard'],
  journal_bytes_limit: ['gauge', 'shard'],
  journal_segments: ['gauge', 'shard'],
  in_flight_bytes: ['gauge', 'shard'],
  in_flight_bytes_limit: ['gauge', 'shard'],
  oldest_pending_seconds: ['gauge', 'shard'],
  ack_seconds: ['histogram'],
  journal_sync_seconds: ['histogram', 'shard'],
  flush_seconds: ['histogram', 'shard'],
  batch_requests: ['histogram'],
  group_records: ['histogram'],
  flush_keys: ['histogram'],
  database_available: ['gauge'],
  journal_available: ['gauge'],
  ready: ['gauge'],
  idempotency_rows: ['gauge'],
  idempotency_rows_limit: ['gauge'],
  pruning_held_seconds: ['gauge'],
  shard_restarts_total: ['counter', 'shard'],
  flush_retries_total: ['counter', 'shard'],
  fenced_total: ['counter', 'shard'],
  http_connections: ['gauge'],
  watchers: ['gauge'],
};

/** What the page of a server has of ours: type and labels of each metric. */
function metricsOf(page: MetricsPage): Record<string, readonly string[]> {
  const found = Array.from(page.types, ([fullName, type]) => ({
    name: fullName.replace(/^summing_counters_/, ''),
    type,
  }))
    .filter(({ name }) => page.types.has(`summing_counters_${name}`))
    .map(({ name, type }) => {
      const series = page.of(type === 'histogram' ? `${name}_bucket` : name);
      const labels = new Set(series.flatMap(({ labels }) => Object.keys(labels)));
      labels.delete('le');
      return [name, [type, ...[...labels].sort()]] as const;
    });
  return Object.fromEntries(found);
}

describe('GET /metrics', () => {
  const held = new FlushHold();
  after(() => held.release());
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: NEVER_MS, MAX_PENDING_KEYS: '50' });

  test('every metric exists from the start with HELP and TYPE, and counters are 0 before anything has happened', async () => {
    const page = await scrape(node.url);
    assert.deepEqual(metricsOf(page), METRICS);
    for (const name of page.types.keys()) assert.ok((page.help.get(name) ?? '') !== '', name);
    for (const { name, value } of page.series) {
      if (/^summing_counters_.*_(total|bucket|sum|count)$/.test(name) && !/journal_sync|http_requests/.test(name))
        assert.equal(value, 0, name);
    }
    assert.equal(page.total('watchers'), 0);
  });

  test('the page is text/plain of version 0.0.4, and HEAD has no body', async () => {
    const answer = await send(node.url, '/metrics');
    assert.equal(answer.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
    const head = await send(node.url, '/metrics', { method: 'HEAD' });
    assert.deepEqual([head.status, head.body], [200, '']);
  });

  test('requests, increments, batches and what is pending are counted exactly', async () => {
    const before = await scrape(node.url);
    for (let request = 0; request < 20; request += 1) assertCreated(await increment(node.url, { one: 1, two: 2 }));
    assertProblem(await increment(node.url, { broken: 1.5 }), 'invalid-request');
    assert.equal((await send(node.url, '/nowhere')).status, 404);
    assert.equal((await send(node.url, '/key_sum?name=never')).status, 404);
    const page = await scrape(node.url);
    const more = (name: string, labels = {}): number => page.total(name, labels) - before.total(name, labels);
    assert.equal(more('increments_accepted_total'), 40);
    assert.equal(more('increments_pending'), 40);
    assert.equal(more('pending_keys'), 2);
    assert.equal(more('http_requests_total', { route: '/increment', status: '202' }), 20);
    assert.equal(more('http_requests_total', { route: '/increment', status: '400' }), 1);
    assert.equal(more('http_requests_total', { route: 'unknown', status: '404' }), 1);
    assert.equal(more('http_requests_total', { route: '/key_sum', status: '404' }), 1);
    assert.equal(more('refusals_total', { code: 'invalid-request' }), 1);
    assert.ok(more('batch_requests_count') >= 20 && more('ack_seconds_count') >= 20);
    assert.equal(more('batch_requests_sum'), more('ack_seconds_count'));
    assert.ok(more('group_records_count') >= 20 && more('journal_sync_seconds_count') >= 20);
    assert.ok(page.total('oldest_pending_seconds') > 0 && page.total('oldest_pending_seconds') < 60);
    assert.equal(page.total('journal_segments'), 2);

    await flushAll(node.url);
    const flushed = await scrape(node.url);
    assert.equal(flushed.total('increments_flushed_total') - before.total('increments_flushed_total'), 40);
    assert.equal(flushed.total('increments_pending'), 0);
    assert.equal(flushed.total('oldest_pending_seconds'), 0);
    assert.equal(flushed.total('flush_keys_sum') - before.total('flush_keys_sum'), 2);
    assert.ok(flushed.total('flush_seconds_sum') > 0);
    assert.deepEqual([...imbalances(flushed).values()], [0, 0]);
  });

  test('replays and duplicates of idempotent requests are counted', async () => {
    const before = await scrape(node.url);
    const headers = { 'idempotency-key': 'metrics-once' };
    for (let times = 0; times < 3; times += 1) assertCreated(await increment(node.url, { once: 1 }, { headers }));
    assertProblem(await increment(node.url, { once: 2 }, { headers }), 'idempotency-mismatch');
    await flushAll(node.url);
    const page = await scrape(node.url);
    assert.equal(page.total('idempotency_replays_total') - before.total('idempotency_replays_total'), 2);
    assert.equal(page.total('refusals_total', { code: 'idempotency-mismatch' }), 1);
    const rows = async (): Promise<number> => (await scrape(node.url)).total('idempotency_rows');
    await eventually('the row is counted', async () => (await rows()) - before.total('idempotency_rows') === 1);
  });

  test('a request refused at a bound is counted as overloaded', async () => {
    await held.hold(node.databaseUrl);
    const keys = Array.from({ length: 51 }, (_, index) => [`bound-${index}`, 1]);
    assertProblem(await increment(node.url, Object.fromEntries(keys)), 'overloaded');
    await held.release();
    assert.equal((await scrape(node.url)).total('refusals_total', { code: 'overloaded' }), 1);
  });

  test('open connections are counted', async (t) => {
    const agents = Array.from({ length: 30 }, () => own(t, new Agent({ keepAlive: true, maxSockets: 1 })));
    await Promise.all(agents.map((agent) => send(node.url, '/healthz', { agent })));
    const connections = (await scrape(node.url)).total('http_connections');
    assert.ok(connections >= 30 && connections <= 33, String(connections));
    for (const agent of agents) agent.destroy();
    await eventually('the connections are closed', async () => (await scrape(node.url)).total('http_connections') < 5);
  });

  test('GET /version names the versions, and --version prints the same on one line', async () => {
    const answer = await send(node.url, '/version');
    assert.equal(answer.status, 200);
    const { version, uws, node: nodeVersion, ...others } = JSON.parse(answer.body) as Record<string, string>;
    assert.match(version ?? '', /^\d+\.\d+\.\d+$/);
    assert.match(uws ?? '', /^20\.\d+$/);
    assert.equal(nodeVersion, process.versions.node);
    assert.deepEqual(others, {});
    const main = join(import.meta.dirname, '../../../../dist/main.js');
    assert.equal(execFileSync(process.execPath, [main, '--version'], { encoding: 'utf8' }), `${answer.body}\n`);
    const [info] = (await scrape(node.url)).of('build_info');
    assert.deepEqual(info?.labels, { version, uws, node: nodeVersion, journal: 'file', role: 'serve' });
  });
});

describe('promtool', { skip: promtoolMissing() }, () => {
  test('promtool check rules accepts the alerts, and their cases come true', () => {
    assert.equal(promtool(['check', 'rules', join(MONITORING, 'alerts.yml')]), '');
    assert.equal(promtool(['test', 'rules', join(MONITORING, 'alerts.test.yml')]), '');
  });

  test('promtool check rules accepts the queries of the dashboard', async (t) => {
    const dashboard = readFileSync(join(MONITORING, 'grafana-dashboard.json'), 'utf8');
    const { panels } = JSON.parse(dashboard) as { panels: { targets?: { expr: string }[] }[] };
    const queries = panels.flatMap(({ targets = [] }) =>
      targets.map(({ expr }) => expr.replaceAll('$__rate_interval', '5m')),
    );
    assert.ok(queries.length > 20);
    const rules = queries.map((expr, index) => ({ record: `query:${index}`, expr }));
    const directory = await ownDirectory(t);
    // JSON is YAML.
    const file = join(directory, 'queries.yml');
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));
    assert.equal(promtool(['check', 'rules', file]), '');
  });
});

describe('GET /metrics with three HTTP threads', () => {
  const node = new SuiteServer({ HTTP_THREADS: '3', SHARDS: '2' });

  test('every connection gets the numbers of all HTTP threads', async () => {
    await onConnections(60, async (agent) => assertCreated(await increment(node.url, { k: 1 }, { agent })));
    await onConnections(60, async (agent) => {
      const page = new MetricsPage((await send(node.url, '/metrics', { agent })).body);
      assert.equal(page.total('http_requests_total', { route: '/increment', status: '202' }), 60);
      assert.equal(page.total('increments_accepted_total'), 60);
      assert.equal(page.total('ack_seconds_count'), 60);
    });
  });

  test('promtool check metrics has nothing to say against the page', { skip: promtoolMissing() }, async () => {
    assertCreated(await increment(node.url, { 'a"b\\c\n': 1 }));
    assert.equal(promtool(['check', 'metrics'], (await send(node.url, '/metrics')).body), '');
  });
});

test('metrics and version need a token of scope read, and are answered while the server waits for its database', async (t) => {
  const postgres = own(t, await OutagePostgres.prepare());
  const env = { DATABASE_URL: postgres.url, AUTH_TOKENS: 'read:reader write:writer', JOURNAL: 'memory', SHARDS: '1' };
  const server = own(t, await startServer({ env, until: '"msg":"Database ' }));
  for (const path of ['/metrics', '/version']) {
    assertProblem(await send(server.url, path), 'unauthorized');
    assertProblem(await send(server.url, path, { headers: { authorization: 'Bearer writer' } }), 'forbidden');
    assert.equal((await send(server.url, path, { headers: { authorization: 'Bearer reader' } })).status, 200);
  }
  const page = await scrape(server.url, { authorization: 'Bearer reader' });
  assert.equal(page.total('ready'), 0);
  assert.equal(page.total('database_available'), 0);
  assert.equal(page.total('http_requests_total', { route: '/metrics', status: '401' }), 1);
  assert.equal(page.total('journal_bytes_limit'), Number.POSITIVE_INFINITY);
});

test('an outage of the database shows in the metrics while it lasts', async (t) => {
  const postgres = own(t, await OutagePostgres.prepare());
  await postgres.start();
  const server = own(
    t,
    await startServer({ env: { DATABASE_URL: postgres.url, SHARDS: '1', FLUSH_INTERVAL_MS: '100' } }),
  );
  await eventually('available', async () => (await scrape(server.url)).total('database_available') === 1);
  await postgres.stop('fast');
  assertCreated(await increment(server.url, { later: 1 }));
  await eventually('unavailable', async () => (await scrape(server.url)).total('database_available') === 0);
  await eventually('a flush is retried', async () => (await scrape(server.url)).total('flush_retries_total') > 0);
  const page = await scrape(server.url);
  assert.equal(page.total('ready'), 1);
  assert.equal(page.total('increments_pending'), 1);
  assert.ok(page.total('oldest_pending_seconds') > 0);
  await postgres.start();
  await eventually('flushed', async () => (await scrape(server.url)).total('increments_flushed_total') === 1);
  await eventually('available again', async () => (await scrape(server.url)).total('database_available') === 1);
});

test('a silent stream shows as held pruning in the metrics', async (t) => {
  const database = own(t, await createTestDatabase());
  const env = { DATABASE_URL: database.url, SHARDS: '1' };
  const first = await startServer({ env });
  assertCreated(await increment(first.url, { k: 1 }));
  // Not stopped: that would close the stream.
  await first.dispose();
  await runStatements(database.url, `update journal_checkpoints set accepted_through = now() - interval '1000 s'`);
  const second = own(t, await startServer({ env }));
  await eventually('the hold is known', async () => (await scrape(second.url)).total('pruning_held_seconds') >= 1000);
});
