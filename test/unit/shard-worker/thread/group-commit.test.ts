/** The time up to which group commit has settled every posted batch; `accepted_through` is derived from it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import type { Lsn } from '#product/core/checkpoint.js';
import { RECORD_HEADER_BYTES, RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import type { BatchAnswer, BatchMessage } from '#product/shard-worker/protocol/batches.js';
import type { HttpServerPort } from '#product/shard-worker/protocol/batch-ports.js';
import { GroupCommit, type GroupTarget } from '#product/shard-worker/thread/group-commit.js';
import { ManualClock } from '../../../support/manual-clock.js';
import { incrementEntries } from '../../../support/record-entries.js';

interface Append {
  readonly resolve: (lsn: Lsn) => void;
  readonly reject: (error: unknown) => void;
}

/** Group commit over one port, with a journal that answers when the test says so. */
class Scene {
  readonly clock = new ManualClock();
  readonly appends: Append[] = [];
  readonly answers: BatchAnswer[] = [];
  readonly failures: unknown[] = [];
  readonly groups: GroupCommit;
  applied = 0;
  journal: () => Lsn | Promise<Lsn>;
  readonly #waiting: BatchMessage[] = [];

  constructor() {
    this.journal = () => new Promise((resolve, reject) => this.appends.push({ resolve, reject }));
    const port: HttpServerPort = {
      listen: () => undefined,
      receive: () => this.#waiting.shift(),
      post: (answer) => this.answers.push(answer),
      close: () => undefined,
    };
    const target: GroupTarget = {
      append: () => this.journal(),
      apply: (group) => (this.applied += group.length),
      admitKey: () => 'new',
      lookUpKey: () => 'new',
      endGroup: () => undefined,
      holds: () => false,
      failed: (error) => this.failures.push(error),
    };
    this.groups = new GroupCommit([port], target, this.clock);
    this.groups.start();
  }

  /** A batch arrives, without an event: it waits until the ports are read. */
  post(): void {
    const entries = incrementEntries([['k', 1]]);
    const buffer = new ArrayBuffer(RECORD_HEADER_BYTES + entries.length);
    new Uint8Array(buffer).set(entries, RECORD_HEADER_BYTES);
    new DataView(buffer).setUint32(RECORD_OFFSET.bytes, buffer.byteLength, true);
    this.#waiting.push({ kind: 'plain', memory: buffer });
  }

  async settle(how: (append: Append) => void): Promise<void> {
    const append = this.appends.shift();
    assert.ok(append !== undefined);
    how(append);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test('with empty ports everything is settled as of now', () => {
  const scene = new Scene();
  scene.clock.advance(60_000);
  assert.equal(scene.groups.settledThroughMs(), scene.clock.now());
});

test('batches that wait on the ports are applied before the time returned is now', () => {
  const scene = new Scene();
  scene.journal = () => 1;
  scene.post();
  scene.clock.advance(5000);
  assert.equal(scene.groups.settledThroughMs(), scene.clock.now());
  assert.equal(scene.applied, 1);
});

test('while a group is under way only earlier batches are settled, and after it those up to its start', async () => {
  const scene = new Scene();
  const before = scene.groups.settledThroughMs();
  scene.clock.advance(1000);
  scene.post();
  scene.clock.advance(1000);
  const taken = scene.clock.now();
  assert.equal(scene.groups.settledThroughMs(), before);
  // For the next group, so that it follows the first at once.
  scene.clock.advance(1000);
  scene.post();
  assert.equal(scene.groups.settledThroughMs(), before);
  await scene.settle(({ resolve }) => resolve(1));
  assert.equal(scene.applied, 1);
  assert.equal(scene.groups.settledThroughMs(), taken);
  scene.clock.advance(1000);
  await scene.settle(({ resolve }) => resolve(2));
  assert.equal(scene.groups.settledThroughMs(), scene.clock.now());
});

test('a group that the journal refused with nothing kept is settled', async () => {
  const scene = new Scene();
  scene.post();
  scene.clock.advance(1000);
  scene.groups.settledThroughMs();
  await scene.settle(({ reject }) => reject(new JournalError('journal-full', 'full')));
  assert.deepEqual(scene.answers, [{ refused: 1, refusal: 'journal-bytes' }]);
  assert.equal(scene.groups.settledThroughMs(), scene.clock.now());
});

for (const how of ['at once', 'later'] as const) {
  test(`a group that a journal may have kept when it failed ${how} is never settled`, async () => {
    const scene = new Scene();
    const before = scene.groups.settledThroughMs();
    const failure = new JournalError('journal-failed', 'failed');
    if (how === 'at once') {
      scene.journal = () => {
        throw failure;
      };
    }
    scene.clock.advance(1000);
    scene.post();
    assert.equal(scene.groups.settledThroughMs(), before);
    if (how === 'later') await scene.settle(({ reject }) => reject(failure));
    scene.clock.advance(1000);
    assert.equal(scene.groups.settledThroughMs(), before);
    assert.deepEqual(scene.failures, [failure]);
  });
}
