/** What the dashboard says in words. Its files are JavaScript for browsers, and these run in Node.js, too. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DashboardDocument } from '#product/http/documents.js';

interface HealthModule {
  readonly Growth: new () => {
    add(atMs: number, bounds: DashboardDocument['bounds']): void;
    secondsLeft(bounds: DashboardDocument['bounds']): number;
  };
  readonly healthOf: (
    document: DashboardDocument,
    secondsLeft: number,
  ) => Readonly<Record<'level' | 'title' | 'detail', string>>;
}

/** Built beside the product, without declarations. */
async function load<T>(file: string): Promise<T> {
  return (await import(new URL(`../../../../../dist/http/dashboard/${file}`, import.meta.url).href)) as T;
}

const { Growth, healthOf } = await load<HealthModule>('health.js');
const text = await load<{
  readonly duration: (seconds: number) => string;
  readonly bytes: (value: number) => string;
  readonly grouped: (digits: string) => string;
}>('text.js');

const GIB = 1024 ** 3;

function bounds(journalBytes: number, pendingKeys = 0): DashboardDocument['bounds'] {
  return [
    { name: 'pendingKeys', now: pendingKeys, most: 1_000, setting: 'MAX_PENDING_KEYS' },
    { name: 'journalBytes', now: journalBytes, most: GIB, setting: 'JOURNAL_MAX_BYTES' },
  ];
}

function documentWith(
  health: Partial<DashboardDocument['health']>,
  more: { readonly pending?: number; readonly lost?: number; readonly journal?: string } = {},
): DashboardDocument {
  return {
    points: [],
    server: {
      version: '1',
      node: '22',
      uws: '20',
      journal: more.journal ?? 'file',
      role: 'serve',
      shards: 1,
      httpThreads: 1,
      flushIntervalMs: 1000,
      upSeconds: 1,
      residentBytes: 1,
    },
    health: {
      state: 'ok',
      code: null,
      reason: null,
      isJournalAvailable: true,
      databaseUnavailableSeconds: null,
      databaseReason: null,
      ...health,
    },
    balance: {
      accepted: 0,
      recovered: 0,
      adopted: 0,
      flushed: 0,
      pending: more.pending ?? 0,
      deduplicated: 0,
      handedOver: 0,
      rejected: 0,
      lost: more.lost ?? 0,
    },
    refusals: [],
    bounds: more.journal === 'memory' ? [] : bounds(GIB / 2),
    shards: [],
    hotKeys: [],
  };
}

test('an outage is said with what waits, and for how long there is room', () => {
  const away = { state: 'degraded', databaseUnavailableSeconds: 12 } as const;
  assert.deepEqual(healthOf(documentWith(away, { pending: 4103 }), 3 * 3600), {
    level: 'warn',
    title: 'PostgreSQL unavailable for 12 s',
    detail: '4,103 increments wait in the journal, room for 3 h at this rate.',
  });
  assert.equal(
    healthOf(documentWith(away, { pending: 1 }), Number.POSITIVE_INFINITY).detail,
    '1 increment waits in the journal, room for 512 MiB more.',
  );
  assert.equal(
    healthOf(documentWith(away, { pending: 2, journal: 'memory' }), Number.POSITIVE_INFINITY).detail,
    '2 increments wait in memory, none arrive now.',
  );
});

test('what refuses increments comes first, then an outage, then what is lost', () => {
  const code = 'overloaded';
  const refusing = { state: 'refusing', code, reason: 'A bound is reached.', databaseUnavailableSeconds: 90 } as const;
  assert.deepEqual(healthOf(documentWith(refusing), 1), {
    level: 'bad',
    title: 'New increments are refused',
    detail: 'A bound is reached. PostgreSQL has been unavailable for 90 s.',
  });
  assert.equal(healthOf(documentWith({ state: 'refusing', code: 'journal-unavailable' }), 1).level, 'bad');
  assert.equal(healthOf(documentWith({ state: 'refusing', code: 'draining' }), 1).title, 'Shutting down');
  assert.equal(healthOf(documentWith({}, { lost: 3 }), 1).title, 'Increments are lost');
  assert.equal(healthOf(documentWith({ reason: 'Rows are kept.' }), 1).level, 'warn');
  assert.equal(healthOf(documentWith({}), 1).level, 'ok');
});

test('the room is that of the bound which is reached first, at the rate of the last seconds', () => {
  const growth = new Growth();
  assert.equal(growth.secondsLeft(bounds(0)), Number.POSITIVE_INFINITY);
  for (let second = 0; second <= 60; second += 1)
    growth.add(second * 1000, bounds(second < 40 ? 0 : (second - 40) * 1024 ** 2));
  // 1 MiB a second; 1,004 MiB are left.
  assert.ok(Math.abs(growth.secondsLeft(bounds(20 * 1024 ** 2)) - 1004) < 2);
  for (let second = 61; second <= 80; second += 1) growth.add(second * 1000, bounds(20 * 1024 ** 2, second * 10));
  assert.equal(Math.round(growth.secondsLeft(bounds(20 * 1024 ** 2, 800))), 20);
});

test('times, sizes and long integers as text', () => {
  const times = [0.44, 9, 12.4, 119, 120, 7_000, 7_200, 200_000].map(text.duration);
  assert.deepEqual(times, ['0.4 s', '9 s', '12 s', '119 s', '2 min', '117 min', '2 h', '2 days']);
  assert.deepEqual([0, 1023, 1024, 1.5 * GIB].map(text.bytes), ['0 B', '1,020 B', '1 KiB', '1.5 GiB']);
  assert.deepEqual(['-1', '-1234567', '123', '27021597764222961'].map(text.grouped), [
    '−1',
    '−1,234,567',
    '123',
    '27,021,597,764,222,961',
  ]);
});
