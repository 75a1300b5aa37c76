/**
 * Small cases on the simulation's time: one process after the other on one data directory, and what a test lets happen.
 */
import assert from 'node:assert/strict';
import { ClientRequest, type Fate } from './expectations.js';
import { clockOf, Life } from './scheduler.js';
import { SimulatedNode, type NodeSettings } from './simulated-node.js';
import { World } from './world.js';

const SETTINGS: NodeSettings = {
  syncPolicy: 'always',
  journalBytesMax: 1 << 30,
  segmentBytes: 8192,
  keepSeconds: 5,
  flushIntervalMs: 200,
  flushKeysMax: 1000,
  pendingKeysMax: 1000,
  windowBytesMax: 1 << 20,
  ackTimeoutMs: 5000,
};
/** What {@link Case.countKeys} counts. */
export const KEYS = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/** A world with one node in it, if any. */
export class Case {
  readonly world: World;
  readonly #nodeId: string;
  readonly #life = new Life((error) => this.world.violate(error));
  readonly #settings: NodeSettings;

  constructor(seed: number, settings: Partial<NodeSettings> = {}) {
    this.#settings = { ...SETTINGS, ...settings };
    this.world = new World(seed, {}, undefined);
    this.#nodeId = this.world.uuid();
  }

  /** A process starts. */
  start(shards: number): SimulatedNode {
    const node = new SimulatedNode(this.world, this.world.storage, this.#settings, shards, this.#nodeId, 'node');
    void node.start();
    return node;
  }

  /** The time on every process's wall, ms since 1970. */
  now(): number {
    return clockOf(this.world.scheduler, this.#life).now();
  }

  /** Runs the world until the condition is met; fails where it is not within a minute of its time. */
  async until(condition: () => boolean): Promise<void> {
    const { scheduler } = this.world;
    const isMet = await scheduler.run(condition, scheduler.now + 60_000, () => this.world.throwViolation());
    assert.ok(isMet, 'the condition is never met');
  }

  /** Lets time pass. */
  async pass(ms: number): Promise<void> {
    const { scheduler } = this.world;
    let isOver = false;
    scheduler.after(ms, this.#life, () => (isOver = true));
    await this.until(() => isOver);
  }

  /** Two shards take one increment of each key. */
  async countKeys(): Promise<SimulatedNode> {
    const node = this.start(2);
    await this.until(() => node.refusal === undefined);
    const outcomes = await this.outcomesOf(node, KEYS);
    assert.ok(outcomes.every((fate) => fate === 'acknowledged'));
    assert.equal(node.streams.length, 2);
    return node;
  }

  /** One increment of each key, and what became of it. */
  async outcomesOf(node: SimulatedNode, keys: readonly string[]): Promise<readonly Fate[]> {
    const requests = keys.map((key) => {
      const request = new ClientRequest(key, [this.world.expectations.counter(key, 1)], undefined);
      node.submit(request.attempt(() => undefined));
      return request;
    });
    await this.until(() => requests.every(({ fate }) => fate !== 'in flight'));
    return requests.map(({ fate }) => fate);
  }

  /** Two shards count and die, and the next process, which has one, has recovered both of their streams. */
  async leaveOver(): Promise<{ readonly node: SimulatedNode; readonly leftOver: string }> {
    (await this.countKeys()).crash();
    const node = this.start(1);
    await this.until(() => node.isRecovered && node.streams.length === 2);
    const [, leftOver = ''] = node.streams;
    return { node, leftOver };
  }

  /** Whether the database has the stream for finished. */
  isRetired(stream: string): boolean {
    return this.world.database.tables.checkpoints.get(stream)?.retired === true;
  }

  /** Another process takes over, which recovers what the database has lost. */
  async restartUntilCommitted(node: SimulatedNode): Promise<SimulatedNode> {
    await this.pass(300);
    node.crash();
    const next = this.start(1);
    await this.until(() => this.isAllCommitted);
    return next;
  }

  get isAllCommitted(): boolean {
    return KEYS.every((key) => this.world.sumOf(key) === 1n);
  }
}
