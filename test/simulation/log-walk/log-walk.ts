/**
 * A random walk of processes that write and flush streams of the postgres journal, a pruner, a node that never fails and clients
 * that retry within the window at any of them, all on the simulated database. The seed determines everything.
 */
import * as sql from '#product/db/log-statements.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import type { TimeScale } from '../database/database-clock.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { Tables } from '../database/tables.js';
import { Violation } from '../expectations.js';
import { PostgresModel } from '../postgres-model.js';
import { Life, Scheduler } from '../scheduler.js';
import { SimulatedPruner } from '../simulated-pruner.js';
import { DIGEST } from '../walk-flush.js';
import type { LogWalkMutations } from './log-mutations.js';
import { LogRollUp } from './log-roll-up.js';
import { LogWriter, type WriterWorld } from './log-writer.js';
import { type Outcome, type Proof, WalkRequest } from './walk-request.js';

const SCALE: TimeScale = {
  rate: 100,
  windowHourMs: 200,
  marginMs: 100,
  expiryDayMs: 400,
  gapMs: 1000,
  hourMs: 300,
  tombstoneMs: 100,
  lockTimeoutMs: 100,
  idleTimeoutMs: 150,
};
const WALK_MS = 4000;
const HEAL_MS = 60_000;
/** A client sends a request so long after its window at most: it was under way. Below the margin by two seconds of the database. */
const UNDER_WAY_MS = SCALE.marginMs - 20;
const WRITERS = 3;
const ROLL_UPS = 2;
const PRUNED_MAX = 100;

/** The result of a walk. */
export interface LogWalkResult {
  readonly violation: Error | undefined;
  readonly counted: number;
  readonly streams: number;
}

/** Runs the walk of `seed`. */
export async function logWalk(seed: number, mutations: LogWalkMutations, trace?: string[]): Promise<LogWalkResult> {
  const one = new LogWalk(seed, mutations, trace);
  const violation = await one.run();
  const { counters, checkpoints } = one.database.tables;
  return { violation, counted: counters.size, streams: checkpoints.size };
}

class LogWalk implements WriterWorld {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly database: PostgresModel;
  readonly #mutations: LogWalkMutations;
  readonly #trace: string[] | undefined;
  readonly #life = new Life((error) => this.violate(error));
  #writers: (LogWriter | undefined)[] = Array.from({ length: WRITERS }, () => undefined);
  #rollUps: (LogRollUp | undefined)[] = Array.from({ length: ROLL_UPS }, () => undefined);
  readonly #requests = new Map<string, WalkRequest>();
  readonly #failsOver: boolean;
  /** Each failover: what was committed between the two was lost. */
  readonly #failovers: { readonly from: number; readonly to: number }[] = [];
  #pruner: SimulatedPruner | undefined;
  #upkeep: SimulatedSession | undefined;
  #violation: Error | undefined;
  #names = 0;
  #isOver = false;

  constructor(seed: number, mutations: LogWalkMutations, trace: string[] | undefined) {
    this.random = new Mulberry32(seed);
    this.#mutations = mutations;
    this.#trace = trace;
    const watch = { sent: () => undefined, committed: () => this.#check() };
    this.database = new PostgresModel(this.scheduler, this.random, watch, mutations, this.uuid(), SCALE);
    this.#failsOver = this.random.below(3) === 0;
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

  settle(request: WalkRequest, outcome: Outcome, proof?: Proof): void {
    // A writer whose stream the database has set back does not know it yet, or has slept when the reply came.
    const isLost = this.#failovers.some(
      ({ from, to }) => proof !== undefined && from <= proof.at && proof.sentAt <= to,
    );
    request.settle(isLost && outcome === 'acknowledged' ? 'unknown' : outcome, proof?.at ?? this.scheduler.now);
    this.#checkRequest(request);
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
      await this.#pause(this.random.below(12));
      this.#act();
    }
    this.note(() => 'everything is healthy from here on');
    this.database.slowness = 1;
    this.database.network = 'fine';
    for (const process of [...this.#writers, ...this.#rollUps]) process?.crash();
    const careful = new LogRollUp(this, this.#mutations, 'the last roll-up', true);
    while (!this.#isAllRetired) await this.#pause(50);
    careful.crash();
    for (const request of this.#requests.values()) {
      if (request.isAcknowledged && this.database.tables.counters.get(request.name) !== 1n) {
        throw new Violation(`${request.name} is lost`);
      }
    }
  }

  get #isAllRetired(): boolean {
    return [...this.database.tables.checkpoints.values()].every(({ retiredAt }) => retiredAt !== undefined);
  }

  #act(): void {
    const { random } = this;
    switch (random.below(24)) {
      case 0:
        this.#disturb(random.pick([...this.#writers, ...this.#rollUps]));
        return;
      case 1:
      case 2:
        this.#startWriter(random.below(WRITERS));
        return;
      case 3:
      case 4:
        this.#startRollUp(random.below(ROLL_UPS));
        return;
      case 5:
        if (random.below(8) === 0) this.#replacePruner();
        return;
      case 6:
      case 7:
        this.#prune();
        return;
      case 8:
        if (random.below(4) === 0) this.#disturbDatabase();
        return;
      case 9:
      case 10:
      case 11:
        this.#request(this.#newRequest(true));
        return;
      default:
        this.#idempotentRequest();
    }
  }

  #disturb(process: LogWriter | LogRollUp | undefined): void {
    const { random } = this;
    if (process?.isUp !== true) return;
    switch (random.below(4)) {
      case 0:
        process.crash();
        return;
      case 1:
        if (process instanceof LogWriter) process.stop();
        return;
      case 2:
        process.loseConnection();
        return;
      default:
        this.sleep(process);
    }
  }

  sleep({ life, name }: LogWriter | LogRollUp): void {
    const { random, scheduler } = this;
    if (life.isOver || life.isFrozen) return;
    const ms = random.below(random.pick([50, 300, 1500]));
    this.note(() => `${name} sleeps for ${ms} ms`);
    life.freeze();
    scheduler.after(ms, this.#life, () => life.thaw(scheduler));
  }

  #startWriter(index: number): void {
    if (this.#writers[index]?.isUp === true) return;
    this.#names += 1;
    this.#writers[index] = new LogWriter(this, this.#mutations, `writer ${this.#names}`, this.random.below(2) === 0);
  }

  #startRollUp(index: number): void {
    if (this.#rollUps[index]?.isUp === true) return;
    this.#names += 1;
    this.#rollUps[index] = new LogRollUp(this, this.#mutations, `roll-up ${this.#names}`);
  }

  #disturbDatabase(): void {
    const { random, database, scheduler } = this;
    switch (random.below(5)) {
      case 0:
        database.cut();
        return;
      case 1:
        database.loseNext = 1;
        return;
      case 2:
        this.note(() => 'the database crashes');
        database.isDead = true;
        database.crash();
        scheduler.after(random.below(200), this.#life, () => (database.isDead = false));
        return;
      default:
        if (this.#failsOver) this.#failOverLater();
    }
  }

  /** A standby is some time behind. */
  #failOverLater(): void {
    const { scheduler, random, database } = this;
    const [tables, at] = [database.snapshot(), scheduler.now];
    scheduler.after(random.below(random.pick([20, 50, 1000])), this.#life, () => this.#failOver(tables, at));
  }

  #failOver(tables: Tables, at: number): void {
    this.note(() => `a failover to the state of ${at.toFixed(1)}`);
    this.#failovers.push({ from: at, to: this.scheduler.now });
    this.database.failOver(tables);
    for (const request of this.#requests.values()) request.lost(at);
  }

  /** A new request or a retry, at a writer or at the node that never fails. */
  #idempotentRequest(): void {
    const { random, scheduler, database } = this;
    const latest = scheduler.now - SCALE.windowHourMs - UNDER_WAY_MS;
    const open = [...this.#requests.values()].filter((request) => !request.isPlain && request.firstSentAt >= latest);
    const request = open.length === 0 || random.below(3) === 0 ? this.#newRequest(false) : random.pick(open);
    if (random.below(5) > 0) {
      this.#request(request);
      return;
    }
    const { name } = request;
    if (database.isDead) return;
    request.begin();
    const counts = database.countElsewhere({ idempotencyKey: name, digest: DIGEST, sums: [[name, 1n]] });
    this.note(() => `another node ${counts ? 'counts' : 'knows'} ${name}`);
    this.settle(request, 'acknowledged');
  }

  #newRequest(isPlain: boolean): WalkRequest {
    const number = this.#requests.size + 1;
    const request = new WalkRequest(`${isPlain ? 'p' : 't'}${number}`, isPlain, this.scheduler.now);
    this.#requests.set(request.name, request);
    return request;
  }

  /** A writer that sleeps takes it when it wakes up, if the client still waits. */
  #request(request: WalkRequest): void {
    const { scheduler } = this;
    const writer = this.random.pick(this.#writers);
    request.begin();
    if (writer?.isUp !== true) {
      this.settle(request, 'refused');
      return;
    }
    const until = request.firstSentAt + SCALE.windowHourMs + UNDER_WAY_MS;
    const accept = (): void => {
      if (scheduler.now <= until) writer.accept(request);
      else this.settle(request, 'unknown');
    };
    if (!writer.life.park(accept)) accept();
  }

  #prune(): void {
    const { random } = this;
    const statement = random.pick([
      { text: sql.PRUNE_LOG, values: [0, PRUNED_MAX, PRUNED_MAX] },
      { text: sql.PRUNE_LOG, values: [0, PRUNED_MAX, PRUNED_MAX] },
      { text: sql.PRUNE_LOG_TOMBSTONES, values: [1, PRUNED_MAX] },
      { text: sql.PRUNE_HEARTBEATS, values: [] },
    ]);
    this.#run(statement).catch(() => this.#upkeep?.destroy());
  }

  async #run(statement: { readonly text: string; readonly values: readonly unknown[] }): Promise<void> {
    if (this.#upkeep?.lost !== false) this.#upkeep = await this.database.connect(this.#life);
    await this.#upkeep.query<Row>(statement);
  }

  #replacePruner(): void {
    this.#pruner?.crash();
    this.#names += 1;
    const settings = { windowHours: 1, expiryDays: 1, paceMs: this.random.pick([10, 50, 150]) };
    this.#pruner = new SimulatedPruner(this, settings, `pruner ${this.#names}`);
    this.#pruner.start();
  }

  #check(): void {
    const { counters, uncovered, log, checkpoints } = this.database.tables;
    for (const [key, sum] of counters) {
      if (sum > 1n) this.violate(new Violation(`${key} is counted ${sum} times`));
      const request = this.#requests.get(key);
      if (request !== undefined) this.#checkRequest(request);
    }
    const [row] = uncovered;
    if (row !== undefined && this.#failovers.length === 0) {
      this.violate(new Violation(`${row.token} is put aside without need`));
    }
    for (const [stream, records] of log) {
      const lsn = checkpoints.get(stream)?.lsn ?? 0;
      records
        .filter((record) => record.lsn > lsn)
        .forEach((record, index) => {
          if (record.lsn !== lsn + index + 1)
            this.violate(new Violation(`LSN ${record.lsn} of ${stream} follows a gap`));
        });
    }
  }

  #checkRequest(request: WalkRequest): void {
    if (!request.isRefused || !this.database.tables.counters.has(request.name)) return;
    this.violate(new Violation(`${request.name} is refused, and counted`));
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.scheduler.after(ms, this.#life, resolve));
  }
}
