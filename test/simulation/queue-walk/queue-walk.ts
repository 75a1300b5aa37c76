/**
 * A random walk of processes that write and flush streams of the sqs journal, an operator who retires some, a pruner, a node that
 * never fails and clients that retry within the window at any of them, on the simulated queue and the simulated database. The seed
 * determines everything.
 */
import { RETIRE_DEAD_STREAM } from '#product/db/upkeep-statements.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import type { TimeScale } from '../database/database-clock.js';
import type { CheckpointRow } from '../database/tables.js';
import { Violation } from '../expectations.js';
import { type Outcome, WalkRequest } from '../log-walk/walk-request.js';
import { PostgresModel } from '../postgres-model.js';
import { Life, Scheduler } from '../scheduler.js';
import { type QueueKind, type QueueMessage, SimulatedQueue } from '../simulated-queue.js';
import { SimulatedPruner } from '../simulated-pruner.js';
import { DIGEST } from '../walk-flush.js';
import { QueueConsumer } from './queue-consumer.js';
import type { QueueWalkMutations } from './queue-mutations.js';
import { decodeRecord } from './queue-record.js';
import { expectTrouble, QueueWriter, type QueueWorld } from './queue-writer.js';

const SCALE: TimeScale = {
  rate: 100,
  windowHourMs: 200,
  marginMs: 100,
  expiryDayMs: 400,
  gapMs: 1000,
  hourMs: 300,
  tombstoneMs: 1850,
  lockTimeoutMs: 400,
  idleTimeoutMs: 150,
};
/** Five minutes and 14 days, in ms. */
const TIMES: Omit<QueueKind, 'hasGroupLock'> = { deduplicationMs: 300, retentionMs: 1700 };
/** How long the row of a retired stream stays, in ms. */
const TOMBSTONE_MS = SCALE.windowHourMs + SCALE.tombstoneMs;
/** 15 days without a record, in ms. */
const EXPIRY_MS = 1850;
const WALK_MS = 4800;
const HEAL_MS = 20_000;
/** A client sends a request so long after its window at most: it was under way. Below the margin by two seconds of the database. */
const UNDER_WAY_MS = SCALE.marginMs - 20;
/** Most at a time. Where there are few, what idempotency keys wait for moves on faster. */
const WRITERS = [1, 1, 2, 3] as const;
const CONSUMERS = [1, 2, 3] as const;

/** The result of a walk. */
export interface QueueWalkResult {
  readonly violation: Error | undefined;
  readonly steps: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly counted: number;
  readonly aside: number;
  readonly streams: number;
  /** Messages with records that nobody had flushed, which expired. */
  readonly expired: number;
}

/** What a walk may do that is no bug. */
export interface QueueWalkOptions {
  /** Requests may be put aside. */
  readonly maySetAside?: boolean;
  /** An operator retires streams, and writers sleep where a send has had no answer, for longer than a tombstone stays. */
  readonly sleepsInDoubt?: boolean;
}

/** Runs the walk of `seed`. */
export async function queueWalk(
  seed: number,
  mutations: QueueWalkMutations,
  options: QueueWalkOptions = {},
  trace?: string[],
): Promise<QueueWalkResult> {
  return new QueueWalk(seed, mutations, options, trace).run();
}

class QueueWalk implements QueueWorld {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly database: PostgresModel;
  readonly queue: SimulatedQueue;
  readonly sleepsInDoubt: boolean;
  readonly #mutations: QueueWalkMutations;
  readonly #maySetAside: boolean;
  readonly #hasGroupLock: boolean;
  /** An operator retires streams. */
  readonly #hasOperator: boolean;
  /** Processes sleep longer than anything else takes. */
  readonly #sleepsLong: boolean;
  readonly #trace: string[] | undefined;
  readonly #life = new Life((error) => this.violate(error));
  readonly #writers: (QueueWriter | undefined)[];
  readonly #consumers: (QueueConsumer | undefined)[];
  readonly #requests = new Map<string, WalkRequest>();
  /** By request, the streams in which it was sent. */
  readonly #sentIn = new Map<string, Set<string>>();
  /** Streams that were retired while their writers might go on. What follows may be put aside. */
  readonly #retired = new Set<string>();
  /** The LSNs of acknowledged close records that have not expired in the queue. */
  readonly #closed = new Map<string, number>();
  /** Streams of which the queue has removed what nobody had flushed. */
  readonly #expired = new Set<string>();
  #expirations = 0;
  #pruner: SimulatedPruner | undefined;
  #violation: Error | undefined;
  #names = 0;
  #isOver = false;

  constructor(
    seed: number,
    mutations: QueueWalkMutations,
    { maySetAside = false, sleepsInDoubt = false }: QueueWalkOptions,
    trace: string[] | undefined,
  ) {
    this.random = new Mulberry32(seed);
    this.#mutations = mutations;
    this.#trace = trace;
    const watch = { sent: () => undefined, committed: () => this.#check() };
    this.database = new PostgresModel(this.scheduler, this.random, watch, mutations, this.uuid(), SCALE);
    this.database.slowness = this.random.pick([1, 1, 1, 2]);
    const hasGroupLock = this.random.below(4) > 0;
    this.queue = new SimulatedQueue(this.scheduler, this.random, {
      ...TIMES,
      hasGroupLock,
      hidesRepeats: mutations.libraryRepeats === true,
    });
    this.queue.slowness = this.random.pick([1, 1, 1, 4]);
    this.queue.onExpired = (message) => this.#lose(message);
    this.#maySetAside = maySetAside;
    this.#hasGroupLock = hasGroupLock;
    this.sleepsInDoubt = sleepsInDoubt;
    this.#hasOperator = this.random.below(3) === 0 || sleepsInDoubt;
    this.#sleepsLong = this.random.below(3) === 0;
    this.#writers = Array.from({ length: this.random.pick(WRITERS) }, () => undefined);
    this.#consumers = Array.from({ length: this.random.pick(CONSUMERS) }, () => undefined);
    this.note(() => (hasGroupLock ? 'a queue that locks groups' : 'a queue that locks no groups'));
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

  sent(stream: string, name: string): void {
    const streams = this.#sentIn.get(name);
    if (streams === undefined) this.#sentIn.set(name, new Set([stream]));
    else streams.add(stream);
  }

  isGone(stream: string): boolean {
    return this.#hasGroupLock || this.database.tables.deleted.has(stream);
  }

  closed(stream: string, lsn: number): void {
    this.#closed.set(stream, lsn);
  }

  expires(stream: string, lsn: number): void {
    this.#retired.add(stream);
    const isClosed = lsn >= (this.#closed.get(stream) ?? Number.POSITIVE_INFINITY);
    const isInQueue = this.queue.messages.some(({ group }) => group === stream);
    if (isClosed && !isInQueue) this.violate(new Violation(`${stream} is closed, and is retired after 15 days`));
  }

  sleep({ life, name }: { readonly life: Life; readonly name: string }): void {
    const { random, scheduler } = this;
    if (life.isOver || life.isFrozen) return;
    const least = this.sleepsInDoubt ? TOMBSTONE_MS + 700 : 0;
    const ms = least + random.below(random.pick(this.#sleepsLong && !this.sleepsInDoubt ? [300, 4000] : [50, 300]));
    this.note(() => `${name} sleeps for ${ms} ms`);
    life.freeze();
    scheduler.after(ms, this.#life, () => life.thaw(scheduler));
  }

  async run(): Promise<QueueWalkResult> {
    this.#main().then(
      () => (this.#isOver = true),
      (error: unknown) => this.violate(error),
    );
    const isDone = (): boolean => this.#isOver || this.#violation !== undefined;
    const isFinished = await this.scheduler.run(isDone, 3 * WALK_MS + 2 * HEAL_MS, () => undefined);
    const { counters, checkpoints, uncovered } = this.database.tables;
    return {
      violation: this.#violation ?? (isFinished ? undefined : new Violation('The walk came to a halt')),
      steps: this.scheduler.steps,
      requests: this.#requests.size,
      acknowledged: [...this.#requests.values()].filter(({ isAcknowledged }) => isAcknowledged).length,
      counted: counters.size,
      aside: uncovered.length,
      streams: checkpoints.size,
      expired: this.#expirations,
    };
  }

  async #main(): Promise<void> {
    this.#replacePruner();
    while (this.scheduler.now < (this.sleepsInDoubt ? 3 * WALK_MS : WALK_MS)) {
      await this.#pause(this.random.below(20));
      this.#act();
    }
    this.note(() => 'everything is healthy from here on');
    this.database.slowness = 1;
    this.database.isDead = false;
    this.queue.heal();
    for (const process of [...this.#writers, ...this.#consumers]) process?.crash();
    const careful = new QueueConsumer(this, this.#mutations, 'the last consumer', EXPIRY_MS, true);
    const until = this.scheduler.now + HEAL_MS;
    while (!this.#isAllEnded && this.scheduler.now < until) await this.#pause(50);
    careful.crash();
    this.#checkAcknowledged();
    if (!this.#isAllEnded) throw new Violation('A stream does not end');
  }

  /** Nothing is under way or in the queue, and each stream is retired, or its tombstone is gone. */
  get #isAllEnded(): boolean {
    const { checkpoints } = this.database.tables;
    const isQueueEmpty = this.queue.messages.every(({ group }) => this.#expired.has(group));
    const isEnded = ([stream, row]: readonly [string, CheckpointRow]): boolean =>
      row.retiredAt !== undefined || this.#expired.has(stream);
    return this.queue.underWay === 0 && isQueueEmpty && [...checkpoints].every(isEnded);
  }

  #act(): void {
    const { random } = this;
    switch (random.below(28)) {
      case 0:
        this.#disturb(random.pick([...this.#writers, ...this.#consumers]));
        return;
      case 1:
      case 2:
      case 3:
        this.#startWriter(random.below(this.#writers.length));
        return;
      case 4:
      case 5:
      case 24:
      case 25:
      case 26:
        this.#startConsumer(random.below(this.#consumers.length));
        return;
      case 6:
        if (random.below(8) === 0) this.#replacePruner();
        return;
      case 7:
        if (random.below(6) === 0) this.#disturbDatabase();
        return;
      case 8:
        if (random.below(6) === 0) this.#disturbQueue();
        return;
      case 9:
        if (this.#hasOperator) this.#retire().catch((error: unknown) => this.violate(error));
        return;
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

  #disturb(process: QueueWriter | QueueConsumer | undefined): void {
    if (process?.isUp !== true) return;
    switch (this.random.below(4)) {
      case 0:
        process.crash();
        return;
      case 1:
        if (process instanceof QueueWriter) process.stop();
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
    this.#writers[index] = new QueueWriter(this, this.#mutations, `writer ${this.#names}`);
  }

  #startConsumer(index: number): void {
    if (this.#consumers[index]?.isUp === true) return;
    this.#names += 1;
    this.#consumers[index] = new QueueConsumer(this, this.#mutations, `consumer ${this.#names}`, EXPIRY_MS);
  }

  /** An operator's command: it retires any stream that has been silent for five minutes. */
  async #retire(): Promise<void> {
    const open = [...this.database.tables.checkpoints].filter(([, row]) => row.retiredAt === undefined);
    if (open.length === 0) return;
    const [stream] = this.random.pick(open);
    try {
      const session = await this.database.connect(this.#life);
      this.#retired.add(stream);
      const [row] = await session.query({ text: RETIRE_DEAD_STREAM, values: [stream] });
      this.note(() => `an operator ${row === undefined ? 'does not retire' : 'retires'} ${stream}`);
      session.destroy();
    } catch (error) {
      expectTrouble(error);
    }
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

  #disturbQueue(): void {
    const { random, queue } = this;
    switch (random.below(4)) {
      case 0:
        this.note(() => 'the queue does not answer');
        queue.isGone = true;
        this.#later(random.below(random.pick([30, 300])), () => (queue.isGone = false));
        return;
      case 1:
        this.note(() => 'the queue is throttled');
        queue.isThrottled = true;
        this.#later(random.below(random.pick([30, 300])), () => (queue.isThrottled = false));
        return;
      case 2:
        queue.slowness = random.pick([10, 30]);
        this.#later(random.below(300), () => (queue.slowness = 1));
        return;
      default:
        queue.loseNext = 1 + random.below(2);
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

  /** The queue keeps nothing for longer than its retention. */
  #lose({ group, body }: QueueMessage): void {
    const { lsn, follows, isClose } = decodeRecord(body);
    if (isClose) this.#closed.delete(group);
    const row = this.database.tables.checkpoints.get(group);
    if (row !== undefined && lsn <= row.lsn) return;
    if (row !== undefined && follows > row.lsn && !this.#expired.has(group)) {
      this.violate(new Violation(`LSN ${lsn} of ${group} has waited for LSN ${follows}, which is not in the queue`));
    }
    this.note(() => `LSN ${lsn} of ${group} expires in the queue`);
    this.#expired.add(group);
    this.#expirations += 1;
  }

  #check(): void {
    const { counters, uncovered } = this.database.tables;
    for (const [key, sum] of counters) {
      if (sum > 1n) this.violate(new Violation(`${key} is counted ${sum} times`));
      const request = this.#requests.get(key);
      if (request !== undefined) this.#checkRequest(request);
    }
    if (this.#maySetAside) return;
    const row = uncovered.find(({ stream }) => !this.#retired.has(stream) && !this.#expired.has(stream));
    if (row !== undefined) this.violate(new Violation(`${row.key} of ${row.stream} is put aside without need`));
  }

  #checkRequest(request: WalkRequest): void {
    if (!request.isRefused || !this.database.tables.counters.has(request.name)) return;
    this.violate(new Violation(`${request.name} is refused, and counted`));
  }

  #checkAcknowledged(): void {
    const { counters, uncovered } = this.database.tables;
    const aside = new Set(uncovered.map(({ key }) => key));
    for (const { name, isAcknowledged } of this.#requests.values()) {
      const mayExpire = [...(this.#sentIn.get(name) ?? [])].some((stream) => this.#expired.has(stream));
      if (!isAcknowledged || mayExpire || counters.get(name) === 1n || aside.has(name)) continue;
      throw new Violation(`${name} is lost`);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.scheduler.after(ms, this.#life, resolve));
  }
}
