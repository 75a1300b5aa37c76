/** A process that writes streams of a journal, one at a time. What it has taken is in hand until it is sent. */
import pg from 'pg';
import type { SimulatedSession } from '../database/session.js';
import { type Position, type Trouble, WalkProcess, type WalkWorld } from './process.js';
import type { WalkWriter } from './walk.js';
import { valuesOfFlush, type WalkRecord } from './walk-flush.js';
import type { Outcome, Proof, WalkRequest } from './walk-request.js';

/** A request that is not in the journal yet, and how many attempts wait for it. */
export interface Item {
  readonly request: WalkRequest;
  /** N as it was when the request was taken. What is in hand after it may be no older. */
  readonly heard: number;
  readonly since: number;
  waiting: number;
}

/** A stream that its writer may flush from memory, until somebody takes its flushes. */
export interface ServedStream {
  readonly name: string;
  /** The flushes; undefined: another process has them. */
  flushes: Position | undefined;
  /** What is not flushed yet, from the LSN after that of the flushes. */
  readonly memory: WalkRecord[];
}

/** Bugs: what stays when a writer leaves its stream. */
export interface Carried {
  readonly window?: boolean | undefined;
  readonly hand?: boolean | undefined;
}

const HAND_MAX = 4;

/** One process. */
export abstract class Writer<World extends WalkWorld, Own extends { readonly name: string }>
  extends WalkProcess<World>
  implements WalkWriter
{
  protected own: Own | undefined;
  /** The largest time of a statement that saw the row of a stream open. */
  protected heard = 0;
  protected hand: Item[] = [];
  /** The idempotency keys that the present stream has, each with what proved it. */
  protected readonly window = new Map<string, { readonly stream: string; readonly proof: Proof | undefined }>();
  protected isStopping = false;
  readonly #carried: Carried;

  constructor(world: World, name: string, troubles: readonly Trouble[], carried: Carried) {
    super(world, name, troubles);
    this.#carried = carried;
  }

  /** What is in hand or in doubt has no answer. */
  override crash(): void {
    super.crash();
    this.settle([...this.sent, ...this.hand], 'unknown');
    this.hand = [];
  }

  override stop(): void {
    this.isStopping = true;
  }

  /** Takes a request in hand, or answers it. */
  accept(request: WalkRequest): void {
    const known = this.window.get(request.name);
    const pending = [...this.sent, ...this.hand].find((item) => item.request === request);
    if (this.life.isOver || this.isStopping) {
      this.world.settle(request, 'refused');
    } else if (known !== undefined) {
      this.world.settle(request, 'acknowledged', known.stream === this.own?.name ? known.proof : undefined);
    } else if (pending !== undefined) {
      pending.waiting += 1;
    } else if (!this.takes(request, this.own) || this.hand.length >= HAND_MAX) {
      this.world.settle(request, 'refused');
    } else {
      this.hand.push({ request, heard: this.heard, since: this.world.scheduler.now, waiting: 1 });
      this.note(() => ` has ${request.name} in hand`);
    }
  }

  /** What is under way or in doubt. */
  protected abstract get sent(): readonly Item[];

  /** Whether the stream covers the request. */
  protected abstract takes(request: WalkRequest, own: Own | undefined): boolean;

  protected hear(databaseTime: unknown): void {
    this.heard = Math.max(this.heard, Number(databaseTime ?? 0));
  }

  protected settle(items: readonly Item[], outcome: Outcome, proof?: Proof): void {
    for (const item of items) {
      if (item.waiting > 0) this.world.note(() => `${item.request.name} is ${outcome}`);
      for (; item.waiting > 0; item.waiting -= 1) this.world.settle(item.request, outcome, proof);
    }
  }

  /** The items are in the stream. */
  protected acknowledge(stream: string, items: readonly Item[], proof?: Proof): void {
    for (const { request } of items) if (!request.isPlain) this.window.set(request.name, { stream, proof });
    this.settle(items, 'acknowledged', proof);
  }

  /** The stream is over, for this process at least. What was never sent is refused. */
  protected leave({ name }: Own, why: string): void {
    this.note(() => ` leaves ${name}: ${why}`);
    this.own = undefined;
    if (this.#carried.window !== true) this.window.clear();
    if (this.#carried.hand === true) return;
    const { hand } = this;
    this.hand = [];
    this.settle(hand, 'refused');
  }

  /** Flushes what is in memory; true: it is committed. Where somebody else flushes, what is in memory is in the journal. */
  protected async flushMemory(session: SimulatedSession, own: ServedStream, heard?: number): Promise<boolean> {
    const { flushes, memory, name } = own;
    if (flushes === undefined || memory.length === 0) return false;
    const { length } = memory;
    const values = valuesOfFlush(name, flushes, [...memory], heard);
    const isCommitted = await this.#flushUntilKnown(session, name, flushes, values, flushes.lsn + length);
    if (this.life.isOver || isCommitted === undefined) return false;
    if (isCommitted) {
      flushes.lsn += length;
      memory.splice(0, length);
    } else {
      this.dropFlushes(own);
    }
    return isCommitted;
  }

  protected dropFlushes(own: ServedStream): void {
    this.note(() => ` flushes ${own.name} no more`);
    own.flushes = undefined;
    own.memory.length = 0;
  }

  /** Without a reply the row tells. Undefined: the row tells that nothing has happened. */
  async #flushUntilKnown(
    session: SimulatedSession,
    name: string,
    flushes: Position,
    values: readonly unknown[],
    toLsn: number,
  ): Promise<boolean | undefined> {
    let current: SimulatedSession = session;
    let isSent = false;
    while (!this.life.isOver) {
      try {
        if (current.lost) {
          await this.pause(5);
          current = this.session = await this.world.database.connect(this.life);
        }
        if (!isSent) {
          isSent = true;
          return await this.flush(current, values);
        }
        const state = await this.readBack(current, name, flushes, toLsn);
        return state === 'undone' ? undefined : state === 'done';
      } catch (error) {
        this.expect(error);
        if (error instanceof pg.DatabaseError) return undefined;
      }
    }
    return undefined;
  }
}
