/**
 * Work for each member of a set once a second, spread over the second, so that requests do not wait behind it. HTTP thread.
 *
 * A second has twenty phases. A member belongs to the phase in which it joined.
 */
import { repeat, systemClock, type Timer } from '../../core/clock.js';
const PHASES = 20;
const PHASE_MS = 50;

/** The members and their work. The timer runs while there are members. */
export class Phases<T> {
  readonly #run: (members: ReadonlySet<T>) => void;
  readonly #phases: readonly Set<T>[] = Array.from({ length: PHASES }, () => new Set<T>());
  #current = 0;
  /** When the next phase is due, of `performance.now()`. */
  #dueAtMs = 0;
  #size = 0;
  #timer: Timer | undefined;

  /** `run` gets the members of one phase, at least one. */
  constructor(run: (members: ReadonlySet<T>) => void) {
    this.#run = run;
  }

  /** Adds a member, which runs in a second and then once a second. */
  add(member: T): void {
    this.#phases[this.#current]?.add(member);
    this.#size += 1;
    if (this.#timer !== undefined) return;
    this.#dueAtMs = performance.now() + PHASE_MS;
    this.#timer = repeat(systemClock, PHASE_MS, () => {
      this.#runDue();
    });
  }

  /** Removes a member, if it is there. */
  delete(member: T): void {
    if (!this.#phases.some((phase) => phase.delete(member))) return;
    this.#size -= 1;
    if (this.#size > 0) return;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  /** All members. */
  all(): readonly T[] {
    return this.#phases.flatMap((phase) => [...phase]);
  }

  /** Runs the phases that are due by the clock, because intervals drift. */
  #runDue(): void {
    const now = performance.now();
    // After a long pause each phase runs once.
    this.#dueAtMs = Math.max(this.#dueAtMs, now - PHASES * PHASE_MS);
    for (; this.#dueAtMs <= now && this.#timer !== undefined; this.#dueAtMs += PHASE_MS) this.#next();
  }

  #next(): void {
    this.#current = (this.#current + 1) % PHASES;
    const phase = this.#phases[this.#current];
    if (phase !== undefined && phase.size > 0) this.#run(phase);
  }
}
