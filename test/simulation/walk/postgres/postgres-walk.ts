/** A walk with the postgres journal: all of it on the simulated database, which fails over. */
import * as log from '#product/db/log-statements.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Tables } from '../../database/tables.js';
import type { Row } from '../../database/values.js';
import { Violation } from '../../expectations.js';
import type { WalkProcess } from '../process.js';
import { type Fleet, Walk, WALK_SCALE, type WalkPlan, type WalkResult } from '../walk.js';
import type { Outcome, Proof, WalkRequest } from '../walk-request.js';
import type { PostgresWalkMutations } from './postgres-mutations.js';
import { PostgresRollUp } from './postgres-roll-up.js';
import { PostgresWriter } from './postgres-writer.js';

const PLAN: WalkPlan = {
  scale: { ...WALK_SCALE, lockTimeoutMs: 100 },
  walkMs: 4000,
  healMs: 60_000,
  paceMs: 12,
  prunerPacesMs: [10, 50, 150],
  elsewhereOneIn: 5,
  hasFailovers: true,
};
const PRUNED_MAX = 100;

/** Runs the walk of `seed`. */
export function postgresWalk(seed: number, mutations: PostgresWalkMutations, trace?: string[]): Promise<WalkResult> {
  return new PostgresWalk(seed, mutations, trace).run();
}

class PostgresWalk extends Walk {
  protected override readonly writers: Fleet<PostgresWriter> = [undefined, undefined, undefined];
  protected override readonly flushers: Fleet<PostgresRollUp> = [undefined, undefined];
  protected override readonly actions = [
    [1, () => this.disturb()],
    [2, () => this.#startWriter()],
    [2, () => this.start(this.flushers, 'roll-up', (name) => new PostgresRollUp(this, this.#mutations, name))],
    [1, () => this.onceIn(8, () => this.replacePruner())],
    [2, () => this.#prune()],
    [1, () => this.onceIn(4, () => this.disturbDatabase())],
    [3, () => this.plainRequest()],
    [12, () => this.idempotentRequest()],
  ] as const;
  readonly #mutations: PostgresWalkMutations;
  readonly #failsOver: boolean;
  /** Each failover: what was committed between the two was lost. */
  readonly #failovers: { readonly from: number; readonly to: number }[] = [];
  #upkeep: SimulatedSession | undefined;

  constructor(seed: number, mutations: PostgresWalkMutations, trace: string[] | undefined) {
    super(seed, mutations, PLAN, trace);
    this.#mutations = mutations;
    this.#failsOver = this.random.below(3) === 0;
    this.database.slowness = this.random.pick([1, 3, 10, 20]);
  }

  /** A writer whose stream the database has set back does not know it yet, or has slept when the reply came. */
  override settle(request: WalkRequest, outcome: Outcome, proof?: Proof): void {
    const isLost = this.#failovers.some(
      ({ from, to }) => proof !== undefined && from <= proof.at && proof.sentAt <= to,
    );
    super.settle(request, isLost && outcome === 'acknowledged' ? 'unknown' : outcome, proof);
  }

  #startWriter(): void {
    const { random } = this;
    this.start(
      this.writers,
      'writer',
      (name) => new PostgresWriter(this, this.#mutations, name, random.below(2) === 0),
    );
  }

  protected override outageMs(): number {
    return this.random.below(200);
  }

  /** A standby is some time behind. */
  protected override failOverLater(): void {
    if (!this.#failsOver) return;
    const { scheduler, random, database } = this;
    const [tables, at] = [database.snapshot(), scheduler.now];
    this.later(random.below(random.pick([20, 50, 1000])), () => this.#failOver(tables, at));
  }

  #failOver(tables: Tables, at: number): void {
    this.note(() => `a failover to the state of ${at.toFixed(1)}`);
    this.#failovers.push({ from: at, to: this.scheduler.now });
    this.database.failOver(tables);
    for (const request of this.requests.values()) request.lost(at);
  }

  #prune(): void {
    const statement = this.random.pick([
      { text: log.PRUNE_LOG, values: [0, PRUNED_MAX, PRUNED_MAX] },
      { text: log.PRUNE_LOG, values: [0, PRUNED_MAX, PRUNED_MAX] },
      { text: log.PRUNE_LOG_TOMBSTONES, values: [1, PRUNED_MAX] },
      { text: log.PRUNE_HEARTBEATS, values: [] },
    ]);
    this.#run(statement).catch(() => this.#upkeep?.destroy());
  }

  async #run(statement: { readonly text: string; readonly values: readonly unknown[] }): Promise<void> {
    if (this.#upkeep?.lost !== false) this.#upkeep = await this.database.connect(this.life);
    await this.#upkeep.query<Row>(statement);
  }

  protected override startLast(): WalkProcess {
    return new PostgresRollUp(this, this.#mutations, 'the last roll-up', true);
  }

  protected override get isAllEnded(): boolean {
    return [...this.database.tables.checkpoints.values()].every(({ retiredAt }) => retiredAt !== undefined);
  }

  protected override isKept(name: string): boolean {
    return this.database.tables.counters.get(name) === 1n;
  }

  protected override maySetAside(): boolean {
    return this.#failovers.length > 0;
  }

  /** The log of a stream has no gap above its checkpoint. */
  protected override checkJournal(): void {
    const { log, checkpoints } = this.database.tables;
    for (const [stream, records] of log) {
      const lsn = checkpoints.get(stream)?.lsn ?? 0;
      let next = lsn + 1;
      for (const record of records) {
        if (record.lsn <= lsn) continue;
        if (record.lsn !== next) this.violate(new Violation(`LSN ${record.lsn} of ${stream} follows a gap`));
        next += 1;
      }
    }
  }
}
