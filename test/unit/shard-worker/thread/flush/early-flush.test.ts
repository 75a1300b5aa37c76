import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '#product/config/read-config.js';
import { earlyFlush } from '#product/shard-worker/thread/flush/early-flush.js';

function boundsOf(env: Readonly<Record<string, string>>, shards: number): ReturnType<typeof earlyFlush> {
  return earlyFlush(readConfig({ SHARDS: String(shards), ...env }), shards);
}

test('with the defaults FLUSH_MAX_KEYS is reached before the share of MAX_PENDING_KEYS', () => {
  assert.deepEqual(boundsOf({}, 4), {
    keysMax: 10_000,
    bytesMax: Math.floor((256 * 1024 ** 2) / 12),
    recordBytesMax: 256 * 1024 ** 2,
  });
});

test('a shard flushes at a third of its share of small bounds, and with one key at the least', () => {
  assert.equal(boundsOf({ MAX_PENDING_KEYS: '2000' }, 2).keysMax, 333);
  assert.equal(boundsOf({ MAX_PENDING_KEYS: '4' }, 4).keysMax, 1);
});

test('a memory journal has no bytes that a flush must release', () => {
  assert.equal(boundsOf({ JOURNAL: 'memory' }, 1).recordBytesMax, Number.POSITIVE_INFINITY);
});
