/** A client's connection to the simulated database, as the product uses it. */
import type { Backend, Statement } from '#product/db/connection.js';
import type { Life } from '../scheduler.js';
import type { Transaction } from './transaction.js';
import type { Row } from './values.js';

/** The server's side. */
export interface SessionServer {
  submit(
    session: SimulatedSession,
    statement: Statement,
    resolve: (rows: Row[]) => void,
    reject: (error: Error) => void,
  ): void;
}

/** One connection. */
export class SimulatedSession {
  readonly life: Life;
  readonly backend: Backend;
  /** How long the client waits for an answer. */
  readonly timeoutMs: number;
  /** Nothing passes any more, in one direction or both. */
  isSilent = false;
  /** The server has ended its side. */
  isEnded = false;
  /** When the server last had nothing to do for it; infinite while it works for it. */
  idleSince = 0;
  /** From `begin` to its end. */
  transaction: Transaction | undefined;
  /** Counts the statements that the server has begun. */
  statements = 0;
  readonly #server: SessionServer;
  #lost = false;
  #reject: ((error: Error) => void) | undefined;

  constructor(server: SessionServer, life: Life, pid: number, timeoutMs: number) {
    this.#server = server;
    this.life = life;
    this.timeoutMs = timeoutMs;
    this.backend = { pid, startedAt: String(pid) };
  }

  get lost(): boolean {
    return this.#lost;
  }

  /** The other end cannot receive an answer any more. */
  get clientIsGone(): boolean {
    return this.#lost || this.life.isOver;
  }

  query<R>(statement: Statement): Promise<R[]> {
    if (this.#lost) return Promise.reject(new Error('Client has encountered a connection error and is not queryable'));
    return new Promise<Row[]>((resolve, reject) => {
      this.#reject = reject;
      this.#server.submit(this, statement, resolve, reject);
      // Rows have the columns that the statement selects, as the store's types say.
    }) as Promise<R[]>;
  }

  /** An answer arrives, unless the session is lost. */
  settle(answer: () => void): void {
    if (this.#lost) return;
    this.#reject = undefined;
    answer();
  }

  /** A frozen client learns of it later. */
  lose(): void {
    if (this.clientIsGone || this.life.park(() => this.lose())) return;
    this.#lost = true;
    this.#reject?.(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
  }

  close(): Promise<void> {
    this.lose();
    return Promise.resolve();
  }

  destroy(): void {
    this.lose();
  }
}
