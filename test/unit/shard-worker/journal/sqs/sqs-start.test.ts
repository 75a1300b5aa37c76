import assert from 'node:assert/strict';
import { test } from 'node:test';
import { queueProblems, type QueueAttributes } from '#product/shard-worker/journal/sqs/sqs-start.js';

const good: QueueAttributes = { FifoQueue: 'true', MessageRetentionPeriod: '1209600', DelaySeconds: '0' };

test('a FIFO queue that keeps messages for 14 days and moves none away can hold the journal', () => {
  assert.deepEqual(queueProblems(good), []);
});

test('each attribute by which a queue could lose records is a problem of its own', () => {
  const cases: readonly (readonly [QueueAttributes, RegExp])[] = [
    [{ FifoQueue: 'false' }, /standard queue/],
    [{ RedrivePolicy: '{"maxReceiveCount":3}' }, /RedrivePolicy/],
    [{ MessageRetentionPeriod: '1209599' }, /drops records that are not flushed.*1209600/],
    [{ MessageRetentionPeriod: '86400' }, /for 1 day,/],
    [{ MessageRetentionPeriod: '60' }, /for 60 s/],
    [{ DelaySeconds: '5' }, /DelaySeconds 5/],
  ];
  for (const [attributes, problem] of cases) {
    const problems = queueProblems({ ...good, ...attributes });
    assert.equal(problems.length, 1);
    assert.match(problems[0] ?? '', problem);
  }
  assert.equal(queueProblems({}).length, 2, 'attributes that are missing are not taken for good ones');
});
