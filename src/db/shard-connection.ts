/**
 * The connection of a shard. Opens on demand, also after a loss, and is watched while a statement is under way. Shard thread; one
 * statement at a time.
 *
 * A statement fails in one of three ways:
 *
 * - CounterError `database-unavailable`: nothing was sent;
 * - StatementRefusedError: the server answered, and nothing is committed;
 * - OutcomeUnknownError: it was sent and no answer came. The next statement gets a new connection.
 *
 * ```text
 * sent ──2 s without an answer──► look from a second connection ──at work, or not visible──► look again
 *                                           ├──ended, or waits for a statement──► dropped: outcome unknown
 *                                           └──no answer, twice in a row────────► dropped: outcome unknown
 * ```
 *
 * The watch is needed because a network that has lost a connection drops its packets without an error. The kernel notices after
 * a quarter of an hour, and the client's time limit must be longer than the server's. So the shard asks the server about the
 * session, over a second connection. A server that does not answer there either counts as unavailable: callers get an error, and
 * a stop does not wait. If the statement commits after all, reading the checkpoint back shows it.
 */
import pg from 'pg';
import { Backoff } from '../core/backoff.js';
import { systemClock, type Clock, type Timer } from '../core/clock.js';
import { CounterError, reasonOf } from '../core/errors.js';
import { Turns } from '../core/turns.js';
import {
  connect,
  type Backend,
  type ConnectOptions,
  type DatabaseTarget,
  type Session,
  type Statement,
} from './connection.js';
import {
  classifyDatabaseError,
  errorCode,
  isStatementRefused,
  OutcomeUnknownError,
  StatementRefusedError,
} from './database-errors.js';
import { END_IDLE_BACKEND, IS_BACKEND_IDLE } from './session-statements.js';

/** Options of the connection; a test can replace network and clock. */
export interface ShardConnectionOptions extends ConnectOptions {
  /** Instead of {@link connect}. */
  readonly connect?: (target: DatabaseTarget, options: ConnectOptions) => Promise<Session>;
  /** The clock of the watch; default that of the machine. */
  readonly clock?: Clock;
  /** Connections that share this look one at a time, over one further connection. */
  readonly looks?: Turns;
}

/** Time from a statement to the first look. */
const SILENCE_MS = 2_000;
/**
 * Each dropped connection doubles that time for the next one, until a statement of that size succeeds. So a large statement
 * finally arrives over a slow network.
 */
const SILENCE_MAX_MS = 32_000;
/** The slowest network: a large statement delays the first look. */
const BYTES_A_MS_MIN = 10_000;
/** Time between two looks. */
const LOOK_INTERVAL_MS = 1_000;
/** Time limit of connecting for a look, and of the look itself. */
const LOOK_TIMEOUT_MS = 2_000;
/** After this many looks in a row without an answer the server counts as unavailable. */
const UNANSWERED_MAX = 2;

/** Runs a statement of a transaction. */
export type RunStatement = <Row extends object>(statement: Statement) => Promise<Row[]>;

/** The state of the server process of a session, as a look found it. */
type Sight = 'dead' | 'alive' | 'unseen' | 'unanswered';

/** The connection of one shard. */
export class ShardConnection {
  readonly #target: DatabaseTarget;
  readonly #options: ShardConnectionOptions;
  readonly #clock: Clock;
  #session: Session | undefined;
  readonly #silence = new Backoff(SILENCE_MS, SILENCE_MAX_MS);
  /** The size of the largest statement whose connection was dropped since the last reset. */
  #droppedBytes = 0;
  /** One look at a time, so that there are at most two connections. */
  readonly #looks: Turns;
  #closed = false;

  constructor(target: DatabaseTarget, options: ShardConnectionOptions) {
    this.#target = target;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#looks = options.looks ?? new Turns();
  }

  /** True while the session of the last statement is open. */
  get isOpen(): boolean {
    return this.#session !== undefined && !this.#session.lost;
  }

  /** Runs one statement. Rejects in one of the three ways above. */
  async run<Row extends object>(statement: Statement): Promise<Row[]> {
    return this.#runOn(await this.#opened(), statement);
  }

  /**
   * Runs the statements of one transaction, including `begin` and `commit`, on one session. Rejects as `work` does, after it has
   * ended the transaction, by the statement `rollback` or with the session.
   */
  async transaction<T>(work: (run: RunStatement) => Promise<T>, rollback: Statement): Promise<T> {
    const session = await this.#opened();
    const run: RunStatement = (statement) => {
      // A transaction ends with its session. Another session must not get the rest of it.
      if (session.lost || this.#session !== session)
        return Promise.reject(new OutcomeUnknownError('the database connection was lost in a transaction'));
      return this.#runOn(session, statement);
    };
    try {
      return await work(run);
    } catch (error) {
      await run(rollback).catch(() => {
        this.drop();
      });
      throw error;
    }
  }

  async #runOn<Row extends object>(session: Session, statement: Statement): Promise<Row[]> {
    const bytes = bytesOf(statement);
    const watch = this.#watch(session, bytes);
    try {
      const rows = await session.query<Row>(statement);
      if (bytes >= this.#droppedBytes) this.#trustNetwork();
      return rows;
    } catch (error) {
      if (isStatementRefused(error)) {
        const kind = classifyDatabaseError(error);
        throw new StatementRefusedError(error.message, errorCode(error), kind, { cause: error });
      }
      this.drop();
      // The finding of the watch says more than the error of the session that it closed.
      throw watch.isUnanswered()
        ? new OutcomeUnknownError('PostgreSQL does not answer; the outcome of the statement is unknown')
        : new OutcomeUnknownError(`the database connection was lost before the reply: ${reasonOf(error)}`, {
            cause: error,
          });
    } finally {
      watch.end();
    }
  }

  /** A statement of the size of the dropped one has succeeded. */
  #trustNetwork(): void {
    this.#silence.reset();
    this.#droppedBytes = 0;
  }

  /** Closes the connection at once. The next statement opens a new one. */
  drop(): void {
    this.#session?.destroy();
    this.#session = undefined;
  }

  /** Ends the connection in an orderly way; no call may follow. */
  async close(): Promise<void> {
    this.#closed = true;
    const session = this.#session;
    this.#session = undefined;
    await session?.close();
    await this.#looks.run(() => Promise.resolve());
  }

  async #opened(): Promise<Session> {
    this.#refuseIfClosed();
    if (this.#session !== undefined && !this.#session.lost) return this.#session;
    try {
      this.#session = await this.#connect(this.#options);
    } catch (error) {
      this.#session = undefined;
      throw new CounterError('database-unavailable', 'The database is unavailable; try again later.', { cause: error });
    }
    this.#refuseIfClosed();
    return this.#session;
  }

  #connect(options: ConnectOptions): Promise<Session> {
    return (this.#options.connect ?? connect)(this.#target, options);
  }

  #refuseIfClosed(): void {
    if (!this.#closed) return;
    this.drop();
    throw new CounterError('database-unavailable', 'The database connection is closed.');
  }

  /** Watches a session until `end` is called. `isUnanswered`: the watch closed the session of a server that does not answer. */
  #watch(session: Session, bytes: number): { readonly end: () => void; readonly isUnanswered: () => boolean } {
    let isAnswered = false;
    let timer: Timer | undefined;
    let unanswered = 0;
    const look = async (): Promise<void> => {
      if (isAnswered) return;
      const sight = await this.#look(session.backend, () => isAnswered);
      if (isAnswered) return;
      unanswered = sight === 'unanswered' ? unanswered + 1 : 0;
      if (sight !== 'dead' && unanswered < UNANSWERED_MAX) {
        lookAfter(LOOK_INTERVAL_MS);
        return;
      }
      this.#silence.take();
      this.#droppedBytes = Math.max(this.#droppedBytes, bytes);
      session.destroy();
    };
    const lookAfter = (ms: number): void => {
      timer = this.#clock.schedule(ms, () => {
        void this.#looks.run(look);
      });
    };
    lookAfter(this.#silence.nextMs + Math.floor(bytes / BYTES_A_MS_MIN));
    return {
      end: () => {
        isAnswered = true;
        timer?.cancel();
      },
      isUnanswered: () => unanswered >= UNANSWERED_MAX,
    };
  }

  /**
   * `dead` means that the server is idle for the session: the statement never arrived, or the answer was lost. Then ends the server
   * process, which would be one connection more than a node may have.
   */
  async #look(backend: Backend, isAnswered: () => boolean): Promise<Sight> {
    const { applicationName } = this.#options;
    let sight: Sight = 'alive';
    let second: Session | undefined;
    try {
      const timeouts = { connectTimeoutMs: LOOK_TIMEOUT_MS, queryTimeoutMs: LOOK_TIMEOUT_MS };
      const { host } = backend;
      second = await this.#connect({ applicationName, ...timeouts, ...(host !== undefined && { host }) });
      const values = [backend.pid, backend.startedAt];
      // By now this thread has read an answer that arrived while it was busy.
      if (isAnswered()) return sight;
      const [row] = await second.query<{ idle: boolean }>({ text: IS_BACKEND_IDLE, values });
      if (row?.idle === true) sight = 'dead';
      if (sight === 'dead' && !isAnswered()) await second.query({ text: END_IDLE_BACKEND, values });
    } catch (error) {
      // An earlier finding counts. A refusal, for example for lack of connections, is an answer, too.
      if (sight === 'alive') sight = error instanceof pg.DatabaseError ? 'unseen' : 'unanswered';
    } finally {
      await second?.close();
    }
    return sight;
  }
}

/**
 * Runs statements that can be repeated without harm, or whose outcome can be looked up. Every failure rejects with CounterError
 * `database-unavailable`.
 */
export async function orUnavailable<T>(statements: () => Promise<T>): Promise<T> {
  try {
    return await statements();
  } catch (error) {
    if (!(error instanceof OutcomeUnknownError) && !(error instanceof StatementRefusedError)) throw error;
    const detail = `The database did not answer: ${error.message}.`;
    throw new CounterError('database-unavailable', detail, { cause: error });
  }
}

function bytesOf({ values }: Statement): number {
  let bytes = 0;
  for (const value of values ?? []) if (Buffer.isBuffer(value)) bytes += value.length;
  return bytes;
}
