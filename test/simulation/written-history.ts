/**
 * A fixed history instead of a random one, for cases that are too rare in random histories.
 */
import assert from 'node:assert/strict';
import { ClientRequest, type Fate } from './expectations.js';
import type { Mutations } from './mutations.js';
import { clockOf, Life } from './scheduler.js';
import { SimulatedNode, type NodeSettings } from './simulated-node.js';
import type { Storage } from './storage.js';
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
  touchMs: 15_000,
  touchTimeMs: 60_000,
};

/** One world, with processes one after the other on its data directory. */
export class WrittenHistory {
  readonly world: World;
  readonly #nodeId: string;
  readonly #life = new Life((error) => this.world.violate(error));
  readonly #settings: NodeSettings;

  constructor(seed: number, settings: Partial<NodeSettings> = {}, mutations: Mutations = {}) {
    this.#settings = { ...SETTINGS, ...settings };
    this.world = new World(seed, mutations, undefined);
    this.#nodeId = this.world.uuid();
  }

  /** Starts a process on the data directory, or on a copy of it. */
  start(shards: number, storage: Storage = this.world.storage): SimulatedNode {
    const node = new SimulatedNode(this.world, storage, this.#settings, shards, this.#nodeId, 'node');
    void node.start();
    return node;
  }

  /** Starts a process, and settles when it takes increments. */
  async startServing(shards: number): Promise<SimulatedNode> {
    const node = this.start(shards);
    await this.until(() => node.refusal === undefined);
    return node;
  }

  /** The wall-clock time of every process, in ms since 1970. */
  now(): number {
    return clockOf(this.world.scheduler, this.#life).now();
  }

  /** Runs events until the condition holds; fails after a minute, or `ms`. */
  async until(condition: () => boolean, ms = 60_000): Promise<void> {
    const { scheduler } = this.world;
    const isMet = await scheduler.run(condition, scheduler.now + ms, () => this.world.throwViolation());
    assert.ok(isMet, 'the condition is never met');
  }

  /** The answer of GET /readyz in short. */
  readinessOf(node: SimulatedNode): string {
    const { readiness } = node;
    return readiness.state === 'refusing' ? readiness.code : readiness.state;
  }

  /** Runs events for this time. */
  async pass(ms: number): Promise<void> {
    const { scheduler } = this.world;
    let isOver = false;
    scheduler.after(ms, this.#life, () => (isOver = true));
    await this.until(() => isOver, ms + 1);
  }

  /** Commits pending increments. */
  async flush(node: SimulatedNode): Promise<void> {
    let isFlushed = false;
    void node.flushAll().then(() => (isFlushed = true));
    await this.until(() => isFlushed);
  }

  /** Sends one increment of a key; resolves to its outcome. */
  async count(node: SimulatedNode, key: string): Promise<Fate> {
    const request = this.send(node, key);
    await this.until(() => request.fate !== 'in flight');
    return request.fate;
  }

  /** Sends one increment of a key, and does not wait. */
  send(node: SimulatedNode, key: string, idempotencyKey?: string): ClientRequest {
    const request = new ClientRequest(key, [this.world.expectations.counter(key, 1)], idempotencyKey);
    node.submit(request.attempt(this.world.scheduler.now, () => undefined));
    return request;
  }

  /** Fails unless every acknowledged increment is committed once, and nothing else. */
  checkAll(): void {
    this.world.checkSums('the end', true);
  }
}
