/** The product's pruner as a process of its own, in rounds at a random pace. */
import { CounterError } from '#product/core/errors.js';
import { IdempotencyPruner } from '#product/db/idempotency-pruner.js';
import type { SimulatedSession } from './database/session.js';
import { Life } from './scheduler.js';
import type { World } from './world.js';

/** Limits of the pruner, and the longest time from one round to the next in ms. */
export interface PrunerSettings {
  readonly windowHours: number;
  readonly expiryDays: number;
  /** JOURNAL_KEEP_SECONDS of the postgres journal. */
  readonly logKeepSeconds?: number;
  readonly paceMs: number;
}

/** What the pruner needs of its world. */
export type PrunerWorld = Pick<World, 'scheduler' | 'random' | 'database' | 'note' | 'violate'>;

/** The process. */
export class SimulatedPruner {
  readonly life: Life;
  readonly name: string;
  /** Rounds that it has completed. */
  rounds = 0;
  readonly #world: PrunerWorld;
  readonly #settings: PrunerSettings;
  readonly #pruner: IdempotencyPruner;
  #session: SimulatedSession | undefined;

  constructor(world: PrunerWorld, settings: PrunerSettings, name: string) {
    this.#world = world;
    this.#settings = settings;
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    const log = (fields: object, message: string): void => {
      world.note(() => `${name}: ${message} ${JSON.stringify(fields)}`);
    };
    const { windowHours, expiryDays, logKeepSeconds } = settings;
    this.#pruner = new IdempotencyPruner({ windowHours, expiryDays, logKeepSeconds, logger: { warn: log, info: log } });
  }

  /** Begins with its rounds, which go on until {@link crash}. */
  start(): void {
    this.#work().catch((error: unknown) => this.#world.violate(error));
  }

  /** kill -9, at any point of a round. */
  crash(): void {
    this.life.end();
  }

  async #work(): Promise<void> {
    const { random, database } = this.#world;
    while (!this.life.isOver) {
      await this.#pause(random.below(this.#settings.paceMs));
      try {
        if (this.#session?.lost !== false) this.#session = await database.connect(this.life);
        const heldSeconds = await this.#pruner.round(this.#session);
        this.rounds += 1;
        this.#world.note(() => `${this.name}: ${heldSeconds ?? 'another node prunes'}`);
      } catch (error) {
        this.#expectRefusal(error);
      }
      if (random.below(3) === 0) this.#session?.destroy();
    }
  }

  /** The database refuses or is gone, which is expected; anything else is a bug. */
  #expectRefusal(error: unknown): void {
    const isExpected = error instanceof CounterError || (error instanceof Error && ('code' in error || isLost(error)));
    if (!isExpected) this.#world.violate(error);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

function isLost(error: Error): boolean {
  return error.message.includes('connection error');
}
