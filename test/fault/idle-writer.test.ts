/**
 * A writer that has nothing to write learns that its stream was taken over, also where the one that took it is gone before it
 * has finished it. Otherwise the stream would stay open, and hold the pruning of idempotency keys, for as long as it is idle.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually } from '../support/eventually.js';
import { createLogDatabase, makeSharedShard, openLog, type ShardLine } from '../support/shared-shard.js';

test('an idle writer whose stream was taken over goes on as a new one', async () => {
  const database = await createLogDatabase();
  const other = openLog(database.url, true);
  const lines: ShardLine[] = [];
  const streamsOf = (event: string): readonly string[] =>
    lines.filter(({ message }) => message.startsWith(event)).map(({ stream }) => stream);
  const shard = makeSharedShard('ingest', openLog(database.url, false), { roundMs: 20, wordMs: 100 }, lines);
  try {
    await shard.start();
    const [stream = ''] = streamsOf('Began a stream');
    const found = (await other.incrementLog.survey()).streams.find((survey) => survey.stream === stream);
    assert.ok(found?.isWritten === true);
    const taken = await other.incrementLog.take(stream, found.epoch, true);
    assert.equal(taken?.isAdopted, true);
    await eventually('a new stream', () => Promise.resolve(streamsOf('Began a stream').length === 2));
    assert.deepEqual(streamsOf('No longer writing the stream'), [stream]);
  } finally {
    await shard.drain();
    await other.incrementLog.close();
    await other.database.close();
    await database.drop();
  }
});
