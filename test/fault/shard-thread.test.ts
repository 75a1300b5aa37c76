/**
 * A shard thread throws or ends in the middle of its work.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { hashKey, shardOfHash } from '#product/core/key-hash.js';
import { faultEnvironment, type Fault } from '../support/fault-injection.js';
import { testNode } from '../support/node-test.js';

function keyOfShard(shard: number, shards: number): string {
  for (let index = 0; ; index += 1) {
    const key = Buffer.from(`mixed/${index}`);
    if (shardOfHash(hashKey(key, 0, key.length), shards) === shard) return key.toString();
  }
}

const env = { FLUSH_INTERVAL_MS: '100' };

const ends: readonly (readonly [string, Pick<Fault, 'step' | 'action'>])[] = [
  ['throws before it has written a batch', { step: 'append', action: 'throw' }],
  ['throws after it has synced a batch', { step: 'synced', action: 'throw' }],
  ['throws instead of acknowledging', { step: 'acknowledge', action: 'throw' }],
  ['ends after it has written a batch', { step: 'appended', action: 'exit-thread' }],
  ['ends instead of acknowledging', { step: 'acknowledge', action: 'exit-thread' }],
  ['ends when it flushes', { step: 'flush', action: 'exit-thread' }],
];

for (const [how, fault] of ends) {
  testNode(
    `a shard thread that ${how} is restarted, the other continues, and everything is counted once`,
    env,
    async ({ node, directory }) => {
      const at = fault.step === 'flush' ? 3 : 30;
      const once = path.join(directory, 'once');
      const server = await node.start(faultEnvironment({ ...fault, at, once }));
      const load = node.load();
      await server.waitFor('"msg":"A shard ended"');
      const answers = await Promise.all([0, 1].map((shard) => node.addZero(keyOfShard(shard, 2))));
      assert.ok(
        answers.some((answer) => answer?.status === 202),
        'one of two shards takes increments all the time',
      );
      await load.acknowledgements(200);
      await node.finish(server);
    },
  );
}

testNode(
  'with three HTTP threads, each learns of a shard that ends and connects to the next, and everything is counted once',
  { ...env, HTTP_THREADS: '3' },
  async ({ node, directory }) => {
    const once = path.join(directory, 'once');
    const server = await node.start(faultEnvironment({ step: 'acknowledge', action: 'exit-thread', at: 30, once }));
    const load = node.load();
    await server.waitFor('"msg":"A shard ended"');
    await load.acknowledgements(500);
    await node.finish(server);
  },
);

testNode(
  'a shard whose threads all die ends the process with a non-zero code, and the next start counts what was acknowledged',
  env,
  async ({ node }) => {
    const doomed = await node.start(faultEnvironment({ step: 'appended', at: 2, action: 'throw' }));
    node.load();
    const { code, signal } = await doomed.ended;
    assert.equal(signal, null);
    assert.ok(code !== null && code > 0, doomed.output);
    assert.match(doomed.output, /cannot go on/);
    const server = await node.start();
    await node.finish(server);
  },
);
