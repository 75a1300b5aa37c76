/**
 * Holds the flushes of all servers on a database, so that what a test sends stays pending: a bound starts a flush early,
 * whatever FLUSH_INTERVAL_MS is. Reads go on. Hold for a few seconds only, or the servers count the database as unavailable.
 */
import type { DatabaseConnection } from '#product/db/connection.js';
import { connectTo } from './database-connection.js';

/** A hold; see the file's head. */
export class FlushHold {
  #connection: DatabaseConnection | undefined;

  /** Waits for flushes under way, then holds those that follow. Does nothing while it holds. */
  async hold(databaseUrl: string): Promise<void> {
    if (this.#connection !== undefined) return;
    const connection = await connectTo(databaseUrl, 'flush hold');
    this.#connection = connection;
    await connection.query({ text: 'set idle_in_transaction_session_timeout = 0' });
    await connection.query({ text: 'begin' });
    // Conflicts with the update of a checkpoint, not with reads of it.
    await connection.query({ text: 'lock table journal_checkpoints in share row exclusive mode' });
  }

  async release(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
  }
}
