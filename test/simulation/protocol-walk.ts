/**
 * A random walk of nodes that follow the protocol, a pruner, a node that never fails and clients that retry within the window,
 * all on the simulated database: does it count each request once? The seed determines everything.
 */
import { Mulberry32 } from '../support/mulberry32.js';
import type { TimeScale } from './database/database-clock.js';
import type { DatabaseMutations } from './database/database-mutations.js';
import { Violation } from './expectations.js';
import { PostgresModel } from './postgres-model.js';
import { Directory, isKept, ProtocolNode, type ProtocolWorld } from './protocol-node.js';
import { Life, Scheduler } from './scheduler.js';
import { SimulatedPruner } from './simulated-pruner.js';

const SCALE: TimeScale = {
  rate: 100,
  windowHourMs: 200,
  marginMs: 100,
  expiryDayMs: 400,
  gapMs: 1000,
  hourMs: 300,
  tombstoneMs: 500,
  lockTimeoutMs: 5000,
  idleTimeoutMs: 10_000,
};
const WALK_MS = 6000;
const HEAL_MS = 60_000;
/** A client sends a request so long after its window at most: it was under way. Below the margin by two seconds of the database. */
const UNDER_WAY_MS = SCALE.marginMs - 20;

/** The result of a walk. */
export interface WalkResult {
  readonly violation: Error | undefined;
  /** Requests that were put aside. */
  readonly aside: number;
  readonly counted: number;
}

/** Runs the walk of `seed`. Without expiries nothing may be put aside. */
export async function walk(seed: number, mutations: DatabaseMutations, trace?: string[]): Promise<WalkResult> {
  const one = new Walk(seed, mutations, trace);
  const violation = await one.run();
  const { uncovered, counters } = one.database.tables;
  return { violation, aside: uncovered.length, counted: counters.size };
}

class Walk implements ProtocolWorld {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly database: PostgresModel;
  readonly #trace: string[] | undefined;
  readonly #life = new Life((error) => this.violate(error));
  readonly #directories = [new Directory(), new Directory()];
  readonly #nodes: (ProtocolNode | undefined)[] = [undefined, undefined];
  readonly #firstSent = new Map<string, number>();
  readonly #acknowledged = new Set<string>();
  readonly #expires: boolean;
  #pruner: SimulatedPruner | undefined;
  #violation: Error | undefined;
  #names = 0;
  #isOver = false;
  #deletions = 0;

  constructor(seed: number, mutations: DatabaseMutations, trace: string[] | undefined) {
    this.random = new Mulberry32(seed);
    this.#trace = trace;
    const watch = { sent: () => undefined, committed: () => this.#check() };
    this.database = new PostgresModel(this.scheduler, this.random, watch, mutations, this.uuid(), SCALE);
    this.#expires = this.random.below(2) === 0;
    this.database.slowness = this.random.pick([1, 3, 10, 20]);
  }

  note(what: () => string): void {
    this.#trace?.push(`${this.scheduler.now.toFixed(1).padStart(9)} ${what()}`);
  }

  violate(error: unknown): void {
    this.#violation ??= error instanceof Error ? error : new Error(String(error));
  }

  uuid(): string {
    this.#names += 1;
    return `id-${this.#names}`;
  }

  async run(): Promise<Error | undefined> {
    this.#main().then(
      () => (this.#isOver = true),
      (error: unknown) => this.violate(error),
    );
    const isDone = (): boolean => this.#isOver || this.#violation !== undefined;
    const isFinished = await this.scheduler.run(isDone, WALK_MS + HEAL_MS, () => undefined);
    return this.#violation ?? (isFinished ? undefined : new Violation('The walk came to a halt'));
  }

  async #main(): Promise<void> {
    this.#replacePruner();
    while (this.scheduler.now < WALK_MS) {
      await this.#pause(this.random.below(15));
      this.#act();
    }
    this.note(() => 'everything is healthy from here on');
    this.database.slowness = 1;
    for (const node of this.#nodes) node?.crash();
    let nodes = this.#directories.map((directory) => this.#start(directory, true));
    while (!nodes.every(({ isIdle }) => isIdle)) {
      await this.#pause(50);
      nodes = nodes.map((node) => (node.life.isOver ? this.#start(node.directory, true) : node));
    }
    for (const token of this.#acknowledged) {
      if (!isKept(this.database, this.#directories, token)) throw new Violation(`${token} is lost`);
    }
  }

  #act(): void {
    const { random } = this;
    const index = random.below(this.#nodes.length);
    const node = this.#nodes[index];
    const isUp = node !== undefined && !node.life.isOver;
    switch (random.below(26)) {
      case 0:
        if (isUp) node.crash();
        break;
      case 1:
        if (isUp) node.stop();
        break;
      case 2:
      case 3:
        // In range.
        if (!isUp) this.#nodes[index] = this.#start(this.#directories[index] as Directory, random.below(2) === 0);
        break;
      case 4:
      case 5:
        if (isUp) node.findDatabase();
        break;
      case 6:
        if (isUp) node.loseConnection();
        break;
      case 7:
        if (random.below(8) === 0) this.#replacePruner();
        break;
      case 8:
        if (random.below(8) === 0) this.#deleteRow();
        break;
      case 9:
        if (isUp) this.#plain(node);
        break;
      default:
        this.#request(isUp ? node : undefined);
    }
  }

  /** A new request or a retry, to a node or to the one that never fails. */
  #request(node: ProtocolNode | undefined): void {
    const { random, scheduler, database } = this;
    const latest = scheduler.now - SCALE.windowHourMs - UNDER_WAY_MS;
    const open = [...this.#firstSent].filter(([, at]) => at >= latest).map(([token]) => token);
    const isNew = open.length === 0 || random.below(3) === 0;
    const token = isNew ? `t${this.#firstSent.size + 1}` : random.pick(open);
    if (isNew) this.#firstSent.set(token, scheduler.now);
    if (random.below(4) > 0) {
      if (node?.accept(token) === true) this.#acknowledged.add(token);
      return;
    }
    const request = { idempotencyKey: token, digest: Buffer.alloc(16, 1), sums: [[token, 1n]] as const };
    const counts = database.countElsewhere(request);
    this.note(() => `another node ${counts ? 'counts' : 'knows'} ${token}`);
    this.#acknowledged.add(token);
  }

  #plain(node: ProtocolNode): void {
    this.#names += 1;
    const name = `plain-${this.#names}`;
    if (node.acceptPlain(name)) this.#acknowledged.add(name);
  }

  /** Somebody deletes a row: nobody may make it anew by himself. */
  #deleteRow(): void {
    if (!this.#expires) return;
    const [stream] = [...this.database.tables.checkpoints.keys()].slice(-1);
    if (stream === undefined || !this.database.deleteStream(stream, true)) return;
    this.note(() => `the row of ${stream} is deleted`);
    this.#deletions += 1;
  }

  #start(directory: Directory, hasDatabase: boolean): ProtocolNode {
    this.#names += 1;
    return new ProtocolNode(this, directory, hasDatabase, `process ${this.#names}`);
  }

  #replacePruner(): void {
    this.#pruner?.crash();
    this.#names += 1;
    const settings = { windowHours: 1, expiryDays: this.#expires ? 1 : 0, paceMs: this.random.pick([10, 50, 150]) };
    this.#pruner = new SimulatedPruner(this, settings, `pruner ${this.#names}`);
    this.#pruner.start();
  }

  #check(): void {
    for (const [key, sum] of this.database.tables.counters) {
      if (sum > 1n) this.violate(new Violation(`${key} is counted ${sum} times`));
    }
    const [row] = this.database.tables.uncovered;
    if (row !== undefined && this.database.expirations + this.#deletions === 0) {
      this.violate(new Violation(`${row.token} is put aside without need`));
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.scheduler.after(ms, this.#life, resolve));
  }
}
