/**
 * What all random histories have in common: clients with idempotent requests and retries, hot counters, a pruner, another node
 * that never fails, and the run up to the first violation. The seed determines everything.
 */
import { CounterError } from '#product/core/errors.js';
import { isOpen } from './database/tables.js';
import { DROPPED_PREFIX, isDropped, isPoison, POISON_PREFIX } from './database/values.js';
import { type Attempt, ClientRequest, type ExpectedCounter, Violation } from './expectations.js';
import { Life } from './scheduler.js';
import type { SimulatedNode } from './simulated-node.js';
import { type PrunerSettings, SimulatedPruner } from './simulated-pruner.js';
import { isStranger } from './strangers.js';
import type { World } from './world.js';

/** IDEMPOTENCY_WINDOW_HOURS of every process. */
export const WINDOW_HOURS = 1;
/** The pruner's pace in the last check. */
const UPKEEP_PACE_MS = 20;
/** A digit of a sum can count up to three. */
const ATTEMPTS_MAX = 3;

/** The result of a history. */
export interface HistoryResult {
  readonly seed: number;
  readonly steps: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly violation: Error | undefined;
}

/** A history. */
export abstract class RandomHistory {
  protected readonly world: World;
  protected readonly life: Life;
  protected pruner: SimulatedPruner | undefined;
  #keys: string[] = [];
  #keyGeneration = 0;
  #pruners = 0;
  readonly #retryable: ClientRequest[] = [];
  #requests = 0;
  #acknowledged = 0;
  #isDone = false;

  constructor(world: World) {
    this.world = world;
    this.life = new Life((error) => world.violate(error));
  }

  /** Runs it until its end or its first violation, at most for `timeMaxMs` of virtual time, which no history reaches. */
  async run(timeMaxMs: number): Promise<HistoryResult> {
    const violation = await this.#violationWithin(timeMaxMs);
    const { seed, scheduler } = this.world;
    const [requests, acknowledged] = [this.#requests, this.#acknowledged];
    return { seed, steps: scheduler.steps, requests, acknowledged, violation };
  }

  async #violationWithin(timeMaxMs: number): Promise<Error | undefined> {
    const { world } = this;
    try {
      this.main().then(
        () => (this.#isDone = true),
        (error: unknown) => world.violate(error),
      );
      const isFinished = await world.scheduler.run(
        () => this.#isDone,
        timeMaxMs,
        () => {
          world.throwViolation();
          this.checkBalances();
        },
      );
      if (!isFinished) throw new Violation('The history came to a halt: nothing is left that could happen');
      return undefined;
    } catch (error) {
      world.note(() => `violation: ${String(error)}`);
      return error instanceof Error ? error : new Violation(String(error));
    }
  }

  /** Everything that happens, up to the last check. */
  protected abstract main(): Promise<void>;

  /** Checks the balances of the processes, after each step. */
  protected abstract checkBalances(): void;

  /** Whether the history dwells on idempotency windows. */
  protected abstract get onWindows(): boolean;

  /** Whether a request that another node counts now can be lost later. */
  protected abstract get isElsewhereUnsafe(): boolean;

  /** Settings of the next pruner, at a pace of its own unless `paceMs` is given. */
  protected abstract prunerSettings(paceMs?: number): Omit<PrunerSettings, 'windowHours'>;

  /** A request was acknowledged, by another node (`isElsewhere`) or by a process of this history. */
  protected onAcknowledged?(request: ClientRequest, isElsewhere: boolean): void;

  protected makeKeys(count: number, withPoison: boolean): void {
    this.#keys = Array.from({ length: count }, (_, index) => `k${index}`);
    if (withPoison) this.#keys.push(count % 2 === 0 ? DROPPED_PREFIX : POISON_PREFIX);
  }

  /** One of the few hot counters that can take one more increment; new ones replace used up ones. */
  protected counter(): ExpectedCounter {
    const { random, expectations } = this.world;
    const index = random.below(this.#keys.length);
    // In range, and the keys are never empty.
    const counter = expectations.counter(this.#keys[index] as string, index % 2 === 0 ? 1 : -1);
    if (!counter.isUsedUp) return counter;
    this.#keyGeneration += 1;
    const base = isPoison(counter.key) ? (isDropped(counter.key) ? DROPPED_PREFIX : POISON_PREFIX) : 'k';
    this.#keys[index] = `${base}${index}.${this.#keyGeneration}`;
    return this.counter();
  }

  /** A request of some increments, with an idempotency key or without. */
  protected newRequest(): ClientRequest {
    const { random } = this.world;
    const increments = random.below(3) === 0 ? 1 + random.below(4) : 1;
    const counters = Array.from({ length: increments }, () => this.counter());
    this.#requests += 1;
    const idempotencyKey = random.below(this.onWindows ? 2 : 4) === 0 ? `t${this.#requests}` : undefined;
    const request = new ClientRequest(`request ${this.#requests}`, counters, idempotencyKey);
    if (idempotencyKey !== undefined) this.#retryable.push(request);
    return request;
  }

  protected attemptOf(request: ClientRequest, isElsewhere = false): Attempt {
    return request.attempt(this.world.scheduler.now, (fate) => {
      this.world.note(() => `${request.name} is ${fate}`);
      if (fate !== 'acknowledged') return;
      this.#acknowledged += 1;
      this.onAcknowledged?.(request, isElsewhere);
    });
  }

  protected get windowMs(): number {
    return WINDOW_HOURS * this.world.database.clock.scale.windowHourMs;
  }

  /** Requests that a client may still send again: within the window of the first attempt. */
  protected recent(): readonly ClientRequest[] {
    const { scheduler } = this.world;
    return this.#retryable
      .filter(({ firstSentAt = 0 }) => scheduler.now <= firstSentAt + this.windowMs)
      .slice(-8)
      .filter(({ attempts }) => attempts < ATTEMPTS_MAX);
  }

  /** A client repeats an idempotent request at a node that never fails. */
  protected retryElsewhere(): void {
    const { random, database } = this.world;
    const recent = this.recent().filter(({ sums }) => ![...sums.keys()].some(isPoison));
    if (this.isElsewhereUnsafe || recent.length === 0) return;
    const request = random.pick(recent);
    const { name, idempotencyKey = '', digest, sums } = request;
    const attempt = this.attemptOf(request, true);
    const isNew = database.countElsewhere({ idempotencyKey, digest, sums: [...sums] });
    this.world.note(() => `${name} is sent to another node, which ${isNew ? 'counts it' : 'knows it'}`);
    attempt.settle(undefined);
  }

  /** A process that prunes, in place of an earlier one that was killed at any point. */
  protected replacePruner(paceMs?: number): void {
    this.pruner?.crash();
    this.#pruners += 1;
    const settings = { windowHours: WINDOW_HOURS, ...this.prunerSettings(paceMs) };
    this.pruner = new SimulatedPruner(this.world, settings, `pruner ${this.#pruners}`);
    this.pruner.start();
  }

  /** Waits until the window of every request is over, and then prunes fast. */
  protected async pruneAfterWindow(): Promise<void> {
    const { scale } = this.world.database.clock;
    await this.pause(scale.windowHourMs * WINDOW_HOURS + scale.marginMs + 2000 / scale.rate);
    this.replacePruner(UPKEEP_PACE_MS);
  }

  /** Streams whose row is open. */
  protected get openStreams(): readonly string[] {
    return [...this.world.database.tables.checkpoints]
      .filter(([stream, row]) => isOpen(row) && !isStranger(stream, this.world))
      .map(([stream]) => stream);
  }

  /** A shard that fails while it is drained ends the process, and the process is what matters here. */
  protected sigterm(node: SimulatedNode): void {
    this.allowRefusal(node.terminate());
  }

  /** The product may refuse; any other error is a violation. */
  protected allowRefusal(promise: Promise<unknown>): void {
    promise.catch((error: unknown) => {
      if (!(error instanceof CounterError)) this.world.violate(error);
    });
  }

  protected pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.world.scheduler.after(ms, this.life, resolve));
  }
}

/** The increments of a request in a trace. */
export function textOf({ increments }: ClientRequest): string {
  return increments.map(({ counter, digit }) => `${counter.key}[${digit}]`).join(' ');
}
