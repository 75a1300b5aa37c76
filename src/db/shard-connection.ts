/**
 * The one connection of a shard: opened when it is needed, made anew when it is lost, and watched while a statement is
 * under way. Shard thread; one statement at a time.
 *
 * Three ways to fail, which the caller must tell apart: CounterError `database-unavailable`, nothing was sent;
 * StatementRefusedError, the server answered and nothing is committed; OutcomeUnknownError, it was sent and the answer
 * was not heard. After the last the connection is a new one.
 *
 * ```text
 * sent ──2 s without an answer──► look from a second connection ──at work, or not to be seen──► look again
 *                                           ├──gone, or waits for a statement──► dropped: outcome unknown
 *                                           └──nobody answers, twice in a row──► dropped: outcome unknown
 * ```
 *
 * A network that has forgotten a connection swallows what is sent over it, and nobody says so: not the kernel for a quarter
 * of an hour, and our own time limit has to be longer than the server's. So the server is asked what it is doing. One that
 * does not answer new connections either is as good as away: whoever waits for the statement should hear it, and a stop
 * must not wait for it. Where it commits after all, the checkpoint says so when it is read back.
 */
import pg from 'pg';
import { systemClock, type Clock, type Timer } from '../core/clock.js';
import { CounterError, reasonOf } from '../core/errors.js';
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

/** How a shard connects. */
export interface ShardConnectionOptions extends ConnectOptions {
  /** Instead of {@link connect}. */
  readonly connect?: (target: DatabaseTarget, options: ConnectOptions) => Promise<Session>;
  /** Of the watch; default the machine's. */
  readonly clock?: Clock;
}

/** From a statement to the first look. */
const SILENCE_MS = 2_000;
/**
 * Each time that a connection was dropped for its silence the next one gets twice as long, until a flush succeeds: where
 * the network is so slow that the server still waits for the rest of a statement, it arrives in the end.
 */
const SILENCE_MAX_MS = 32_000;
/** The slowest network that a large statement need not fear at once. */
const BYTES_A_MS_MIN = 10_000;
/** From a look to the next. */
const LOOK_INTERVAL_MS = 1_000;
/** Each of connecting and asking. */
const LOOK_TIMEOUT_MS = 2_000;
/** Looks in a row at which nobody answered, until the server counts as away. */
const UNANSWERED_MAX = 2;

/** What a look saw of the server's side of a session. */
type Sight = 'dead' | 'alive' | 'unseen' | 'unanswered';

/** See the file's head. */
export class ShardConnection {
  readonly #target: DatabaseTarget;
  readonly #options: ShardConnectionOptions;
  readonly #clock: Clock;
  #session: Session | undefined;
  #silenceMs = SILENCE_MS;
  /** One at a time: a shard has two connections at most. */
  #looking: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(target: DatabaseTarget, options: ShardConnectionOptions) {
    this.#target = target;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** True while the session of the last statement goes on. */
  get isOpen(): boolean {
    return this.#session !== undefined && !this.#session.lost;
  }

  /** Opens the connection now. */
  async open(): Promise<void> {
    await this.#opened();
  }

  /** Runs one statement. Rejects as the file's head says. */
  async run<Row extends object>(statement: Statement): Promise<Row[]> {
    const session = await this.#opened();
    const unwatch = this.#watch(session, bytesOf(statement));
    try {
      return await session.query<Row>(statement);
    } catch (error) {
      if (isStatementRefused(error)) {
        const kind = classifyDatabaseError(error);
        throw new StatementRefusedError(error.message, errorCode(error), kind, { cause: error });
      }
      this.drop();
      throw new OutcomeUnknownError(`the database connection was lost before the reply: ${reasonOf(error)}`, {
        cause: error,
      });
    } finally {
      unwatch();
    }
  }

  /** A flush has come through: the network carries what we send. */
  noticeFlushed(): void {
    this.#silenceMs = SILENCE_MS;
  }

  /** Cuts the connection; the next statement makes a new one. */
  drop(): void {
    this.#session?.destroy();
    this.#session = undefined;
  }

  /** Says goodbye; no call may follow. */
  async close(): Promise<void> {
    this.#closed = true;
    const session = this.#session;
    this.#session = undefined;
    await session?.close();
    await this.#looking;
  }

  async #opened(): Promise<Session> {
    this.#refuseIfClosed();
    if (this.#session !== undefined && !this.#session.lost) return this.#session;
    try {
      this.#session = await this.#connect(this.#options);
    } catch (error) {
      this.#session = undefined;
      throw new CounterError('database-unavailable', 'The database cannot be reached.', { cause: error });
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

  /** Looks after a session until the returned function is called. */
  #watch(session: Session, bytes: number): () => void {
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
      this.#silenceMs = Math.min(2 * this.#silenceMs, SILENCE_MAX_MS);
      session.destroy();
    };
    const lookAfter = (ms: number): void => {
      timer = this.#clock.schedule(ms, () => {
        this.#looking = this.#looking.then(look);
      });
    };
    lookAfter(this.#silenceMs + Math.floor(bytes / BYTES_A_MS_MIN));
    return () => {
      isAnswered = true;
      timer?.cancel();
    };
  }

  /**
   * Dead: the server has nothing to do for the session, because it never got the statement, or its answer is lost. Its
   * process is then ended too, or it would be one connection more than a node may have.
   */
  async #look(backend: Backend, isAnswered: () => boolean): Promise<Sight> {
    const { applicationName } = this.#options;
    let sight: Sight = 'alive';
    let second: Session | undefined;
    try {
      const timeouts = { connectTimeoutMs: LOOK_TIMEOUT_MS, queryTimeoutMs: LOOK_TIMEOUT_MS };
      second = await this.#connect({ applicationName, ...timeouts });
      const values = [backend.pid, backend.startedAt];
      // An answer that lay in a socket while this thread was busy has been read by now.
      if (isAnswered()) return sight;
      const [row] = await second.query<{ idle: boolean }>({ text: IS_BACKEND_IDLE, values });
      if (row?.idle === true) sight = 'dead';
      if (sight === 'dead' && !isAnswered()) await second.query({ text: END_IDLE_BACKEND, values });
    } catch (error) {
      // What was seen before counts. A refusal, for want of connections say, is an answer too.
      if (sight === 'alive') sight = error instanceof pg.DatabaseError ? 'unseen' : 'unanswered';
    } finally {
      await second?.close();
    }
    return sight;
  }
}

function bytesOf({ values }: Statement): number {
  let bytes = 0;
  for (const value of values ?? []) if (Buffer.isBuffer(value)) bytes += value.length;
  return bytes;
}
