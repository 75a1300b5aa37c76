/**
 * A random walk of processes that write and flush streams of one journal, a pruner, a node that never fails and clients that retry
 * within the window at any of them, on the simulated database. The seed determines everything.
 *
 * Here is what all journals share: clients, what disturbs the processes and the database, the end of a walk and its checks. A
 * journal adds its transport, and how often what happens.
 */
import { Mulberry32 } from '../../support/mulberry32.js';
import type { TimeScale } from '../database/database-clock.js';
import type { DatabaseMutations } from '../database/database-mutations.js';
import { Violation } from '../expectations.js';
import { PostgresModel } from '../postgres-model.js';
import { Life, Scheduler } from '../scheduler.js';
import { SimulatedPruner } from '../simulated-pruner.js';
import type { WalkProcess, WalkWorld } from './process.js';
import { DIGEST } from './walk-flush.js';
import { type Outcome, type Proof, WalkRequest } from './walk-request.js';

/** Times of the database in a walk. */
export const WALK_SCALE: TimeScale = {
  rate: 100,
  windowHourMs: 200,
  marginMs: 100,
  expiryDayMs: 400,
  gapMs: 1000,
  hourMs: 300,
  tombstoneMs: 100,
  lockTimeoutMs: 400,
  idleTimeoutMs: 150,
};

/** A client sends a request so long after its window at most: it was under way. Below the margin by two seconds of the database. */
const UNDER_WAY_MS = WALK_SCALE.marginMs - 20;

/** What differs between walks beside their processes. Times are in ms. */
export interface WalkPlan {
  readonly scale: TimeScale;
  readonly walkMs: number;
  /** Most that the last process takes to end all streams. */
  readonly healMs: number;
  /** Most from one event to the next. */
  readonly paceMs: number;
  /** Most from one round of a pruner to the next, for each pruner one of these. */
  readonly prunerPacesMs: readonly number[];
  /** One of so many idempotent requests goes to the node that never fails. */
  readonly elsewhereOneIn: number;
  /** The database may lose what it has committed. */
  readonly hasFailovers: boolean;
}

/** The result of a walk. */
export interface WalkResult {
  readonly violation: Error | undefined;
  readonly steps: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly counted: number;
  /** Requests that were put aside. */
  readonly aside: number;
  readonly streams: number;
}

/** A process that takes requests. */
export interface WalkWriter extends WalkProcess {
  accept(request: WalkRequest): void;
}

/** The processes of one kind that may run; undefined: it has never run. */
export type Fleet<Process> = (Process | undefined)[];

/** A broker or a queue. */
interface Service {
  isGone: boolean;
  slowness: number;
  loseNext: number;
}

/** One walk. */
export abstract class Walk implements WalkWorld {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly database: PostgresModel;
  protected readonly plan: WalkPlan;
  protected readonly life = new Life((error) => this.violate(error));
  protected readonly requests = new Map<string, WalkRequest>();
  /** 0: streams do not expire. */
  protected expiryDays = 1;
  protected abstract readonly writers: Fleet<WalkWriter>;
  protected readonly flushers: Fleet<WalkProcess> = [];
  /** What happens, each with how often. */
  protected abstract readonly actions: readonly (readonly [times: number, act: () => void])[];
  readonly #trace: string[] | undefined;
  #pruner: SimulatedPruner | undefined;
  #violation: Error | undefined;
  #names = 0;
  #isOver = false;

  constructor(seed: number, mutations: DatabaseMutations, plan: WalkPlan, trace: string[] | undefined) {
    this.random = new Mulberry32(seed);
    this.plan = plan;
    this.#trace = trace;
    const watch = { sent: () => undefined, committed: () => this.#check() };
    this.database = new PostgresModel(this.scheduler, this.random, watch, mutations, this.uuid(), plan.scale);
  }

  note(what: () => string): void {
    this.#trace?.push(`${this.scheduler.now.toFixed(1).padStart(9)} ${what()}`);
  }

  violate(error: unknown): void {
    this.#violation ??= error instanceof Error ? error : new Error(String(error));
  }

  uuid(): string {
    return `id-${this.nextNumber()}`;
  }

  settle(request: WalkRequest, outcome: Outcome, proof?: Proof): void {
    request.settle(outcome, proof?.at ?? this.scheduler.now);
    this.#checkRequest(request);
  }

  sleep({ life, name }: WalkProcess): void {
    if (life.isOver || life.isFrozen) return;
    const ms = this.sleepMs();
    this.note(() => `${name} sleeps for ${ms} ms`);
    life.freeze();
    this.later(ms, () => life.thaw(this.scheduler));
  }

  async run(): Promise<WalkResult> {
    this.#main().then(
      () => (this.#isOver = true),
      (error: unknown) => this.violate(error),
    );
    const isDone = (): boolean => this.#isOver || this.#violation !== undefined;
    const { walkMs, healMs } = this.plan;
    const isFinished = await this.scheduler.run(isDone, walkMs + 2 * healMs, () => undefined);
    const { counters, checkpoints, uncovered } = this.database.tables;
    return {
      violation: this.#violation ?? (isFinished ? undefined : new Violation('The walk came to a halt')),
      steps: this.scheduler.steps,
      requests: this.requests.size,
      acknowledged: [...this.requests.values()].filter(({ isAcknowledged }) => isAcknowledged).length,
      counted: counters.size,
      aside: uncovered.length,
      streams: checkpoints.size,
    };
  }

  async #main(): Promise<void> {
    this.replacePruner();
    while (this.scheduler.now < this.plan.walkMs) {
      await this.pause(this.random.below(this.plan.paceMs));
      this.act();
    }
    this.note(() => 'everything is healthy from here on');
    this.database.slowness = 1;
    this.database.isDead = false;
    this.heal();
    for (const process of [...this.writers, ...this.flushers]) process?.crash();
    const isEnded = await this.#endAll();
    for (const { name, isAcknowledged } of this.requests.values()) {
      if (isAcknowledged && !this.isKept(name)) throw new Violation(`${name} is lost`);
    }
    if (!isEnded) throw new Violation('A stream does not end');
  }

  /** Whether the last process, which meets with no trouble, has ended all streams in time. */
  async #endAll(): Promise<boolean> {
    const last = this.startLast();
    const until = this.scheduler.now + this.plan.healMs;
    while (!this.isAllEnded && this.scheduler.now < until) {
      await this.pause(50);
      this.restartLast();
    }
    last.crash();
    return this.isAllEnded;
  }

  protected act(): void {
    let number = this.random.below(this.actions.reduce((sum, [times]) => sum + times, 0));
    const action = this.actions.find(([times]) => (number -= times) < 0);
    action?.[1]();
  }

  /** Of so many times once. */
  protected onceIn(times: number, act: () => void): void {
    if (this.random.below(times) === 0) act();
  }

  /** Room for as many processes as one of these says. */
  protected room(sizes: readonly number[]): undefined[] {
    return Array.from({ length: this.random.pick(sizes) }, () => undefined);
  }

  /** Starts one of them, if that does not run. */
  protected start<Process extends WalkProcess>(
    fleet: Fleet<Process>,
    what: string,
    make: (name: string) => Process,
  ): void {
    const index = this.random.below(fleet.length);
    if (fleet[index]?.isUp !== true) fleet[index] = make(`${what} ${this.nextNumber()}`);
  }

  protected disturb(): void {
    const process = this.random.pick([...this.writers, ...this.flushers]);
    if (process?.isUp !== true) return;
    switch (this.random.below(4)) {
      case 0:
        process.crash();
        return;
      case 1:
        process.stop();
        return;
      case 2:
        process.loseConnection();
        return;
      default:
        this.sleep(process);
    }
  }

  protected disturbDatabase(): void {
    const { random, database } = this;
    switch (random.below(this.plan.hasFailovers ? 5 : 3)) {
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
        this.later(this.outageMs(), () => (database.isDead = false));
        return;
      default:
        this.failOverLater();
    }
  }

  protected disturbService(name: string, service: Service, slowest: number, refuse: (refuses: boolean) => void): void {
    const { random } = this;
    switch (random.below(4)) {
      case 0:
        this.note(() => `the ${name} does not answer`);
        service.isGone = true;
        this.later(random.below(random.pick([30, 300])), () => (service.isGone = false));
        return;
      case 1:
        this.note(() => `the ${name} refuses`);
        refuse(true);
        this.later(random.below(random.pick([30, 300])), () => refuse(false));
        return;
      case 2:
        service.slowness = random.pick([10, slowest]);
        this.later(random.below(300), () => (service.slowness = 1));
        return;
      default:
        service.loseNext = 1 + random.below(2);
    }
  }

  /** While the walk lasts. */
  protected later(ms: number, callback: () => void): void {
    this.scheduler.after(ms, this.life, callback);
  }

  protected pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.later(ms, resolve));
  }

  protected nextNumber(): number {
    this.#names += 1;
    return this.#names;
  }

  /** A new request or a retry, at a writer or at the node that never fails. */
  protected idempotentRequest(): void {
    const { random, scheduler, database, requests } = this;
    const latest = scheduler.now - this.plan.scale.windowHourMs - UNDER_WAY_MS;
    const open = [...requests.values()].filter(({ isPlain, firstSentAt }) => !isPlain && firstSentAt >= latest);
    const request = open.length === 0 || random.below(3) === 0 ? this.#newRequest(false) : random.pick(open);
    if (random.below(this.plan.elsewhereOneIn) > 0) {
      this.send(request);
      return;
    }
    const { name } = request;
    if (database.isDead) return;
    request.begin();
    const counts = database.countElsewhere({ idempotencyKey: name, digest: DIGEST, sums: [[name, 1n]] });
    this.note(() => `another node ${counts ? 'counts' : 'knows'} ${name}`);
    this.settle(request, 'acknowledged');
  }

  protected plainRequest(): void {
    this.send(this.#newRequest(true));
  }

  #newRequest(isPlain: boolean): WalkRequest {
    const number = this.requests.size + 1;
    const request = new WalkRequest(`${isPlain ? 'p' : 't'}${number}`, isPlain, this.scheduler.now);
    this.requests.set(request.name, request);
    return request;
  }

  /** The writer that clients of the next request know. */
  protected pickWriter(): WalkWriter | undefined {
    return this.random.pick(this.writers);
  }

  /** A writer that sleeps takes it when it wakes up, if the client still waits. */
  protected send(request: WalkRequest): void {
    const { scheduler } = this;
    const writer = this.pickWriter();
    request.begin();
    if (writer?.isUp !== true) {
      this.settle(request, 'refused');
      return;
    }
    const until = request.firstSentAt + this.plan.scale.windowHourMs + UNDER_WAY_MS;
    const accept = (): void => {
      if (scheduler.now <= until) writer.accept(request);
      else this.settle(request, 'unknown');
    };
    if (!writer.life.park(accept)) accept();
  }

  protected replacePruner(): void {
    this.#pruner?.crash();
    const name = `pruner ${this.nextNumber()}`;
    const paceMs = this.random.pick(this.plan.prunerPacesMs);
    this.#pruner = new SimulatedPruner(this, { windowHours: 1, expiryDays: this.expiryDays, paceMs }, name);
    this.#pruner.start();
  }

  #check(): void {
    const { counters, uncovered } = this.database.tables;
    for (const [key, sum] of counters) {
      if (sum > 1n) this.violate(new Violation(`${key} is counted ${sum} times`));
      const request = this.requests.get(key);
      if (request !== undefined) this.#checkRequest(request);
    }
    const row = uncovered.find(({ stream }) => !this.maySetAside(stream));
    if (row !== undefined) this.violate(new Violation(`${row.key} of ${row.stream} is put aside without need`));
    this.checkJournal();
  }

  #checkRequest(request: WalkRequest): void {
    if (!request.isRefused || !this.database.tables.counters.has(request.name)) return;
    this.violate(new Violation(`${request.name} is refused, and counted`));
  }

  /** How long a process sleeps, by chance. */
  protected sleepMs(): number {
    return this.random.below(this.random.pick([50, 300, 1500]));
  }

  /** How long the database is away after a crash, by chance. */
  protected outageMs(): number {
    return this.random.below(this.random.pick([50, 500]));
  }

  /** The database loses what it commits until then. */
  protected failOverLater(): void {
    // Most walks have no failovers.
  }

  /** Ends what disturbs the transport. */
  protected heal(): void {
    // Some journals have none.
  }

  /** Starts the process that ends all streams. */
  protected abstract startLast(): WalkProcess;

  /** Starts a last process that has ended again, where it meets with trouble. */
  protected restartLast(): void {
    // Most meet with none.
  }

  /** Nothing is under way, and no stream is open. */
  protected abstract get isAllEnded(): boolean;

  /** An acknowledged request has not been lost. */
  protected isKept(name: string): boolean {
    const { counters, uncovered } = this.database.tables;
    return counters.get(name) === 1n || uncovered.some(({ key }) => key === name);
  }

  /** Requests of a stream may have been put aside. */
  protected abstract maySetAside(stream: string): boolean;

  /** What a journal promises besides, at each commit. */
  protected checkJournal(): void {
    // Most journals promise nothing else.
  }
}
