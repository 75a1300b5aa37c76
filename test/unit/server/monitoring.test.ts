/** The alerts, the dashboard and their documentation name what the server has. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { metricDefinitions } from '#product/server/metrics/metric-definitions.js';

const root = join(import.meta.dirname, '../../../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const docs = read('docs/observing.md');
const alerts = read('monitoring/alerts.yml');

/** Names of our metrics as queries write them. */
const queried = new Set(
  metricDefinitions.flatMap(({ name, type }) =>
    type === 'histogram' ? ['bucket', 'sum', 'count'].map((part) => `${name}_${part}`) : [name],
  ),
);

for (const path of ['monitoring/alerts.yml', 'monitoring/alerts.test.yml', 'monitoring/grafana-dashboard.json']) {
  test(`${path} names existing metrics only`, () => {
    const names = new Set(Array.from(read(path).matchAll(/summing_counters_[a-z_]+/g), ([name]) => name));
    assert.ok(names.size > 5);
    assert.deepEqual(
      [...names].filter((name) => !queried.has(name)),
      [],
    );
  });
}

test('docs/observing.md describes every metric, and no other', () => {
  const [, section = ''] = docs.split('\n## Metrics\n');
  const rows = (section.split('\n## ')[0] ?? '').split('\n').filter((line) => line.startsWith('| `'));
  const described = rows.flatMap((row) =>
    Array.from((row.split(' | ')[0] ?? '').matchAll(/`([a-z_]+)`/g), ([, name]) => name),
  );
  const existing = metricDefinitions.map(({ name }) => name.replace('summing_counters_', ''));
  assert.deepEqual(described.toSorted(), existing.toSorted());
});

test('each alert has a runbook under its name in docs/observing.md', () => {
  const names = Array.from(alerts.matchAll(/^ +- alert: (\S+)$/gm), ([, name = '']) => name);
  const runbooks = Array.from(alerts.matchAll(/^ +runbook: docs\/observing\.md#(\S+)$/gm), ([, anchor]) => anchor);
  const headings = Array.from(docs.matchAll(/^### (SummingCounters\S+)$/gm), ([, name]) => name);
  assert.ok(names.length > 10);
  assert.deepEqual(
    runbooks,
    names.map((name) => name.toLowerCase()),
  );
  assert.deepEqual(headings.toSorted(), names.toSorted());
});

test('every panel of the dashboard has a query', () => {
  interface Panel {
    readonly type: string;
    readonly title: string;
    readonly targets?: readonly { readonly expr: string }[];
  }
  const { panels } = JSON.parse(read('monitoring/grafana-dashboard.json')) as { readonly panels: readonly Panel[] };
  for (const { type, title, targets = [] } of panels) assert.ok(type === 'row' || targets.length > 0, title);
});
