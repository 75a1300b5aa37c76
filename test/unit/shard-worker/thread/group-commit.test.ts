/** Which batches a group takes, when it waits, and what its batches are answered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { REFUSALS } from '#product/core/bounds.js';
import { JournalError } from '#product/core/errors.js';
import type { Lsn } from '#product/core/checkpoint.js';
import { RECORD_HEADER_BYTES, RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import { IDEMPOTENT_OUTCOME, type BatchAnswer, type BatchMessage } from '#product/shard-worker/protocol/batches.js';
import type { HttpServerPort } from '#product/shard-worker/protocol/batch-ports.js';
import { GroupCommit, type GroupTarget } from '#product/shard-worker/thread/group-commit.js';
import { idempotentEntry, incrementEntries } from '../../../support/record-entries.js';

const STARTING = IDEMPOTENT_OUTCOME.refused + REFUSALS.indexOf('starting');

interface Append {
  readonly records: number;
  readonly resolve: (lsn: Lsn) => void;
  readonly reject: (error: unknown) => void;
}

/** Group commit over one port, with a journal that answers when the test says so. */
class Scene {
  readonly appends: Append[] = [];
  /** The times that the groups carry. */
  readonly times: (number | undefined)[] = [];
  heardTime = 0;
  readonly answers: BatchAnswer[] = [];
  readonly failures: unknown[] = [];
  readonly groups: GroupCommit;
  applied = 0;
  replays = 0;
  coversIdempotent = true;
  /** Records with earlier times are not covered. */
  coveredSince = 0;
  /** Waits for the row of the stream; each entry is one call that has to wait. */
  readonly openings: Promise<void>[] = [];
  /** Idempotency keys that the shard knows. */
  readonly known = new Set<string>();
  journal: (records: number) => Lsn | Promise<Lsn>;
  readonly #waiting: BatchMessage[] = [];
  #arrived: () => void = () => undefined;

  constructor() {
    this.journal = (records) => new Promise((resolve, reject) => this.appends.push({ records, resolve, reject }));
    const port: HttpServerPort = {
      listen: (arrived) => {
        this.#arrived = () => {
          const message = this.#waiting.shift();
          if (message !== undefined) arrived(message);
        };
      },
      receive: () => this.#waiting.shift(),
      post: (answer) => this.answers.push(answer),
      close: () => undefined,
    };
    this.groups = new GroupCommit([port], this.#target());
    this.groups.start();
  }

  /** A batch arrives without an event: it waits until the ports are read. */
  queue(kind: BatchMessage['kind'] = 'plain', entries: Buffer = incrementEntries([['k', 1]])): void {
    const buffer = new ArrayBuffer(RECORD_HEADER_BYTES + entries.length);
    new Uint8Array(buffer).set(entries, RECORD_HEADER_BYTES);
    new DataView(buffer).setUint32(RECORD_OFFSET.bytes, buffer.byteLength, true);
    this.#waiting.push({ kind, memory: buffer });
  }

  /** The ports are read, as after an event. */
  read(): void {
    this.#arrived();
  }

  post(kind?: BatchMessage['kind'], entries?: Buffer): void {
    this.queue(kind, entries);
    this.read();
  }

  async settle(how: (append: Append) => void): Promise<void> {
    const append = this.appends.shift();
    assert.ok(append !== undefined);
    how(append);
    await turn();
  }

  #target(): GroupTarget {
    const lookUpKey = (key: string): 'new' | 'duplicate' => (this.known.has(key) ? 'duplicate' : 'new');
    const heardTime = (): number => this.heardTime;
    return {
      open: () => this.openings.shift(),
      coversIdempotent: (time) => this.coversIdempotent && time >= this.coveredSince,
      isStale: () => false,
      groupBytesMax: Number.POSITIVE_INFINITY,
      get heardTime() {
        return heardTime();
      },
      append: (group, time) => {
        this.times.push(time);
        return this.journal(group.length);
      },
      apply: (group) => (this.applied += group.length),
      admitKey: lookUpKey,
      lookUpKey,
      endGroup: () => undefined,
      noticeReplays: (requests) => (this.replays += requests),
      holds: () => false,
      failed: (error) => this.failures.push(error),
    };
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

test('what arrives while the journal syncs a group gathers and is the next group', async () => {
  const scene = new Scene();
  scene.post();
  scene.queue();
  scene.queue();
  scene.read();
  assert.deepEqual([scene.appends.length, scene.applied, scene.answers], [1, 0, []]);
  await scene.settle(({ resolve }) => resolve(1));
  assert.deepEqual([scene.applied, scene.answers], [1, [1]]);
  assert.equal(scene.appends[0]?.records, 2);
  await scene.settle(({ resolve }) => resolve(3));
  assert.deepEqual([scene.applied, scene.answers], [3, [1, 2]]);
});

test('before the row of the stream is there a group waits, and what arrives meanwhile is of that group', async () => {
  const scene = new Scene();
  scene.journal = (records) => records;
  let end = (): void => undefined;
  scene.openings.push(new Promise((resolve) => (end = resolve)));
  scene.post();
  await turn();
  assert.deepEqual([scene.applied, scene.answers], [0, []]);
  scene.post();
  await turn();
  assert.deepEqual([scene.applied, scene.answers], [0, []]);
  end();
  await turn();
  assert.deepEqual([scene.applied, scene.answers], [2, [2]]);
});

test('empty ports wait for nothing', async () => {
  const scene = new Scene();
  scene.openings.push(new Promise(() => undefined));
  scene.read();
  await scene.groups.close();
  assert.deepEqual(scene.answers, []);
});

test('where no row covers idempotent requests, new ones are "starting", known ones answered, and plain ones taken', () => {
  const scene = new Scene();
  scene.journal = (records) => records;
  scene.coversIdempotent = false;
  scene.known.add('known');
  scene.post('idempotent', Buffer.concat([idempotentEntry('known', [['a', 1]]), idempotentEntry('new', [['a', 1]])]));
  assert.deepEqual(scene.answers, [{ outcomes: Uint8Array.of(IDEMPOTENT_OUTCOME.replayed, STARTING) }]);
  assert.equal(scene.replays, 1);
  assert.equal(scene.applied, 0);
  scene.post();
  assert.equal(scene.applied, 1);
  scene.coversIdempotent = true;
  scene.post('idempotent', idempotentEntry('new', [['a', 1]]));
  assert.deepEqual(scene.answers.at(-1), { outcomes: Uint8Array.of(IDEMPOTENT_OUTCOME.journaled) });
  assert.equal(scene.applied, 2);
});

test('an idempotent request in a group that carries a time before the row was seen is "starting"', async () => {
  const scene = new Scene();
  scene.coveredSince = 10;
  scene.post();
  scene.post();
  scene.heardTime = 10;
  scene.post('idempotent', idempotentEntry('new', [['a', 1]]));
  await scene.settle(({ resolve }) => resolve(1));
  await scene.settle(({ resolve }) => resolve(2));
  assert.deepEqual(scene.answers, [1, 1, { outcomes: Uint8Array.of(STARTING) }]);
  scene.post('idempotent', idempotentEntry('new', [['a', 1]]));
  await scene.settle(({ resolve }) => resolve(3));
  assert.deepEqual(scene.answers.at(-1), { outcomes: Uint8Array.of(IDEMPOTENT_OUTCOME.journaled) });
  assert.deepEqual(scene.times, [0, 0, 10]);
});

test('whether idempotent requests are covered is asked after the wait for the row', async () => {
  const scene = new Scene();
  scene.journal = (records) => records;
  scene.coversIdempotent = false;
  let end = (): void => undefined;
  scene.openings.push(new Promise((resolve) => (end = resolve)));
  scene.post('idempotent', idempotentEntry('new', [['a', 1]]));
  scene.coversIdempotent = true;
  end();
  await turn();
  assert.deepEqual(scene.answers, [{ outcomes: Uint8Array.of(IDEMPOTENT_OUTCOME.journaled) }]);
});

test('a group that the journal refused with nothing kept is refused, and the next one is taken', async () => {
  const scene = new Scene();
  scene.post();
  await scene.settle(({ reject }) => reject(new JournalError('journal-full', 'full')));
  assert.deepEqual(scene.answers, [{ refused: 1, refusal: 'journal-bytes' }]);
  assert.deepEqual([scene.applied, scene.failures], [0, []]);
  scene.post();
  await scene.settle(({ resolve }) => resolve(1));
  assert.deepEqual(scene.answers.at(-1), 1);
});

for (const how of ['at once', 'later'] as const) {
  test(`a group that a journal may have kept when it failed ${how} is unknown, and ends the shard`, async () => {
    const scene = new Scene();
    const failure = new JournalError('journal-failed', 'failed');
    if (how === 'at once') {
      scene.journal = () => {
        throw failure;
      };
    }
    scene.post();
    if (how === 'later') await scene.settle(({ reject }) => reject(failure));
    assert.deepEqual(scene.answers, [{ refused: 1, refusal: 'outcome-unknown' }]);
    assert.deepEqual([scene.applied, scene.failures], [0, [failure]]);
  });
}

test('a group carries the time that was heard when its oldest batch came', async () => {
  const scene = new Scene();
  scene.heardTime = 100;
  scene.post();
  scene.post('idempotent', idempotentEntry('first', [['k', 1]]));
  scene.heardTime = 200;
  scene.post('idempotent', idempotentEntry('second', [['k', 1]]));
  scene.heardTime = 300;
  await scene.settle(({ resolve }) => resolve(1));
  scene.heardTime = 400;
  scene.post();
  await scene.settle(({ resolve }) => resolve(3));
  assert.deepEqual(scene.times, [100, 100, 400]);
});
