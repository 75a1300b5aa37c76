/** A process of a walk, which follows the protocol in the simplest way: it has none of the product's parts but its statements. */
import pg from 'pg';
import { ASK_STREAM } from '#product/db/stream-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import { Life } from '../scheduler.js';
import { BrokerUnavailable } from '../simulated-broker.js';
import { QueueUnavailable } from '../simulated-queue.js';
import type { World } from '../world.js';
import { textOfSeconds } from './walk-flush.js';
import type { Outcome, Proof, WalkRequest } from './walk-request.js';

/** What a process needs of its world. */
export interface WalkWorld extends Pick<World, 'scheduler' | 'random' | 'database' | 'note' | 'violate' | 'uuid'> {
  /** The end of an attempt. With a proof it may be lost to a failover that the writer has not noticed. */
  settle(request: WalkRequest, outcome: Outcome, proof?: Proof): void;
  /** SIGSTOP, and SIGCONT some time later. */
  sleep(process: WalkProcess): void;
}

/** How far a stream is flushed, and by whom. */
export interface Position {
  readonly epoch: number;
  readonly coveredFrom: number;
  lsn: number;
}

/** What befalls a process while something is under way. */
export type Trouble = 'crash' | 'loseConnection' | 'sleep';

/** Sends a statement. */
export type Run = (text: string, values?: readonly unknown[]) => Promise<Row[]>;

/** One process. */
export abstract class WalkProcess<World extends WalkWorld = WalkWorld> {
  readonly life: Life;
  readonly name: string;
  protected readonly world: World;
  protected session: SimulatedSession | undefined;
  /** One of these befalls it now and then, each as often. */
  protected readonly troubles: readonly Trouble[];

  constructor(world: World, name: string, troubles: readonly Trouble[]) {
    this.world = world;
    this.name = name;
    this.troubles = troubles;
    this.life = new Life((error) => world.violate(error));
  }

  get isUp(): boolean {
    return !this.life.isOver;
  }

  /** kill -9 */
  crash(): void {
    this.life.end();
  }

  /** SIGTERM. A process that writes nothing goes on. */
  stop(): void {
    // Nothing is left to do.
  }

  /** That to the database. */
  loseConnection(): void {
    this.session?.destroy();
  }

  protected note(what: () => string): void {
    this.world.note(() => `${this.name}${what()}`);
  }

  /** Begins with its work. */
  protected begin(...work: readonly Promise<void>[]): void {
    for (const one of work) one.catch((error: unknown) => this.world.violate(error));
  }

  /** Does a piece of work at a time, as long as it lives. */
  protected async repeat(restMs: () => number, piece: () => Promise<void>): Promise<void> {
    while (!this.life.isOver) {
      await this.pause(restMs());
      if (this.life.isOver) return;
      try {
        await piece();
      } catch (error) {
        this.expect(error);
      }
    }
  }

  /** The same with a connection to the database, which does not outlive an error. */
  protected repeatWithDatabase(
    restMs: () => number,
    piece: (session: SimulatedSession) => Promise<void>,
  ): Promise<void> {
    return this.repeat(restMs, () => this.withDatabase(piece));
  }

  protected async withDatabase(piece: (session: SimulatedSession) => Promise<void>): Promise<void> {
    try {
      if (this.session?.lost !== false) this.session = await this.world.database.connect(this.life);
      await piece(this.session);
    } catch (error) {
      this.expect(error);
      this.session?.destroy();
    }
  }

  /** One of so many times something befalls it while something is under way. */
  protected fallOnceIn(times: number): void {
    const { random, scheduler } = this.world;
    if (this.troubles.length === 0 || random.below(times) > 0) return;
    const trouble = random.pick(this.troubles);
    scheduler.after(random.below(30), this.life, () => {
      if (trouble === 'sleep') this.world.sleep(this);
      else this[trouble]();
    });
  }

  /** Rethrows what is no error that a process lives with: the database, broker or queue is unavailable, or refuses. */
  protected expect(error: unknown): void {
    const { message } = expectTrouble(error);
    this.note(() => `: ${message}`);
  }

  protected pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.world.scheduler.after(ms, this.life, resolve));
  }

  /** The transaction that makes or takes a row, under the pruning lock. Undefined: it has left it as it was. */
  protected async take(
    session: SimulatedSession,
    stream: string,
    take: (run: Run, found: Row | undefined) => Promise<Row[]>,
    beforeLock?: (run: Run) => Promise<unknown>,
  ): Promise<Row | undefined> {
    const run: Run = (text, values = []) => session.query<Row>({ text, values });
    await run(owner.BEGIN_TAKING);
    await run(owner.LOCK_PRUNED_BEFORE);
    await beforeLock?.(run);
    const [found] = await run(owner.LOCK_CHECKPOINT, [stream]);
    const [row] = await take(run, found);
    await run(row === undefined ? owner.ROLL_BACK_TAKING : owner.COMMIT_TAKING);
    return this.life.isOver ? undefined : row;
  }

  /** The values of MAKE_CHECKPOINT. */
  protected rowOf(stream: string, journal: string, lsn = 0): readonly unknown[] {
    return [stream, [this.world.uuid()], [0], 'node', 0, journal, lsn];
  }

  /** Whether a flush applied. Rejects without a reply. */
  protected async flush(session: SimulatedSession, values: readonly unknown[]): Promise<boolean> {
    const [row] = await session.query<Row>({ text: owner.FLUSH_WITH_REJECTED, values });
    return row?.['fenced'] === 1;
  }

  /** What the row says of a flush without a reply; `undone`: the row is as it was before. */
  protected async readBack(
    session: SimulatedSession,
    stream: string,
    { epoch, lsn }: Position,
    toLsn: number,
  ): Promise<'done' | 'undone' | 'fenced'> {
    const [row] = await session.query<Row>({ text: owner.READ_BACK, values: [stream] });
    if (row === undefined || Number(row['epoch']) !== epoch) return 'fenced';
    if (Number(row['lsn']) === toLsn) return 'done';
    return Number(row['lsn']) === lsn ? 'undone' : 'fenced';
  }

  protected async retireRow(
    session: SimulatedSession,
    stream: string,
    { epoch, lsn }: { readonly epoch: number; readonly lsn: number },
    text = owner.RETIRE_STREAM,
    ...more: readonly unknown[]
  ): Promise<void> {
    const [row] = await session.query<Row>({ text, values: [stream, epoch, lsn, ...more] });
    if (this.life.isOver) return;
    this.note(() => ` ${row === undefined ? 'does not retire' : 'retires'} ${stream} at LSN ${lsn}`);
  }

  /** A bug of those who flush: the time of the database stands for what the writer has heard. */
  protected async touchWithTime(session: SimulatedSession, stream: string, { epoch, lsn }: Position): Promise<void> {
    const [row] = await session.query<Row>({ text: ASK_STREAM, values: [stream] });
    const open = row?.['open'] === true ? row : undefined;
    const values = [stream, epoch, lsn, textOfSeconds(Number(open?.['database_time'] ?? 0))];
    await session.query<Row>({ text: owner.TOUCH_CHECKPOINT, values });
  }
}

/** Rethrows what is no error that a process lives with: the database, broker or queue is unavailable, or refuses. */
export function expectTrouble(error: unknown): Error {
  const isLost = error instanceof Error && ('code' in error || error.message.includes('connection error'));
  if (isLost || [pg.DatabaseError, BrokerUnavailable, QueueUnavailable].some((kind) => error instanceof kind)) {
    // Each kind is an error.
    return error as Error;
  }
  throw error;
}

/** What a row says. */
export function positionOf(row: Row): Position {
  return { epoch: Number(row['epoch']), lsn: Number(row['lsn']), coveredFrom: Number(row['covered_from']) };
}
