import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { ServerOperations, type ServerOperationsDeps } from '#product/server/server-operations.js';

test('a read during which a stream is handed over is refused until its sums are committed', async () => {
  const supervisor = {
    isRecovered: true,
    streams: ['of this server'],
    pendingOf: () => {
      // Another server takes the stream between the snapshot and the answer of its shard.
      Object.assign(supervisor, { isRecovered: false, streams: [] });
      return Promise.resolve([[null]]);
    },
  };
  const store = { readCounters: () => Promise.resolve({ counters: [undefined], checkpoints: new Map() }) };
  const deps = { store: () => store, supervisor: () => supervisor, role: 'serve' };
  const operations = new ServerOperations(deps as unknown as ServerOperationsDeps);
  const read = operations.read([Buffer.from('key')]);
  await assert.rejects(read, (error) => error instanceof CounterError && error.code === 'database-unavailable');
});
