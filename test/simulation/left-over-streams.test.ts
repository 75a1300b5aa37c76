/**
 * Cases of left-over streams that random histories meet too seldom: one process had two shards, the next has one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ClientRequest } from './expectations.js';
import { SimulatedNode, type NodeSettings } from './simulated-node.js';
import { World } from './world.js';

const SETTINGS: NodeSettings = {
  syncPolicy: 'always',
  journalBytesMax: 1 << 30,
  segmentBytes: 8192,
  keepSeconds: 60,
  flushIntervalMs: 200,
  flushKeysMax: 1000,
  pendingKeysMax: 1000,
  windowBytesMax: 1 << 20,
  ackTimeoutMs: 5000,
};
const KEYS = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

class Case {
  readonly world: World;
  readonly #nodeId: string;

  constructor(seed: number) {
    this.world = new World(seed, {}, undefined);
    this.#nodeId = this.world.uuid();
  }

  start(shards: number): SimulatedNode {
    const node = new SimulatedNode(this.world, this.world.storage, SETTINGS, shards, this.#nodeId, 'node');
    void node.start();
    return node;
  }

  async until(condition: () => boolean): Promise<void> {
    const { scheduler } = this.world;
    const isMet = await scheduler.run(condition, scheduler.now + 60_000, () => this.world.throwViolation());
    assert.ok(isMet, 'the condition is never met');
  }

  /** Two shards take one increment of each key. */
  async countKeys(): Promise<SimulatedNode> {
    const node = this.start(2);
    await this.until(() => node.refusal === undefined);
    const requests = KEYS.map((key) => {
      const request = new ClientRequest(key, [this.world.expectations.counter(key, 1)], undefined);
      node.submit(request.attempt(() => undefined));
      return request;
    });
    await this.until(() => requests.every(({ fate }) => fate === 'acknowledged'));
    assert.equal(node.streams.length, 2);
    return node;
  }

  /** Another process takes over, which recovers what the database has lost. */
  async restartUntilCommitted(node: SimulatedNode): Promise<SimulatedNode> {
    const { scheduler } = this.world;
    const until = scheduler.now + 300;
    this.world.scheduler.after(300, node.life, () => undefined);
    await this.until(() => scheduler.now >= until);
    node.crash();
    const next = this.start(1);
    await this.until(() => this.isAllCommitted);
    return next;
  }

  get isAllCommitted(): boolean {
    return KEYS.every((key) => this.world.sumOf(key) === 1n);
  }
}

test('a read from before the last flush of a left-over stream is made again once the stream is gone', async () => {
  const history = new Case(1);
  const first = await history.countKeys();
  first.crash();
  const second = history.start(1);
  await history.until(() => second.isRecovered && second.streams.length === 2);
  const { checkpoints } = history.world.database.tables;
  const seen = new Map(second.streams.map((stream) => [stream, checkpoints.get(stream) ?? null]));
  await history.until(() => second.streams.length === 1);
  const answers = KEYS.map((key) => second.pendingOf(Buffer.from(key), seen));
  let isAnswered = false;
  void Promise.all(answers).then(() => (isAnswered = true));
  await history.until(() => isAnswered);
  for (const answer of await Promise.all(answers)) assert.deepEqual(answer, ['again']);
});

test('a left-over stream stays where the database goes back in time between its last flush and its removal', async () => {
  // At every step after the flush, since it takes a statement of another stream in between.
  for (let steps = 0; steps < 60; steps += 1) {
    const history = new Case(steps);
    const { database, scheduler } = history.world;
    const first = await history.countKeys();
    first.crash();
    const second = history.start(1);
    await history.until(() => second.isRecovered && second.streams.length === 2);
    const before = database.snapshot();
    const [, leftOver = ''] = second.streams;
    await history.until(() => (database.tables.checkpoints.get(leftOver)?.lsn ?? 0) > 0);
    const until = scheduler.steps + (steps % 12);
    await history.until(() => scheduler.steps >= until);
    // A journal that is gone cannot be asked again.
    if (database.tables.checkpoints.get(leftOver)?.retired === true) continue;
    database.failOver(before);
    const third = await history.restartUntilCommitted(second);
    assert.equal(third.end, undefined);
  }
});
