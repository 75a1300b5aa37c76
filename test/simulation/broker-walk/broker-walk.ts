/**
 * A random walk of processes that write and flush streams of the nats journal, a pruner, a node that never fails and clients that
 * retry within the window at any of them, on the simulated broker and the simulated database. The seed determines everything.
 */
import { Mulberry32 } from '../../support/mulberry32.js';
import type { TimeScale } from '../database/database-clock.js';
import { Violation } from '../expectations.js';
import { type Outcome, WalkRequest } from '../log-walk/walk-request.js';
import { PostgresModel } from '../postgres-model.js';
import { Life, Scheduler } from '../scheduler.js';
import { SimulatedBroker } from '../simulated-broker.js';
import { SimulatedPruner } from '../simulated-pruner.js';
import { DIGEST } from '../walk-flush.js';
import type { BrokerWalkMutations } from './broker-mutations.js';
import { BrokerRollUp } from './broker-roll-up.js';
import { BrokerWriter, type BrokerWorld } from './broker-writer.js';
import { decodeMessage, reachedLsn } from './walk-message.js';

const SCALE: TimeScale = {
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
const WALK_MS = 2500;
const HEAL_MS = 20_000;
/** A client sends a request so long after its window at most: it was under way. Below the margin by two seconds of the database. */
const UNDER_WAY_MS = SCALE.marginMs - 20;
/** Most at a time. Where there are few, what idempotency keys wait for moves on faster. */
const WRITERS = [1, 1, 2, 3] as const;
const ROLL_UPS = [1, 2, 3] as const;

/** The result of a walk. */
export interface BrokerWalkResult {
  readonly violation: Error | undefined;
  readonly counted: number;
  readonly aside: number;
  readonly streams: number;
}

/** What a walk may do that is no bug. */
export interface BrokerWalkOptions {
  /** Idempotent requests may be put aside. On a cluster before 2.11 they always may. */
  readonly maySetAside?: boolean;
}

/** Runs the walk of `seed`. */
export async function brokerWalk(
  seed: number,
  mutations: BrokerWalkMutations,
  options: BrokerWalkOptions = {},
  trace?: string[],
): Promise<BrokerWalkResult> {
  const one = new BrokerWalk(seed, mutations, options, trace);
  const violation = await one.run();
  const { counters, checkpoints, uncovered } = one.database.tables;
  return { violation, counted: counters.size, aside: uncovered.length, streams: checkpoints.size };
}

class BrokerWalk implements BrokerWorld {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly database: PostgresModel;
  readonly broker: SimulatedBroker;
  readonly #mutations: BrokerWalkMutations;
  readonly #maySetAside: boolean;
  readonly #trace: string[] | undefined;
  readonly #life = new Life((error) => this.violate(error));
  readonly #writers: (BrokerWriter | undefined)[];
  readonly #rollUps: (BrokerRollUp | undefined)[];
  readonly #requests = new Map<string, WalkRequest>();
  #pruner: SimulatedPruner | undefined;
  #violation: Error | undefined;
  #names = 0;
  #isOver = false;

  constructor(
    seed: number,
    mutations: BrokerWalkMutations,
    { maySetAside = false }: BrokerWalkOptions,
    trace: string[] | undefined,
  ) {
    this.random = new Mulberry32(seed);
    this.#mutations = mutations;
    this.#trace = trace;
    const watch = { sent: () => undefined, committed: () => this.#check() };
    this.database = new PostgresModel(this.scheduler, this.random, watch, mutations, this.uuid(), SCALE);
    this.database.slowness = this.random.pick([1, 1, 1, 4]);
    const isOldCluster = this.random.below(3) === 0;
    const hasReplicas = isOldCluster || this.random.below(2) === 0;
    const { lagMaxMs } = mutations;
    this.broker = new SimulatedBroker(this.scheduler, this.random, { isOldCluster, hasReplicas, lagMaxMs });
    this.broker.slowness = this.random.pick([1, 1, 1, 4]);
    this.#maySetAside = maySetAside || isOldCluster;
    this.#writers = Array.from({ length: this.random.pick(WRITERS) }, () => undefined);
    this.#rollUps = Array.from({ length: this.random.pick(ROLL_UPS) }, () => undefined);
    this.note(() => (isOldCluster ? 'an old cluster' : hasReplicas ? 'a cluster' : 'one server'));
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

  settle(request: WalkRequest, outcome: Outcome): void {
    request.settle(outcome, this.scheduler.now);
    this.#checkRequest(request);
  }

  sleep({ life, name }: { readonly life: Life; readonly name: string }): void {
    const { random, scheduler } = this;
    if (life.isOver || life.isFrozen) return;
    const ms = random.below(random.pick([50, 300, 1500]));
    this.note(() => `${name} sleeps for ${ms} ms`);
    life.freeze();
    scheduler.after(ms, this.#life, () => life.thaw(scheduler));
  }

  async run(): Promise<Error | undefined> {
    this.#main().then(
      () => (this.#isOver = true),
      (error: unknown) => this.violate(error),
    );
    const isDone = (): boolean => this.#isOver || this.#violation !== undefined;
    const isFinished = await this.scheduler.run(isDone, WALK_MS + 2 * HEAL_MS, () => undefined);
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
    this.database.isDead = false;
    this.broker.heal();
    for (const process of [...this.#writers, ...this.#rollUps]) process?.crash();
    const careful = new BrokerRollUp(this, this.#mutations, 'the last roll-up', true);
    const until = this.scheduler.now + HEAL_MS;
    while (!this.#isAllEnded && this.scheduler.now < until) await this.#pause(50);
    careful.crash();
    this.#checkAcknowledged();
    if (!this.#isAllEnded) throw new Violation('A stream does not end');
  }

  /** Nothing is under way, and each stream is retired, or its tombstone is gone. */
  get #isAllEnded(): boolean {
    const { checkpoints } = this.database.tables;
    const { neverReopens } = this.#mutations;
    const isEnded = (stream: string): boolean => {
      const row = checkpoints.get(stream);
      const messages = this.broker.messages(stream).map(decodeMessage);
      if (row === undefined) return messages[0]?.firstLsn !== 1;
      return row.retiredAt !== undefined && (neverReopens === true || reachedLsn(messages, row.lsn) === row.lsn);
    };
    return this.broker.underWay === 0 && [...this.broker.names, ...checkpoints.keys()].every(isEnded);
  }

  #act(): void {
    const { random } = this;
    switch (random.below(24)) {
      case 0:
        this.#disturb(random.pick([...this.#writers, ...this.#rollUps]));
        return;
      case 1:
      case 2:
      case 3:
        this.#startWriter(random.below(this.#writers.length));
        return;
      case 4:
      case 5:
        this.#startRollUp(random.below(this.#rollUps.length));
        return;
      case 6:
        if (random.below(8) === 0) this.#replacePruner();
        return;
      case 7:
        if (random.below(4) === 0) this.#disturbDatabase();
        return;
      case 8:
        if (random.below(4) === 0) this.#disturbBroker();
        return;
      case 9:
      case 10:
      case 11:
      case 12:
      case 13:
        this.#request(this.#newRequest(true));
        return;
      default:
        this.#idempotentRequest();
    }
  }

  #disturb(process: BrokerWriter | BrokerRollUp | undefined): void {
    if (process?.isUp !== true) return;
    switch (this.random.below(4)) {
      case 0:
        process.crash();
        return;
      case 1:
        if (process instanceof BrokerWriter) process.stop();
        return;
      case 2:
        process.loseConnection();
        return;
      default:
        this.sleep(process);
    }
  }

  #startWriter(index: number): void {
    if (this.#writers[index]?.isUp === true) return;
    this.#names += 1;
    this.#writers[index] = new BrokerWriter(this, this.#mutations, `writer ${this.#names}`, this.random.below(2) === 0);
  }

  #startRollUp(index: number): void {
    if (this.#rollUps[index]?.isUp === true) return;
    this.#names += 1;
    this.#rollUps[index] = new BrokerRollUp(this, this.#mutations, `roll-up ${this.#names}`);
  }

  #disturbDatabase(): void {
    const { random, database } = this;
    switch (random.below(3)) {
      case 0:
        database.cut();
        return;
      case 1:
        database.loseNext = 1;
        return;
      default:
        this.note(() => 'the database crashes');
        database.isDead = true;
        database.crash();
        this.#later(random.below(random.pick([50, 500])), () => (database.isDead = false));
    }
  }

  #disturbBroker(): void {
    const { random, broker } = this;
    switch (random.below(4)) {
      case 0:
        this.note(() => 'the broker restarts');
        broker.isGone = true;
        this.#later(random.below(random.pick([30, 300])), () => (broker.isGone = false));
        return;
      case 1:
        this.note(() => 'the broker is full');
        broker.isFull = true;
        this.#later(random.below(random.pick([30, 300])), () => (broker.isFull = false));
        return;
      case 2:
        broker.slowness = random.pick([10, 40]);
        this.#later(random.below(300), () => (broker.slowness = 1));
        return;
      default:
        broker.loseNext = 1 + random.below(2);
    }
  }

  /** While the walk lasts. */
  #later(ms: number, callback: () => void): void {
    this.scheduler.after(ms, this.#life, callback);
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

  #replacePruner(): void {
    this.#pruner?.crash();
    this.#names += 1;
    const settings = { windowHours: 1, expiryDays: 1, paceMs: this.random.pick([10, 10, 50]) };
    this.#pruner = new SimulatedPruner(this, settings, `pruner ${this.#names}`);
    this.#pruner.start();
  }

  #check(): void {
    const { counters, uncovered } = this.database.tables;
    for (const [key, sum] of counters) {
      if (sum > 1n) this.violate(new Violation(`${key} is counted ${sum} times`));
      const request = this.#requests.get(key);
      if (request !== undefined) this.#checkRequest(request);
    }
    const [row] = uncovered;
    if (row !== undefined && !this.#maySetAside) {
      this.violate(new Violation(`${row.token} is put aside without need`));
    }
  }

  #checkRequest(request: WalkRequest): void {
    if (!request.isRefused || !this.database.tables.counters.has(request.name)) return;
    this.violate(new Violation(`${request.name} is refused, and counted`));
  }

  #checkAcknowledged(): void {
    const { counters, uncovered } = this.database.tables;
    const aside = new Set(uncovered.map(({ token }) => token));
    for (const { name, isAcknowledged } of this.#requests.values()) {
      if (isAcknowledged && counters.get(name) !== 1n && !aside.has(name)) throw new Violation(`${name} is lost`);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.scheduler.after(ms, this.#life, resolve));
  }
}
