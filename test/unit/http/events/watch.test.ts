import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import type { EventStream } from '#product/http/events/event-stream.js';
import { Watchers } from '#product/http/events/watch.js';

/** What a stream was told: sums with their times. */
class Told {
  readonly events: { readonly sum: number; readonly atMs: number }[] = [];
  isOver = false;

  write(events: Uint8Array): void {
    for (const [, sum] of Buffer.from(events)
      .toString()
      .matchAll(/"sum":(\d+)/g))
      this.events.push({ sum: Number(sum), atMs: performance.now() });
  }

  get stream(): EventStream {
    return this as unknown as EventStream;
  }
}

interface Reading {
  readonly answer: (sum: number) => void;
}

/** Reads that a test answers, each with the sum as it was when the read began. */
function gated(): { readonly watchers: Watchers; readonly reads: Reading[] } {
  const reads: Reading[] = [];
  const read = (keys: readonly Uint8Array[]) =>
    new Promise<{ sum: number; committed: number; pending: number; updatedAt: null }[]>((resolve) => {
      const answer = (sum: number): void =>
        resolve(keys.map(() => ({ sum, committed: sum, pending: 0, updatedAt: null })));
      reads.push({ answer });
    });
  const reportBug = (error: unknown): void => {
    throw new Error('a bug', { cause: error });
  };
  return { watchers: new Watchers({ read }, { keyBytesMax: 512, reportBug }), reads };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, what);
    await sleep(1);
  }
}

test('a watcher that joins while its phase is read is not told what is older', async () => {
  const { watchers, reads } = gated();
  const key = [Buffer.from('k')];
  const first = new Told();
  const stopFirst = watchers.add(first.stream, key);
  await until('the first read', () => reads.length === 1);
  reads[0]?.answer(53);
  await until('the first event', () => first.events.length === 1);
  // The phase of the first watcher is read, which takes a while.
  await until('the read of the phase', () => reads.length === 2);
  const second = new Told();
  const stopSecond = watchers.add(second.stream, key);
  await until('the read of the second watcher', () => reads.length === 3);
  reads[2]?.answer(54);
  await until('the first event of the second', () => second.events.length === 1);
  await sleep(5);
  reads[1]?.answer(53);
  await sleep(20);
  assert.deepEqual(
    second.events.map(({ sum }) => sum),
    [54],
  );
  stopFirst();
  stopSecond();
});

test('a slow read does not bring two events of a watcher close together', async () => {
  const { watchers, reads } = gated();
  const told = new Told();
  const stop = watchers.add(told.stream, [Buffer.from('k')]);
  for (let read = 0; read < 5; read += 1) {
    await until(`read ${read}`, () => reads.length > read);
    if (read === 1) await sleep(900);
    reads[read]?.answer(read + 1);
  }
  await until('the last event', () => told.events.at(-1)?.sum === 5);
  stop();
  const times = told.events.map(({ atMs }) => atMs);
  for (const [index, at] of times.entries())
    if (index > 0) assert.ok(at - (times[index - 1] ?? 0) > 850, String(times));
});
