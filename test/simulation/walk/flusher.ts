/** Processes that flush streams which others write. */
import type { SimulatedSession } from '../database/session.js';
import { type Position, type Trouble, WalkProcess, type WalkWorld } from './process.js';
import { valuesOfFlush, type WalkRecord } from './walk-flush.js';

/** A stream that it has taken. */
export interface HeldStream extends Position {
  readonly stream: string;
}

/** How often a process works, and meets with trouble. */
interface Pace {
  /** Most that it rests between two pieces of work, in ms. */
  readonly restMs: number;
  readonly troubleOneIn: number;
  readonly troubles: readonly Trouble[];
}

/** One process. A careful one meets with no trouble, and ends every stream. */
export abstract class Flusher<World extends WalkWorld, Held extends HeldStream> extends WalkProcess<World> {
  protected readonly isCareful: boolean;
  protected readonly held = new Map<string, Held>();
  readonly #pace: Pace;

  constructor(world: World, name: string, isCareful: boolean, pace: Pace) {
    super(world, name, isCareful ? [] : pace.troubles);
    this.isCareful = isCareful;
    this.#pace = pace;
  }

  /** Takes streams and flushes them. */
  protected work(): Promise<void> {
    const { random } = this.world;
    const { restMs, troubleOneIn } = this.#pace;
    return this.repeatWithDatabase(
      () => random.below(restMs),
      (session) => {
        this.fallOnceIn(troubleOneIn);
        return this.step(session, random.pick([undefined, ...this.held.values()]));
      },
    );
  }

  /** One piece of work on a stream, or on none. */
  protected abstract step(session: SimulatedSession, held: Held | undefined): Promise<void>;

  /** It still holds the stream as it did. */
  protected holds(held: Held): boolean {
    return !this.life.isOver && this.held.get(held.stream) === held;
  }

  protected drop({ stream }: Held): void {
    this.note(() => ` drops ${stream}`);
    this.held.delete(stream);
  }
}

/** A flush, until its reply or the row tells. */
export interface Doubt {
  readonly toLsn: number;
  readonly values: readonly unknown[];
}

/** A stream that it reads. */
export interface ReadStream extends HeldStream {
  /** What it has read above `lsn`. */
  records: readonly WalkRecord[];
  /** A flush without a reply. */
  doubt: Doubt | undefined;
}

/** A process that reads streams at its own pace. */
export abstract class RollUp<World extends WalkWorld, Held extends ReadStream> extends Flusher<World, Held> {
  /** Flushes some of what it has read. */
  protected async flushSome(session: SimulatedSession, held: Held): Promise<void> {
    const range = held.records.slice(0, 1 + this.world.random.below(held.records.length));
    held.doubt = { toLsn: held.lsn + range.length, values: valuesOfFlush(held.stream, held, range) };
    await this.sendFlush(session, held, held.doubt);
  }

  protected async sendFlush(session: SimulatedSession, held: Held, { toLsn, values }: Doubt): Promise<void> {
    const isApplied = await this.flush(session, values);
    if (this.life.isOver) return;
    if (isApplied) await this.committed(held, toLsn);
    else this.drop(held);
  }

  /** A flush had no reply. */
  protected async resolve(session: SimulatedSession, held: Held, doubt: Doubt): Promise<void> {
    const state = await this.readBack(session, held.stream, held, doubt.toLsn);
    if (this.life.isOver) return;
    if (state === 'done') await this.committed(held, doubt.toLsn);
    else if (state === 'undone') await this.sendFlush(session, held, doubt);
    else this.drop(held);
  }

  protected committed(held: Held, toLsn: number): Promise<void> {
    held.records = held.records.slice(toLsn - held.lsn);
    held.lsn = toLsn;
    held.doubt = undefined;
    return Promise.resolve();
  }

  /** Ends the stream, unless somebody else has it or it goes on. Either way it holds it no more. */
  protected async retire(
    session: SimulatedSession,
    held: Held,
    text?: string,
    ...more: readonly unknown[]
  ): Promise<void> {
    await this.retireRow(session, held.stream, held, text, ...more);
    if (!this.life.isOver) this.held.delete(held.stream);
  }
}
