/** A walk with the nats journal on the simulated broker. */
import { SimulatedBroker } from '../../simulated-broker.js';
import type { WalkProcess } from '../process.js';
import { type Fleet, Walk, WALK_SCALE, type WalkPlan, type WalkResult } from '../walk.js';
import { decodeMessage, reachedLsn } from './nats-message.js';
import type { NatsWalkMutations } from './nats-mutations.js';
import { NatsRollUp } from './nats-roll-up.js';
import { NatsWriter, type NatsWorld } from './nats-writer.js';

const PLAN: WalkPlan = {
  scale: WALK_SCALE,
  walkMs: 2500,
  healMs: 20_000,
  paceMs: 12,
  prunerPacesMs: [10, 10, 50],
  elsewhereOneIn: 5,
  hasFailovers: false,
};
/** Most at a time. Where there are few, what idempotency keys wait for moves on faster. */
const WRITERS = [1, 1, 2, 3] as const;
const ROLL_UPS = [1, 2, 3] as const;

/** What a walk may do that is no bug. */
export interface NatsWalkOptions {
  /** Idempotent requests may be put aside. On a cluster before 2.11 they always may. */
  readonly maySetAside?: boolean;
}

/** Runs the walk of `seed`. */
export function natsWalk(
  seed: number,
  mutations: NatsWalkMutations,
  options: NatsWalkOptions = {},
  trace?: string[],
): Promise<WalkResult> {
  return new NatsWalk(seed, mutations, options, trace).run();
}

class NatsWalk extends Walk implements NatsWorld {
  readonly broker: SimulatedBroker;
  protected override readonly writers: Fleet<NatsWriter>;
  protected override readonly flushers: Fleet<NatsRollUp>;
  protected override readonly actions = [
    [1, () => this.disturb()],
    [3, () => this.#startWriter()],
    [2, () => this.start(this.flushers, 'roll-up', (name) => new NatsRollUp(this, this.#mutations, name))],
    [1, () => this.onceIn(8, () => this.replacePruner())],
    [1, () => this.onceIn(4, () => this.disturbDatabase())],
    [
      1,
      () =>
        this.onceIn(4, () => this.disturbService('broker', this.broker, 40, (isFull) => (this.broker.isFull = isFull))),
    ],
    [5, () => this.plainRequest()],
    [10, () => this.idempotentRequest()],
  ] as const;
  readonly #mutations: NatsWalkMutations;
  readonly #maySetAside: boolean;

  constructor(
    seed: number,
    mutations: NatsWalkMutations,
    { maySetAside = false }: NatsWalkOptions,
    trace: string[] | undefined,
  ) {
    super(seed, mutations, PLAN, trace);
    const { random } = this;
    this.#mutations = mutations;
    this.database.slowness = random.pick([1, 1, 1, 4]);
    const isOldCluster = random.below(3) === 0;
    const hasReplicas = isOldCluster || random.below(2) === 0;
    const { lagMaxMs } = mutations;
    this.broker = new SimulatedBroker(this.scheduler, random, { isOldCluster, hasReplicas, lagMaxMs });
    this.broker.slowness = random.pick([1, 1, 1, 4]);
    this.#maySetAside = maySetAside || isOldCluster;
    this.writers = this.room(WRITERS);
    this.flushers = this.room(ROLL_UPS);
    this.note(() => (isOldCluster ? 'an old cluster' : hasReplicas ? 'a cluster' : 'one server'));
  }

  #startWriter(): void {
    const { random } = this;
    this.start(this.writers, 'writer', (name) => new NatsWriter(this, this.#mutations, name, random.below(2) === 0));
  }

  protected override heal(): void {
    this.broker.heal();
  }

  protected override startLast(): WalkProcess {
    return new NatsRollUp(this, this.#mutations, 'the last roll-up', true);
  }

  /** Each stream is retired, or its tombstone is gone. */
  protected override get isAllEnded(): boolean {
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

  protected override maySetAside(): boolean {
    return this.#maySetAside;
  }
}
