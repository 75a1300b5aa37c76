/**
 * A request that is taken back leaves no trace: two routers get the same requests, one of them further requests that are
 * taken back at once, as uWebSockets.js aborts a request behind which it finds malformed bytes.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Refusal } from '#product/core/bounds.js';
import type { PendingReply } from '#product/core/increment.js';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import type { BatchAnswer, BatchKind, BatchMessage } from '#product/shard-worker/protocol/batches.js';
import {
  DIGEST_BYTES,
  digestStart,
  idempotentRequestEnd,
  isIncrement,
  incrementEnd,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
} from '#product/shard-worker/protocol/record-layout.js';
import { makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import { BATCH_BYTES_MAX } from '#product/shard-worker/client/outgoing-batch.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ShardRouter } from '#product/shard-worker/client/shard-router.js';
import { makeReservations, SharedReservations } from '#product/shard-worker/client/shared-reservations.js';
import { ManualClock } from '../../../support/manual-clock.js';
import { Mulberry32 } from '../../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../../support/random-runs.js';

const SHARDS = 3;
const KEYS_MAX = 1_000_000;

/** What a shard received: the entries and increments of all batches of each kind. */
interface Received {
  readonly entries: Map<BatchKind, Buffer>;
  increments: number;
  batches: number;
}

class Reply implements PendingReply {
  readonly outcomes: string[] = [];

  settle(refusal: Refusal | undefined): void {
    this.outcomes.push(refusal ?? 'created');
  }
}

/** A router with shards that answer when the test says so. */
class RoutedShards {
  readonly shared = new SharedReservations(makeReservations(SHARDS));
  readonly stats = makeStats(SHARDS);
  readonly received: Received[] = [];
  readonly clock = new ManualClock();
  readonly clients: ShardClient[];
  readonly router: ShardRouter;
  readonly #scanner = new IncrementBodyScanner({ keyBytesMax: 2048 });
  readonly #answers: ((answer: BatchAnswer) => void)[] = [];
  readonly #unanswered: number[] = [];
  readonly #ends: (() => void)[] = [];

  constructor() {
    this.clients = Array.from({ length: SHARDS }, (_, shard) => {
      const release = (increments: number, bytes: number): void => this.shared.release(shard, increments, bytes);
      return new ShardClient(this.clock, { release });
    });
    const limits = {
      pendingKeysMax: KEYS_MAX,
      pendingBytesMax: 1e9,
      journalBytesMax: 1e9,
      windowBytesMax: 1e9,
      ackTimeoutMs: 1000,
      idempotencyRoom: () => 1e9,
    };
    this.router = new ShardRouter(this.clients, this.stats, limits, (end) => this.#ends.push(end), this.shared);
    for (const [shard, client] of this.clients.entries()) this.#connect(shard, client);
  }

  #connect(shard: number, client: ShardClient): void {
    const received: Received = { entries: new Map(), increments: 0, batches: 0 };
    this.received.push(received);
    this.#unanswered.push(0);
    client.connect({
      listen: (callback) => (this.#answers[shard] = callback),
      receive: () => undefined,
      post: ({ kind, memory }: BatchMessage) => {
        const view = new DataView(memory);
        const entries = entriesOf(view);
        received.entries.set(kind, Buffer.concat([received.entries.get(kind) ?? Buffer.alloc(0), entries]));
        received.increments += view.getUint32(RECORD_OFFSET.increments, true);
        received.batches += 1;
        this.#unanswered[shard] = (this.#unanswered[shard] ?? 0) + 1;
      },
      close: () => undefined,
    });
    this.router.setShardAdmission(shard, 'open');
  }

  submit(body: string, idempotencyKey: string, reply: Reply): Refusal | undefined {
    const increments = this.#scanner.scan(Buffer.from(body), false);
    if (idempotencyKey === '') return this.router.submit(increments, reply);
    return this.router.submitIdempotent(idempotencyKey, increments, reply);
  }

  get batches(): number {
    return this.received.reduce((total, { batches }) => total + batches, 0);
  }

  endTurn(): void {
    for (const end of this.#ends.splice(0)) end();
  }

  /** Ends turns until everything is posted and answered. */
  settle(): void {
    for (let rounds = 0; !this.router.isIdle; rounds += 1) {
      assert.ok(rounds < 1000, 'requests are never posted');
      this.endTurn();
      this.clock.advance(10);
      for (const [shard, answer] of this.#answers.entries()) {
        const count = this.#unanswered[shard] ?? 0;
        this.#unanswered[shard] = 0;
        if (count > 0) answer(count);
      }
    }
  }

  /** Everything that requests have reserved, by shard. */
  get reserved(): readonly (readonly number[])[] {
    return this.clients.map((client, shard) => [
      client.reservedIncrements,
      client.reservedBytes,
      this.shared.increments(shard),
      this.shared.bytes(shard),
    ]);
  }

  /** At MAX_PENDING_KEYS, or not. */
  setFull(full: boolean): void {
    const row = statsRow(this.stats, 0);
    row[STAT.pendingKeys] = full ? KEYS_MAX : 0;
  }
}

const NOTHING = Array.from({ length: SHARDS }, () => [0, 0, 0, 0]);

/** The entries of a batch, without the digests, which the shard computes. */
function entriesOf(view: DataView): Buffer {
  const end = view.getUint32(RECORD_OFFSET.bytes, true);
  const bytes = Buffer.from(new Uint8Array(view.buffer, 0, end));
  for (let at = RECORD_HEADER_BYTES; at < end;) {
    if (isIncrement(view, at)) at = incrementEnd(view, at);
    else {
      bytes.fill(0, digestStart(at), digestStart(at) + DIGEST_BYTES);
      at = idempotentRequestEnd(view, at);
    }
  }
  return bytes.subarray(RECORD_HEADER_BYTES);
}

function keys(count: number, prefix: string): string {
  return JSON.stringify(Object.fromEntries(Array.from({ length: count }, (_, key) => [`${prefix}-${key}`, 1])));
}

void test('a request over several shards that is taken back is in no batch, and its room is free', () => {
  const shards = new RoutedShards();
  const stays = new Reply();
  const gone = new Reply();
  assert.equal(shards.submit(keys(20, 'stays'), '', stays), undefined);
  const reserved = shards.reserved;
  assert.equal(shards.submit(keys(50, 'gone'), '', gone), undefined);
  assert.notDeepEqual(shards.reserved, reserved);
  shards.router.withdraw(gone);
  assert.deepEqual(shards.reserved, reserved);
  shards.settle();
  assert.deepEqual(shards.reserved, NOTHING);
  assert.equal(
    shards.received.reduce((total, { increments }) => total + increments, 0),
    20,
  );
  assert.deepEqual([stays.outcomes, gone.outcomes], [['created'], []]);
});

void test('no request is posted while it is submitted, at the key bound, in full batches or beyond a slot', () => {
  for (const full of [false, true]) {
    const shards = new RoutedShards();
    shards.setFull(full);
    for (const body of ['{"k":1}', `{"${'long'.repeat(500)}":1}`, keys(5000, 'many')].slice(0, full ? 2 : 3)) {
      for (let times = 0; times < 40; times += 1) {
        const gone = new Reply();
        assert.equal(shards.submit(body, '', gone), undefined);
        const { batches } = shards;
        const reserved = shards.reserved;
        shards.router.withdraw(gone);
        assert.notDeepEqual(shards.reserved, reserved, 'was posted at once');
        assert.equal(shards.submit(body, '', new Reply()), undefined);
        assert.equal(shards.batches, batches, 'has room where the withdrawn request was');
      }
    }
    shards.settle();
    assert.deepEqual(shards.reserved, NOTHING);
  }
});

void test('at the key bound each request is a batch, posted at the end of its turn while the shard is busy', () => {
  const shards = new RoutedShards();
  shards.setFull(true);
  for (let times = 1; times <= 5; times += 1) {
    assert.equal(shards.submit('{"k":1}', '', new Reply()), undefined);
    assert.equal(shards.batches, times - 1);
    shards.endTurn();
    assert.equal(shards.batches, times);
  }
  for (let times = 0; times < 3; times += 1) shards.submit('{"k":1}', '', new Reply());
  assert.equal(shards.batches, 7, 'the next request posts the one before');
  shards.endTurn();
  assert.equal(shards.batches, 8);
});

void test('a request that is posted, answered, refused or withdrawn, and one behind which another came, stays as it is', () => {
  const shards = new RoutedShards();
  const [first, second] = [new Reply(), new Reply()];
  shards.submit('{"k":1}', '', first);
  shards.submit('{"k":2}', '', second);
  const reserved = shards.reserved;
  shards.router.withdraw(first);
  shards.router.withdraw(new Reply());
  assert.deepEqual(shards.reserved, reserved);
  shards.router.withdraw(second);
  const withdrawn = shards.reserved;
  // Its size is not known any more, so this must not take away the size of the second.
  shards.router.withdraw(first);
  shards.router.withdraw(second);
  assert.deepEqual(shards.reserved, withdrawn);
  shards.endTurn();
  shards.router.withdraw(first);
  assert.deepEqual(shards.reserved, withdrawn);
  shards.settle();
  shards.router.withdraw(first);
  assert.deepEqual([first.outcomes, second.outcomes, shards.reserved], [['created'], [], NOTHING]);
});

void test('a request whose part is posted keeps its other parts', () => {
  const shards = new RoutedShards();
  const split = new Reply();
  assert.equal(shards.submit(keys(50, 'split'), '', split), undefined);
  shards.clients[1]?.endTurn();
  const reserved = shards.reserved;
  shards.router.withdraw(split);
  assert.deepEqual(shards.reserved, reserved);
  shards.settle();
  assert.deepEqual(split.outcomes, ['created']);
});

void test('memory beyond a slot that a withdrawn request took is not used for others', () => {
  const shards = new RoutedShards();
  const large = new Reply();
  assert.equal(shards.submit(keys(900, 'k'.repeat(1000)), '', large), undefined);
  shards.router.withdraw(large);
  let bytes = 0;
  for (let times = 0; times < 300; times += 1, bytes += 1000) {
    assert.equal(shards.submit(`{"${'x'.repeat(986)}":1}`, '', new Reply()), undefined);
  }
  assert.equal(shards.batches, Math.floor(bytes / (BATCH_BYTES_MAX - RECORD_HEADER_BYTES)));
});

const seed = seedOfRun();
const random = new Mulberry32(seed);

/** A random request: its body, and its idempotency key or ''. */
function randomRequest(prefix: string): readonly [body: string, idempotencyKey: string] {
  const count = random.pick([1, 1, 1, 2, 3, 20, 200]);
  const key = random.below(5) === 0 ? prefix + 'x'.repeat(random.below(1500)) : prefix;
  return [keys(count, key), random.below(3) === 0 ? `key-${prefix}` : ''];
}

void test(`what shards get and routers reserve is the same with and without requests that are taken back (SEED=${seed})`, () => {
  for (let run = 0; run < countOfRuns(40); run += 1) {
    const [plain, disturbed] = [new RoutedShards(), new RoutedShards()];
    const replies: [Reply, Reply][] = [];
    for (let request = 0; request < 60; request += 1) {
      const isFull = random.below(4) === 0;
      for (const shards of [plain, disturbed]) shards.setFull(isFull);
      if (random.below(2) === 0) {
        const gone = new Reply();
        disturbed.submit(...randomRequest(`gone-${request}`), gone);
        disturbed.router.withdraw(gone);
        replies.push([new Reply(), gone]);
      }
      const stays = randomRequest(`stays-${request}`);
      const pair: [Reply, Reply] = [new Reply(), new Reply()];
      assert.equal(disturbed.submit(...stays, pair[1]), plain.submit(...stays, pair[0]));
      replies.push(pair);
      assert.deepEqual(disturbed.reserved, plain.reserved);
      if (random.below(10) === 0) for (const shards of [plain, disturbed]) shards.settle();
    }
    for (const shards of [plain, disturbed]) shards.settle();
    for (const [shard, { entries, increments }] of plain.received.entries()) {
      assert.deepEqual(disturbed.received[shard]?.entries, entries);
      assert.equal(disturbed.received[shard]?.increments, increments);
    }
    assert.deepEqual(disturbed.reserved, NOTHING);
    for (const [{ outcomes: without }, { outcomes: withOthers }] of replies) assert.deepEqual(withOthers, without);
  }
});
