/**
 * A walk of nodes with directories of their own: the product's statements and the simulated database alone. Unless a stream expires,
 * or somebody deletes its row, nothing may be put aside.
 */
import type { DatabaseMutations } from '../../database/database-mutations.js';
import type { WalkProcess } from '../process.js';
import { type Fleet, Walk, WALK_SCALE, type WalkPlan, type WalkResult } from '../walk.js';
import { Directory, ProtocolNode } from './protocol-node.js';

const PLAN: WalkPlan = {
  scale: { ...WALK_SCALE, tombstoneMs: 500, lockTimeoutMs: 5000, idleTimeoutMs: 10_000 },
  walkMs: 6000,
  healMs: 60_000,
  paceMs: 15,
  prunerPacesMs: [10, 50, 150],
  elsewhereOneIn: 4,
  hasFailovers: false,
};

/** Runs the walk of `seed`. */
export function fileWalk(seed: number, mutations: DatabaseMutations, trace?: string[]): Promise<WalkResult> {
  return new FileWalk(seed, mutations, trace).run();
}

class FileWalk extends Walk {
  protected override readonly writers: Fleet<ProtocolNode> = [undefined, undefined];
  protected override readonly actions = [
    [1, () => this.#node?.crash()],
    [1, () => this.#node?.stop()],
    [2, () => this.#startNode()],
    [2, () => this.#node?.findDatabase()],
    [1, () => this.#node?.loseConnection()],
    [1, () => this.onceIn(8, () => this.replacePruner())],
    [1, () => this.onceIn(8, () => this.#deleteRow())],
    [1, () => this.plainRequest()],
    [16, () => this.idempotentRequest()],
  ] as const;
  readonly #directories = [new Directory(), new Directory()];
  readonly #expires: boolean;
  #deletions = 0;
  /** Of the node that the present action is about. */
  #index = 0;

  constructor(seed: number, mutations: DatabaseMutations, trace: string[] | undefined) {
    super(seed, mutations, PLAN, trace);
    this.#expires = this.random.below(2) === 0;
    this.expiryDays = this.#expires ? 1 : 0;
    this.database.slowness = this.random.pick([1, 3, 10, 20]);
  }

  protected override act(): void {
    this.#index = this.random.below(this.writers.length);
    super.act();
  }

  /** If it is up. */
  get #node(): ProtocolNode | undefined {
    const node = this.writers[this.#index];
    return node?.isUp === true ? node : undefined;
  }

  protected override pickWriter(): ProtocolNode | undefined {
    return this.#node;
  }

  #startNode(): void {
    if (this.#node !== undefined) return;
    // In range.
    const directory = this.#directories[this.#index] as Directory;
    this.writers[this.#index] = this.#makeNode(directory, this.random.below(2) === 0);
  }

  #makeNode(directory: Directory, hasDatabase: boolean): ProtocolNode {
    return new ProtocolNode(this, directory, hasDatabase, `process ${this.nextNumber()}`);
  }

  /** Somebody deletes a row: nobody may make it again by himself. */
  #deleteRow(): void {
    if (!this.#expires) return;
    const [stream] = [...this.database.tables.checkpoints.keys()].slice(-1);
    if (stream === undefined || !this.database.deleteStream(stream, true)) return;
    this.note(() => `the row of ${stream} is deleted`);
    this.#deletions += 1;
  }

  /** The last processes start again until their directories hold nothing that is not flushed. */
  protected override startLast(): WalkProcess {
    for (const [index, directory] of this.#directories.entries()) this.writers[index] = this.#makeNode(directory, true);
    // There are two.
    return this.writers[0] as ProtocolNode;
  }

  protected override restartLast(): void {
    for (const [index, node] of this.writers.entries()) {
      if (node?.isUp === false) this.writers[index] = this.#makeNode(node.directory, true);
    }
  }

  protected override get isAllEnded(): boolean {
    return this.writers.every((node) => node?.isIdle === true);
  }

  protected override isKept(name: string): boolean {
    const { checkpoints } = this.database.tables;
    return super.isKept(name) || this.#directories.some((directory) => directory.isPending(name, checkpoints));
  }

  protected override maySetAside(): boolean {
    return this.database.expirations + this.#deletions > 0;
  }
}
