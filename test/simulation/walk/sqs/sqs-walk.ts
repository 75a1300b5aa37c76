/** A walk with the sqs journal on the simulated queue, and an operator who retires some streams. */
import { RETIRE_DEAD_STREAM } from '#product/db/upkeep-statements.js';
import type { CheckpointRow } from '../../database/tables.js';
import { Violation } from '../../expectations.js';
import { type QueueKind, type QueueMessage, SimulatedQueue } from '../../simulated-queue.js';
import { expectTrouble, type WalkProcess } from '../process.js';
import { type Fleet, Walk, WALK_SCALE, type WalkPlan, type WalkResult } from '../walk.js';
import { SqsConsumer } from './sqs-consumer.js';
import type { SqsWalkMutations } from './sqs-mutations.js';
import { decodeRecord } from './sqs-record.js';
import { SqsWriter, type SqsWorld } from './sqs-writer.js';

const PLAN: WalkPlan = {
  scale: { ...WALK_SCALE, tombstoneMs: 1850 },
  walkMs: 4800,
  healMs: 20_000,
  paceMs: 20,
  prunerPacesMs: [10, 10, 50],
  elsewhereOneIn: 5,
  hasFailovers: false,
};
/** Five minutes and 14 days, in ms. */
const TIMES: Omit<QueueKind, 'hasGroupLock'> = { deduplicationMs: 300, retentionMs: 1700 };
/** How long the row of a retired stream stays, in ms. */
const TOMBSTONE_MS = PLAN.scale.windowHourMs + PLAN.scale.tombstoneMs;
/** 15 days without a record, in ms. */
const EXPIRY_MS = 1850;
/** Most at a time. Where there are few, what idempotency keys wait for moves on faster. */
const WRITERS = [1, 1, 2, 3] as const;
const CONSUMERS = [1, 2, 3] as const;

/** The result of a walk. */
export interface SqsWalkResult extends WalkResult {
  /** Messages with records that nobody had flushed, which expired. */
  readonly expired: number;
}

/** What a walk may do that is no bug. */
export interface SqsWalkOptions {
  /** Requests may be put aside. */
  readonly maySetAside?: boolean;
  /** An operator retires streams, and writers sleep where a send has had no answer, for longer than a tombstone stays. */
  readonly sleepsInDoubt?: boolean;
}

/** Runs the walk of `seed`. */
export async function sqsWalk(
  seed: number,
  mutations: SqsWalkMutations,
  options: SqsWalkOptions = {},
  trace?: string[],
): Promise<SqsWalkResult> {
  const walk = new SqsWalk(seed, mutations, options, trace);
  return { ...(await walk.run()), expired: walk.expirations };
}

class SqsWalk extends Walk implements SqsWorld {
  readonly queue: SimulatedQueue;
  readonly sleepsInDoubt: boolean;
  expirations = 0;
  protected override readonly writers: Fleet<SqsWriter>;
  protected override readonly flushers: Fleet<SqsConsumer>;
  protected override readonly actions = [
    [1, () => this.disturb()],
    [3, () => this.start(this.writers, 'writer', (name) => new SqsWriter(this, this.#mutations, name))],
    [2, () => this.#startConsumer()],
    [1, () => this.onceIn(8, () => this.replacePruner())],
    [1, () => this.onceIn(6, () => this.disturbDatabase())],
    [
      1,
      () => this.onceIn(6, () => this.disturbService('queue', this.queue, 30, (is) => (this.queue.isThrottled = is))),
    ],
    [1, () => this.#retireSome()],
    [4, () => this.plainRequest()],
    [10, () => this.idempotentRequest()],
    [3, () => this.#startConsumer()],
    [1, () => this.idempotentRequest()],
  ] as const;
  readonly #mutations: SqsWalkMutations;
  readonly #maySetAside: boolean;
  readonly #hasGroupLock: boolean;
  /** An operator retires streams. */
  readonly #hasOperator: boolean;
  /** Processes sleep longer than anything else takes. */
  readonly #sleepsLong: boolean;
  /** By request, the streams in which it was sent. */
  readonly #sentIn = new Map<string, Set<string>>();
  /** Streams that were retired while their writers might go on. What follows may be put aside. */
  readonly #retired = new Set<string>();
  /** The LSNs of acknowledged close records that have not expired in the queue. */
  readonly #closed = new Map<string, number>();
  /** Streams of which the queue has removed what nobody had flushed. */
  readonly #expired = new Set<string>();

  constructor(
    seed: number,
    mutations: SqsWalkMutations,
    { maySetAside = false, sleepsInDoubt = false }: SqsWalkOptions,
    trace: string[] | undefined,
  ) {
    super(seed, mutations, sleepsInDoubt ? { ...PLAN, walkMs: 3 * PLAN.walkMs } : PLAN, trace);
    const { random } = this;
    this.#mutations = mutations;
    this.database.slowness = random.pick([1, 1, 1, 2]);
    this.#hasGroupLock = random.below(4) > 0;
    this.queue = new SimulatedQueue(this.scheduler, random, {
      ...TIMES,
      hasGroupLock: this.#hasGroupLock,
      hidesRepeats: mutations.libraryRepeats === true,
    });
    this.queue.slowness = random.pick([1, 1, 1, 4]);
    this.queue.onExpired = (message) => this.#lose(message);
    this.#maySetAside = maySetAside;
    this.sleepsInDoubt = sleepsInDoubt;
    this.#hasOperator = random.below(3) === 0 || sleepsInDoubt;
    this.#sleepsLong = random.below(3) === 0;
    this.writers = this.room(WRITERS);
    this.flushers = this.room(CONSUMERS);
    this.note(() => (this.#hasGroupLock ? 'a queue that locks groups' : 'a queue that locks no groups'));
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

  protected override sleepMs(): number {
    const least = this.sleepsInDoubt ? TOMBSTONE_MS + 700 : 0;
    const isLong = this.#sleepsLong && !this.sleepsInDoubt;
    return least + this.random.below(this.random.pick(isLong ? [300, 4000] : [50, 300]));
  }

  #startConsumer(): void {
    this.start(this.flushers, 'consumer', (name) => new SqsConsumer(this, this.#mutations, name, EXPIRY_MS));
  }

  #retireSome(): void {
    if (this.#hasOperator) this.#retire().catch((error: unknown) => this.violate(error));
  }

  /** An operator's command: it retires any stream that has been silent for five minutes. */
  async #retire(): Promise<void> {
    const open = [...this.database.tables.checkpoints].filter(([, row]) => row.retiredAt === undefined);
    if (open.length === 0) return;
    const [stream] = this.random.pick(open);
    try {
      const session = await this.database.connect(this.life);
      this.#retired.add(stream);
      const [row] = await session.query({ text: RETIRE_DEAD_STREAM, values: [stream] });
      this.note(() => `an operator ${row === undefined ? 'does not retire' : 'retires'} ${stream}`);
      session.destroy();
    } catch (error) {
      expectTrouble(error);
    }
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
    this.expirations += 1;
  }

  protected override heal(): void {
    this.queue.heal();
  }

  protected override startLast(): WalkProcess {
    return new SqsConsumer(this, this.#mutations, 'the last consumer', EXPIRY_MS, true);
  }

  /** Nothing is in the queue, and each stream is retired, or its tombstone is gone. */
  protected override get isAllEnded(): boolean {
    const isQueueEmpty = this.queue.messages.every(({ group }) => this.#expired.has(group));
    const isEnded = ([stream, row]: readonly [string, CheckpointRow]): boolean =>
      row.retiredAt !== undefined || this.#expired.has(stream);
    return this.queue.underWay === 0 && isQueueEmpty && [...this.database.tables.checkpoints].every(isEnded);
  }

  protected override isKept(name: string): boolean {
    return super.isKept(name) || [...(this.#sentIn.get(name) ?? [])].some((stream) => this.#expired.has(stream));
  }

  protected override maySetAside(stream: string): boolean {
    return this.#maySetAside || this.#retired.has(stream) || this.#expired.has(stream);
  }
}
