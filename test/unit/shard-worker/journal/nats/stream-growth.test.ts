import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { StreamGrowth } from '#product/shard-worker/journal/nats/stream-growth.js';

const STREAM = 'stream';
const OPEN = new Set([STREAM]);
const NEVER = Number.NEGATIVE_INFINITY;

describe('the growth of streams in a broker', () => {
  let growth: StreamGrowth;
  let messages: number;

  /** Lists the subjects each second. */
  function list(fromMs: number, toMs: number, isGrowing: boolean): void {
    for (let now = fromMs; now <= toMs; now += 1000) {
      if (isGrowing) messages += 1;
      growth.noteList(new Map([[STREAM, messages]]), OPEN, now);
    }
  }

  beforeEach(() => {
    growth = new StreamGrowth();
    messages = 5;
  });

  test('a stream that grows has a writer, though its row shows no life', () => {
    list(0, 20_000, true);
    assert.equal(growth.mayBeWritten(STREAM, NEVER, 20_500), true);
    assert.equal(growth.mayBeWritten(STREAM, 10_000, 20_500), true);
    assert.equal(growth.mayBeWritten(STREAM, NEVER, 26_000), false);
  });

  test('what a writer wrote soon after its last sign of life is no further one', () => {
    list(0, 13_000, true);
    list(14_000, 16_000, false);
    assert.equal(growth.mayBeWritten(STREAM, 10_000, 16_100), false);
  });

  test('a purge is no growth', () => {
    list(0, 5000, false);
    messages = 2;
    list(6000, 7000, false);
    assert.equal(growth.mayBeWritten(STREAM, NEVER, 7100), false);
  });

  test('a stream that was not seen for long may have a writer', () => {
    list(0, 0, false);
    assert.equal(growth.mayBeWritten(STREAM, NEVER, 3000), true);
    list(1000, 4000, false);
    assert.equal(growth.mayBeWritten(STREAM, NEVER, 4000), false);
    assert.equal(growth.mayBeWritten('another', NEVER, 4000), false);
  });
});
