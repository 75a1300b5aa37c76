/**
 * A connection that several rarely used stores share. Opens on demand, also after a loss. Main thread.
 */
import { settledWithin } from '../core/clock.js';
import { CounterError } from '../core/errors.js';
import { Turns } from '../core/turns.js';
import { connect, type ConnectOptions, type DatabaseConnection, type DatabaseTarget } from './connection.js';

/** How long a close waits for the statement under way: a database that does not answer must not delay a stop. */
const LAST_USE_MS = 1_000;

/** A connection that reopens itself. One use at a time; others wait. */
export class OnDemandConnection {
  readonly #target: DatabaseTarget;
  readonly #options: ConnectOptions;
  #connection: DatabaseConnection | undefined;
  readonly #turns = new Turns();
  #closed = false;

  constructor(target: DatabaseTarget, options: ConnectOptions) {
    this.#target = target;
    this.#options = options;
  }

  /**
   * Runs `use` with the connection, after all uses before it. Rejects with CounterError `database-unavailable` where it
   * cannot connect, else as `use` does.
   */
  run<T>(use: (connection: DatabaseConnection) => Promise<T>): Promise<T> {
    return this.#turns.run(async () => use(await this.#connected()));
  }

  /** Waits at most a second for the last use, then ends the connection. A use that is still under way fails. */
  async close(): Promise<void> {
    this.#closed = true;
    const last = this.#turns.run(() => Promise.resolve());
    await settledWithin(last, LAST_USE_MS);
    await this.#connection?.close();
    await last;
  }

  async #connected(): Promise<DatabaseConnection> {
    if (this.#closed) throw new CounterError('database-unavailable', 'The database connection is closed.');
    if (this.#connection !== undefined && !this.#connection.lost) return this.#connection;
    let connection: DatabaseConnection;
    try {
      connection = await connect(this.#target, this.#options);
    } catch (cause) {
      throw new CounterError('database-unavailable', 'The database is unavailable; try again later.', { cause });
    }
    if (this.#closed) {
      connection.destroy();
      throw new CounterError('database-unavailable', 'The database connection is closed.');
    }
    this.#connection = connection;
    return connection;
  }
}
