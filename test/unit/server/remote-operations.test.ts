import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { RemoteOperations } from '#product/server/http-threads/remote-operations.js';

test('10,000 operations may wait for the main thread, and one more is refused until one is answered', async () => {
  const posted: number[] = [];
  const operations = new RemoteOperations((id) => posted.push(id));
  const [first] = Array.from({ length: 10_000 }, () => operations.flush());
  await assert.rejects(
    operations.metrics(),
    (error) =>
      error instanceof CounterError && error.code === 'overloaded' && error.detail.startsWith('10000 operations'),
  );
  assert.equal(posted.length, 10_000);
  operations.resolve(posted[0] ?? 0, 5);
  assert.equal(await first, 5);
  void operations.flush();
  assert.equal(posted.length, 10_001);
});
