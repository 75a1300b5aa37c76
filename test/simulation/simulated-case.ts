/**
 * Small cases in simulated time: streams of two shards, and a process with one shard that finds them.
 */
import assert from 'node:assert/strict';
import type { Fate } from './expectations.js';
import type { SimulatedNode } from './simulated-node.js';
import { WrittenHistory } from './written-history.js';

/** The keys that {@link Case.countKeys} counts. */
export const KEYS = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/** A world with one node in it, if any. */
export class Case extends WrittenHistory {
  /** Two shards take one increment of each key. */
  async countKeys(): Promise<SimulatedNode> {
    const node = await this.startServing(2);
    const outcomes = await this.outcomesOf(node, KEYS);
    assert.ok(outcomes.every((fate) => fate === 'acknowledged'));
    assert.equal(node.streams.length, 2);
    return node;
  }

  /** One increment of each key, and its outcome. */
  async outcomesOf(node: SimulatedNode, keys: readonly string[]): Promise<readonly Fate[]> {
    const requests = keys.map((key) => this.send(node, key));
    await this.until(() => requests.every(({ fate }) => fate !== 'in flight'));
    return requests.map(({ fate }) => fate);
  }

  /** Two shards count and die, and the next process, which has one, has recovered both of their streams. */
  async leaveOver(): Promise<{ readonly node: SimulatedNode; readonly orphaned: string }> {
    (await this.countKeys()).crash();
    const node = this.start(1);
    await this.until(() => node.isRecovered && node.streams.length === 2);
    const [, orphaned = ''] = node.streams;
    return { node, orphaned };
  }

  /** Whether the stream is retired in the database. */
  isRetired(stream: string): boolean {
    return this.world.database.tables.checkpoints.get(stream)?.retiredAt !== undefined;
  }

  /** Another process takes over and recovers what the database has lost. */
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
