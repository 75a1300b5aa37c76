import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DIGEST_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { KEYS_REMEMBERED, IdempotencyWindow } from '#product/shard-worker/thread/idempotency/idempotency-window.js';

const digest = new Uint8Array(DIGEST_BYTES).fill(1);
/** Differs from `digest` in the last byte only. */
const other = digest.with(DIGEST_BYTES - 1, 2);

/** A window that has seen `count` idempotency keys, each in a durable group of its own. */
function windowOf(count: number): IdempotencyWindow {
  const window = new IdempotencyWindow();
  for (let index = 0; index < count; index += 1) {
    assert.equal(window.admit(`key-${index}`, digest), 'new');
    window.endGroup(true);
  }
  return window;
}

test('at least the last 100,000 idempotency keys are known as duplicates, and as mismatches with other content', () => {
  assert.equal(KEYS_REMEMBERED, 100_000);
  // Before, at and after each change of generations.
  for (const count of [99_999, 100_000, 100_001, 200_000, 200_001, 250_000]) {
    const window = windowOf(count);
    for (let index = Math.max(0, count - KEYS_REMEMBERED); index < count; index += 1) {
      assert.equal(window.admit(`key-${index}`, digest), 'duplicate');
      assert.equal(window.admit(`key-${index}`, other), 'mismatch');
    }
  }
});

test('older idempotency keys are forgotten, so that the memory is bounded', () => {
  assert.equal(windowOf(2 * KEYS_REMEMBERED + 1).admit('key-0', digest), 'new');
});

test('an idempotency key of the group that is being journaled shares the outcome of that group', () => {
  const window = new IdempotencyWindow();
  assert.equal(window.admit('a', digest), 'new');
  assert.equal(window.admit('a', digest), 'in-group');
  assert.equal(window.admit('a', other), 'mismatch');
  window.endGroup(false);
  assert.equal(window.admit('a', other), 'new');
  window.endGroup(true);
  assert.equal(window.admit('a', other), 'duplicate');
  window.endGroup(false);
  assert.equal(window.admit('a', other), 'duplicate');
});

test('idempotency keys of groups that are not durable take no place', () => {
  const window = new IdempotencyWindow();
  for (let index = 0; index < 2 * KEYS_REMEMBERED; index += 1) {
    window.admit(`key-${index}`, digest);
    window.endGroup(true);
    if (index % 3 !== 0) continue;
    window.admit(`failed-${index}`, other);
    window.endGroup(false);
  }
  for (let index = KEYS_REMEMBERED; index < 2 * KEYS_REMEMBERED; index += 1) {
    assert.equal(window.admit(`key-${index}`, digest), 'duplicate');
  }
});
