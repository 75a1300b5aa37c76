/**
 * One connection that several rarely used parts share: opened when it is needed, forgotten when it is lost. Main thread.
 */
import { CounterError } from '../errors.js';
import { connect, type ConnectOptions, type DatabaseConnection, type DatabaseTarget } from './connection.js';

/** A connection that comes back. One use at a time; others wait their turn. */
export class OnDemandConnection {
  readonly #target: DatabaseTarget;
  readonly #options: ConnectOptions;
  #connection: DatabaseConnection | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(target: DatabaseTarget, options: ConnectOptions) {
    this.#target = target;
    this.#options = options;
  }

  /**
   * Runs `use` with the connection, after those before it. Rejects with CounterError `database-unavailable` where there
   * is none, else with what `use` rejects with.
   */
  run<T>(use: (connection: DatabaseConnection) => Promise<T>): Promise<T> {
    const turn = this.#last.then(
      async () => use(await this.#connected()),
      async () => use(await this.#connected()),
    );
    this.#last = turn;
    return turn;
  }

  /** Waits for the last use, then ends the connection. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#last.catch(() => undefined);
    await this.#connection?.close();
  }

  async #connected(): Promise<DatabaseConnection> {
    if (this.#closed) throw new CounterError('database-unavailable', 'The database connection is closed.');
    if (this.#connection !== undefined && !this.#connection.lost) return this.#connection;
    try {
      this.#connection = await connect(this.#target, this.#options);
      return this.#connection;
    } catch (cause) {
      throw new CounterError('database-unavailable', 'The database cannot be reached.', { cause });
    }
  }
}
