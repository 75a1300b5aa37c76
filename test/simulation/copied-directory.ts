/** A world with a data directory and copies of it, for histories that are written out. */
import assert from 'node:assert/strict';
import { JournalError } from '#product/core/errors.js';
import type { Statement } from '#product/db/connection.js';
import { Violation } from './expectations.js';
import type { Mutations } from './mutations.js';
import type { Life } from './scheduler.js';
import type { SimulatedNode } from './simulated-node.js';
import { SimulatedPruner } from './simulated-pruner.js';
import type { Storage } from './storage.js';
import { WrittenHistory } from './written-history.js';

/** Nothing is flushed unless a case says so. */
export class Copies extends WrittenHistory {
  /** Lives of threads that cannot connect to the database. */
  readonly #refused = new Set<Life>();
  #refuses = false;

  constructor(mutations: Mutations, touchMs = 15_000) {
    super(1, { flushIntervalMs: 30_000, touchMs, touchTimeMs: touchMs }, mutations);
    const { database } = this.world;
    const connect = database.connect.bind(database);
    database.connect = (life) => {
      if (this.#refuses) this.#refused.add(life);
      const { network } = database;
      if (this.#refused.has(life)) database.network = 'gone';
      const session = connect(life);
      database.network = network;
      return session;
    };
  }

  copy(): Storage {
    this.world.circumstances.copied = true;
    return this.world.storage.copy();
  }

  /** A process that starts without the database, and does not find it until {@link admit}. It counts a key in a new stream. */
  async startRefused(): Promise<SimulatedNode> {
    this.#refuses = true;
    this.world.database.network = 'gone';
    const node = await this.startServing(1);
    assert.equal(await this.count(node, 'a'), 'acknowledged');
    // The flusher wants the row of the stream, and keeps the id of a claim for it.
    await node.flushAll().catch(() => undefined);
    await this.pass(1000);
    this.#refuses = false;
    this.world.database.network = 'fine';
    return node;
  }

  /** From now on every process finds the database. */
  admit(): void {
    this.#refused.clear();
  }

  async recovered(storage?: Storage): Promise<SimulatedNode> {
    const node = this.start(1, storage);
    await this.until(() => node.isRecovered && node.refusal === undefined);
    return node;
  }

  async stop(node: SimulatedNode): Promise<void> {
    void node.terminate();
    await this.until(() => node.end === 'drained');
  }

  /** The process refuses its directory, which holds what no other has. If it does not, nothing may be missing in the end. */
  async checkRefused(node: SimulatedNode): Promise<void> {
    await this.until(() => node.end !== undefined || node.isRecovered);
    if (node.end === undefined) {
      await this.stop(node);
      this.checkAll();
    }
    assert.ok(node.reason instanceof JournalError && node.reason.code === 'journal-copied', String(node.reason));
  }

  /** Holds the next statement with this text back. Returns what sends it, as often as it is called. */
  holdNext(text: string): { readonly isHeld: boolean; readonly release: () => void } {
    const { database } = this.world;
    const submit = database.submit.bind(database);
    const held: (() => void)[] = [];
    database.submit = (session, statement: Statement, resolve, reject) => {
      if (statement.text !== text || held.length > 0) submit(session, statement, resolve, reject);
      else held.push(() => submit(session, statement, resolve, reject));
    };
    return {
      get isHeld() {
        return held.length > 0;
      },
      release: () => {
        for (const send of held) send();
      },
    };
  }

  /**
   * A process keeps an idempotent request pending that another node counts, too. The window passes, with a pruner at work; then
   * the process flushes. Before the window `meanwhile` happens.
   */
  async flushAfterWindow(node: SimulatedNode, meanwhile: () => void = () => undefined): Promise<void> {
    const { database, scheduler } = this.world;
    const request = this.send(node, 'retried', 'key');
    await this.until(() => request.fate === 'acknowledged');
    const { digest, sums } = request;
    const attempt = request.attempt(scheduler.now, () => undefined);
    assert.equal(database.countElsewhere({ idempotencyKey: 'key', digest, sums: [...sums] }), true);
    attempt.settle(undefined);
    meanwhile();
    const pruner = new SimulatedPruner(this.world, { windowHours: 1, expiryDays: 0, paceMs: 20 }, 'pruner');
    pruner.start();
    const { windowHourMs, marginMs } = database.clock.scale;
    await this.pass(2 * (windowHourMs + marginMs));
    pruner.crash();
    await this.flush(node);
    this.checkAll();
  }
}

/** Whether a history failed because an acknowledged increment is missing. */
export function isLoss(error: unknown): boolean {
  return error instanceof Violation && error.message.endsWith('was acknowledged and is missing');
}

/** Whether a history failed because an increment counts twice. */
export function isDouble(error: unknown): boolean {
  return error instanceof Violation && error.message.includes('counts 2 times');
}
