/**
 * A process that writes streams of a journal outside of PostgreSQL, where a stream begins with or without its row.
 *
 * ```text
 * no stream → making its row (no reply: without it) → opening record → writing → the stream is left: no stream
 * ```
 */
import { ASK_STREAM } from '#product/db/stream-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { WalkWorld } from './process.js';
import type { WalkRequest } from './walk-request.js';
import { type Item, Writer } from './writer.js';

/** Bugs of such writers. */
export interface RowWriterMutations {
  /** Idempotent requests are taken before the row is made. */
  readonly acceptBeforeRow?: boolean;
  /** Idempotent requests are taken once the row of any stream of the process was open. */
  readonly coverOfProcess?: boolean;
  /** A writer that finds its row gone makes it again. */
  readonly remakeRow?: boolean;
  /** What was sent, and is in doubt when the stream is left, is refused. */
  readonly sentIsRefused?: boolean;
  /** What was never sent goes to the new stream. */
  readonly carriesHand?: boolean;
}

/** A stream of such a writer. */
export interface RowStream {
  readonly name: string;
  /** It has made its row, or seen it open. */
  isCovered: boolean;
  /** The row is retired, or gone. */
  isRowGone: boolean;
}

/** What differs between journals. Times are in ms. */
interface Pace {
  readonly journal: 'nats' | 'sqs';
  /** Most that a process rests between two pieces of work. */
  readonly restMs: number;
  /** Most that it rests, beside 5 ms, between two looks at its row. */
  readonly rowRestMs: number;
  readonly troubleOneIn: number;
  /** A client waits for so long at most. */
  readonly ackTimeoutMs: number;
}

/** One process. */
export abstract class RowWriter<World extends WalkWorld, Own extends RowStream> extends Writer<World, Own> {
  readonly #mutations: RowWriterMutations;
  readonly #pace: Pace;

  constructor(world: World, name: string, mutations: RowWriterMutations, pace: Pace) {
    const troubles = ['crash', 'loseConnection', 'sleep', 'sleep', 'sleep'] as const;
    super(world, name, troubles, { hand: mutations.carriesHand });
    this.#mutations = mutations;
    this.#pace = pace;
  }

  /** Sends, and keeps its row. */
  protected work(): void {
    const { random } = this.world;
    const { restMs, rowRestMs } = this.#pace;
    this.begin(
      this.repeat(
        () => random.below(restMs),
        () => this.#step(),
      ),
      this.repeat(
        () => 5 + random.below(rowRestMs),
        () => (this.own?.isRowGone === false ? this.keepRow(this.own) : Promise.resolve()),
      ),
    );
  }

  protected abstract newStream(name: string): Own;

  /** One piece of work on the stream. */
  protected abstract write(own: Own): Promise<void>;

  /** What it asks and tells the database, beside what it sends. */
  protected abstract keepRow(own: Own): Promise<void>;

  protected override takes({ isPlain }: WalkRequest, own: Own | undefined): boolean {
    const { acceptBeforeRow, coverOfProcess } = this.#mutations;
    if (own === undefined) return false;
    return isPlain || acceptBeforeRow === true || own.isCovered || (coverOfProcess === true && this.heard > 0);
  }

  async #step(): Promise<void> {
    this.fallOnceIn(this.#pace.troubleOneIn);
    this.timeOut();
    if (this.own !== undefined) await this.write(this.own);
    else if (this.isStopping) this.crash();
    else await this.#beginStream();
  }

  protected isLate({ since }: Item): boolean {
    return since < this.world.scheduler.now - this.#pace.ackTimeoutMs;
  }

  /** Clients do not wait any longer. */
  protected timeOut(): void {
    const late = this.hand.filter((item) => this.isLate(item));
    this.hand = this.hand.filter((item) => !late.includes(item));
    this.settle(late, 'refused');
  }

  /** Makes the row of a new stream. Without a reply, or without the database, that is left to those who flush. */
  async #beginStream(): Promise<void> {
    const { random, database } = this.world;
    const own = this.newStream(this.world.uuid());
    try {
      this.session = await database.connect(this.life);
      if (random.below(8) > 0) await this.makeRow(this.session, own);
    } catch (error) {
      this.expect(error);
      this.session?.destroy();
    }
    if (this.life.isOver) return;
    this.own = own;
    this.note(() => ` writes ${own.name}, its row is ${own.isCovered ? 'made' : 'not known'}`);
  }

  protected async makeRow(session: SimulatedSession, own: Own): Promise<Row | undefined> {
    let databaseTime: unknown;
    const row = await this.take(session, own.name, async (run, found) => {
      databaseTime = found?.['database_time'];
      const values = this.rowOf(own.name, this.#pace.journal);
      return found?.['epoch'] === null ? run(owner.MAKE_CHECKPOINT, values) : [];
    });
    if (row === undefined) return undefined;
    own.isCovered = true;
    this.hear(databaseTime);
    return row;
  }

  /** Whether the row is open. A writer that has begun makes no row; one that has never seen it waits for it. */
  protected async ask(session: SimulatedSession, own: Own): Promise<void> {
    const [asked] = await session.query<Row>({ text: ASK_STREAM, values: [own.name] });
    if (this.life.isOver) return;
    if (asked?.['open'] === true) {
      this.hear(asked['database_time']);
      own.isCovered = true;
      return;
    }
    const [row] = await session.query<Row>({ text: owner.LOCK_CHECKPOINT, values: [own.name] });
    if (this.life.isOver) return;
    const isGone = row?.['epoch'] === null && own.isCovered;
    if (isGone && this.#mutations.remakeRow === true) {
      await this.makeRow(session, own);
      return;
    }
    own.isRowGone = isGone || row?.['retired'] === true;
    if (own.isRowGone) this.note(() => ` finds the row of ${own.name} retired or gone`);
  }

  /** What was sent and is in doubt may still be stored. */
  protected outcomeOf(isInDoubt: boolean): 'refused' | 'unknown' {
    return isInDoubt && this.#mutations.sentIsRefused !== true ? 'unknown' : 'refused';
  }
}
