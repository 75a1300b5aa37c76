/** The faults of a history with a journal that others can reach. Each history has only a few kinds, chosen by its seed. */
import { RETIRE_DEAD_STREAM } from '#product/db/upkeep-statements.js';
import type { Tables } from './database/tables.js';
import type { Life } from './scheduler.js';
import type { SharedPlan } from './shared-settings.js';
import type { SimulatedNode } from './simulated-node.js';
import { type BrokerState, EMPTY_STATE } from './simulated-broker.js';
import type { World } from './world.js';

const KINDS = [
  'database-gone',
  'database-silent',
  'database-restart',
  'database-slow',
  'database-failover',
  'connections-silent',
  'connections-cut',
  'statements-refused',
  'reply-lost',
  'crash',
  'freeze',
  'thread-dies',
  'poison',
] as const;

/** Only where the plan of the history says so. */
const LOSS = 'broker-loses-messages';

const BROKER_KINDS = [
  'broker-gone',
  'broker-full',
  'broker-slow',
  'broker-replies-lost',
  'server-without-database',
  'server-without-broker',
] as const;

const QUEUE_KINDS = [
  'queue-gone',
  'queue-throttled',
  'queue-slow',
  'queue-replies-lost',
  'server-without-database',
  'server-without-queue',
  'operator-retires',
] as const;

/** A kind of fault; `poison` is a property of keys. */
export type SharedFaultKind =
  (typeof KINDS)[number] | (typeof BROKER_KINDS)[number] | (typeof QUEUE_KINDS)[number] | typeof LOSS;

/** The longest time between the last state that a standby has and the end of the primary, in ms. */
const STANDBY_LAG_MAX_MS = 1000;
/** The same where the journal is in a broker, which keeps committed records for longer. */
export const BROKER_STANDBY_LAG_MAX_MS = 300;

/** How long before its end a broker may have written to its disk for the last time, in ms, and how long its restart takes. */
const UNWRITTEN_MS = [20, 100, 300, 1500];
const RESTART_MIN_MS = 60;
const RESTART_MS = 300;
const ANSWERS_LOST = 10;
/** Of so many such brokers one has lost its whole store. */
const STORE_GONE_ONE_IN = 5;

/** What the faults of a history depend on. */
export type FaultPlan = Pick<SharedPlan, 'losesTail' | 'memoryHasIt' | 'takeoverMs' | 'outageMaxMs' | 'sleepMaxMs'>;

/** What a history does when a fault comes. */
export interface FaultEvents {
  /** The database is as it was at this time. */
  failedOver(from: number): void;
  /** The broker has lost its last messages. It may have been power, and others have lost theirs, too. */
  brokerLost(): void;
}

/** The faults of one history. */
export class SharedFaults {
  readonly names: readonly SharedFaultKind[];
  /** Each failover: what was committed between the two is gone. */
  readonly failovers: { readonly from: number; readonly to: number }[] = [];
  readonly #world: World;
  readonly #life: Life;
  readonly #events: FaultEvents;
  readonly #plan: FaultPlan;
  readonly #healers = new Set<() => void>();
  #isHealed = false;
  #isFailingOver = false;
  #isLosing = false;

  constructor(world: World, life: Life, events: FaultEvents, plan: FaultPlan) {
    this.#world = world;
    this.#plan = plan;
    this.#life = life;
    this.#events = events;
    const density = 2 + world.random.below(4);
    const kinds = [
      ...KINDS,
      ...(world.broker === undefined ? [] : BROKER_KINDS),
      ...(world.queue === undefined ? [] : QUEUE_KINDS),
    ];
    const names: SharedFaultKind[] = kinds.filter(() => world.random.below(density) === 0);
    const { takeoverMs, losesTail, memoryHasIt } = plan;
    if (takeoverMs !== undefined) names.push('broker-replies-lost');
    this.names = losesTail ? [...(memoryHasIt ? [] : names), LOSS] : names;
  }

  has(kind: SharedFaultKind): boolean {
    return this.names.includes(kind);
  }

  /** Causes a fault of one of the kinds, at this process if it is one of a process. */
  strike(node: SimulatedNode): void {
    if (this.#isHealed || this.names.length === 0) return;
    const kind = this.#world.random.pick(this.names);
    this.#world.note(() => `fault: ${kind}`);
    this.#strike(kind, node);
  }

  /** Where the history dwells on takeovers, or on a broker that loses messages: one may begin now. */
  dwell(node: SimulatedNode): void {
    if (this.#isHealed) return;
    const { takeoverMs, memoryHasIt } = this.#plan;
    if (takeoverMs !== undefined && !memoryHasIt && this.#world.oneIn(12)) this.freeze(node);
    if (this.#plan.losesTail && this.#world.oneIn(100)) this.#strike(LOSS, node);
  }

  /** Ends all faults. */
  heal(): void {
    const { database, broker, queue } = this.#world;
    this.#isHealed = true;
    this.#world.isHealthy = true;
    broker?.heal();
    // A connection that is silent may last for longer than the queue keeps anything.
    queue?.heal(true);
    for (const heal of this.#healers) heal();
    database.isDead = false;
    database.network = 'fine';
    database.slowness = 1;
    database.refuseNext = 0;
    database.dropsRowsUntil = 0;
    database.dropsTokensUntil = 0;
    database.loseNext = 0;
  }

  #strike(kind: SharedFaultKind, node: SimulatedNode): void {
    const { random, database, broker } = this.#world;
    switch (kind) {
      case 'database-gone':
      case 'database-silent':
        database.network = kind === 'database-gone' ? 'gone' : 'silent';
        if (random.below(2) === 0) database.crash();
        else database.cut();
        this.#later(
          random.below(random.below(2) === 0 ? 300 : this.#plan.outageMaxMs),
          () => (database.network = 'fine'),
        );
        return;
      case 'database-restart':
        database.crash();
        return;
      case 'database-slow':
        database.slowness = random.pick([1, 10, 100]);
        this.#later(random.below(1000), () => (database.slowness = 1));
        return;
      case 'database-failover': {
        // A standby that is further behind than one failover makes it is too late for what the broker has purged.
        if (broker !== undefined && this.#isFailingOver) return;
        this.#isFailingOver = true;
        const [tables, at] = [database.snapshot(), this.#world.scheduler.now];
        const lagMaxMs = broker === undefined ? STANDBY_LAG_MAX_MS : BROKER_STANDBY_LAG_MAX_MS;
        this.#later(random.below(random.pick([10, 50, lagMaxMs])), () => this.#loseDatabase(tables, at));
        return;
      }
      case 'connections-silent':
        database.silence();
        return;
      case 'connections-cut':
        database.cut();
        return;
      case 'statements-refused':
        database.refuseNext = 1 + random.below(5);
        // No number of its own, so that seeds keep their histories.
        if (database.refuseNext === 4) database.dropsRowsUntil = this.#world.scheduler.now + 1000;
        if (database.refuseNext === 5) database.dropsTokensUntil = this.#world.scheduler.now + 2000;
        return;
      case 'reply-lost':
        database.loseNext = 1 + random.below(2);
        return;
      case 'crash':
        node.crashIn = 1 + random.below(30);
        return;
      case 'freeze':
        this.freeze(node);
        return;
      case 'thread-dies':
        node.killThread(random.below(node.shards));
        return;
      case 'poison':
        return;
      case 'broker-gone':
      case 'broker-full':
      case 'broker-slow':
      case 'broker-replies-lost':
        this.#strikeBroker(kind);
        return;
      case 'broker-loses-messages': {
        if (broker === undefined || this.#isLosing) return;
        this.#isLosing = true;
        const state = random.below(STORE_GONE_ONE_IN) === 0 ? EMPTY_STATE : broker.snapshot();
        // Where no writer hears of what will be lost, all of them go on, and those that flush have read it.
        if (random.below(2) === 0) broker.loseNext = ANSWERS_LOST;
        this.#later(random.below(random.pick(UNWRITTEN_MS)), () => this.#loseMessages(state));
        return;
      }
      case 'server-without-database':
        node.isCutFromDatabase = true;
        this.#healers.add(() => (node.isCutFromDatabase = false));
        this.#later(
          random.below(random.pick([300, Math.min(3000, this.#plan.outageMaxMs)])),
          () => (node.isCutFromDatabase = false),
        );
        return;
      case 'queue-gone':
      case 'queue-throttled':
      case 'queue-slow':
      case 'queue-replies-lost':
        this.#strikeQueue(kind);
        return;
      case 'operator-retires':
        this.#retire().catch((error: unknown) => {
          this.#world.note(() => `an operator meets with ${String(error)}`);
        });
        return;
      case 'server-without-broker':
      case 'server-without-queue':
        node.isCutFromJournal = true;
        this.#healers.add(() => (node.isCutFromJournal = false));
        this.#later(random.below(random.pick([300, 3000])), () => (node.isCutFromJournal = false));
    }
  }

  #strikeBroker(kind: 'broker-gone' | 'broker-full' | 'broker-slow' | 'broker-replies-lost'): void {
    const { random, broker } = this.#world;
    if (broker === undefined) return;
    switch (kind) {
      case 'broker-gone':
        broker.isGone = true;
        this.#later(random.below(random.pick([30, 300, 3000])), () => (broker.isGone = false));
        return;
      case 'broker-full':
        broker.isFull = true;
        this.#later(random.below(random.pick([30, 300, 1500])), () => (broker.isFull = false));
        return;
      case 'broker-slow':
        broker.slowness = random.pick([10, 40]);
        this.#later(random.below(500), () => (broker.slowness = 1));
        return;
      case 'broker-replies-lost':
        broker.loseNext = 1 + random.below(2);
    }
  }

  #strikeQueue(kind: 'queue-gone' | 'queue-throttled' | 'queue-slow' | 'queue-replies-lost'): void {
    const { random, queue } = this.#world;
    if (queue === undefined) return;
    switch (kind) {
      case 'queue-gone':
        queue.isGone = true;
        this.#later(random.below(random.pick([30, 300, 1500])), () => (queue.isGone = false));
        return;
      case 'queue-throttled':
        queue.isThrottled = true;
        this.#later(random.below(random.pick([30, 300, 1500])), () => (queue.isThrottled = false));
        return;
      case 'queue-slow':
        queue.slowness = random.pick([10, 30]);
        this.#later(random.below(500), () => (queue.slowness = 1));
        return;
      case 'queue-replies-lost':
        queue.loseNext = 1 + random.below(4);
    }
  }

  /** An operator's command: it retires any stream that has been silent for five minutes. */
  async #retire(): Promise<void> {
    const { random, database } = this.#world;
    const open = [...database.tables.checkpoints].filter(([, row]) => row.retiredAt === undefined);
    if (open.length === 0) return;
    const [stream] = random.pick(open);
    const session = await database.connect(this.#life);
    const [row] = await session.query({ text: RETIRE_DEAD_STREAM, values: [stream] });
    this.#world.note(() => `an operator ${row === undefined ? 'does not retire' : 'retires'} ${stream}`);
    session.destroy();
  }

  #loseMessages(state: BrokerState): void {
    const { random, broker } = this.#world;
    this.#isLosing = false;
    this.#world.note(() => `the broker has forgotten what came after sequence ${state.sequence}`);
    if (broker !== undefined) broker.loseNext = 0;
    broker?.restart(state, RESTART_MIN_MS + random.below(RESTART_MS));
    if (random.below(2) === 0) this.#events.brokerLost();
  }

  /** SIGSTOP, and SIGCONT some time later: soon, or after others have taken over, or after a window. */
  freeze(node: SimulatedNode, takeoverMs = this.#plan.takeoverMs): void {
    const { life, name } = node;
    const { scheduler, random, broker, queue } = this.#world;
    if (life.isOver || life.isFrozen) return;
    const ms =
      takeoverMs === undefined
        ? random.below(random.pick([50, 400, 1500, this.#plan.sleepMaxMs]))
        : takeoverMs * (0.6 + random.below(100) / 100);
    // That of a machine: its monotonic clock stands still.
    const isSuspension = queue === undefined ? broker !== undefined && Math.floor(ms) % 2 === 1 : random.below(2) === 0;
    this.#world.note(() => `${name} is ${isSuspension ? 'suspended' : 'stopped'} for ${ms} ms`);
    life.freeze();
    scheduler.after(ms, this.#life, () => {
      if (isSuspension) node.suspendedMs += ms;
      this.#world.note(() => `${name} goes on`);
      life.thaw(scheduler);
    });
  }

  /** The primary ends, and a standby takes over: at once or, where the journal does without the database meanwhile, later. */
  #loseDatabase(tables: Tables, from: number): void {
    const { random, database, broker, queue } = this.#world;
    if ((broker === undefined && queue === undefined) || random.below(2) === 0) {
      this.#failOver(tables, from);
      return;
    }
    database.isDead = true;
    database.crash();
    this.#later(random.below(this.#plan.outageMaxMs), () => {
      database.isDead = false;
      this.#failOver(tables, from);
    });
  }

  #failOver(tables: Tables, from: number): void {
    this.#isFailingOver = false;
    if (this.#isHealed) return;
    const { database, scheduler, circumstances } = this.#world;
    database.failOver(tables);
    circumstances.databaseChanged = true;
    this.failovers.push({ from, to: scheduler.now });
    this.#world.note(() => `the database is as it was at ${from.toFixed(1)}`);
    this.#events.failedOver(from);
  }

  #later(ms: number, callback: () => void): void {
    this.#world.scheduler.after(ms, this.#life, () => {
      if (!this.#isHealed) callback();
    });
  }
}
