/**
 * Whether a shard can use the database: where each of its streams can, and what keeps the journal. Says so to the main thread
 * when that changes. Shard thread.
 */
import type { DatabaseProblem } from '../../db/database-problem.js';
import type { ControlMessage } from '../protocol/control-messages.js';

/** What one shard has said of the database. */
export class DatabaseReports {
  readonly #tell: (message: ControlMessage) => void;
  /** By the stream whose statements fail, or what else uses the database. */
  readonly #problems = new Map<string, DatabaseProblem>();

  constructor(tell: (message: ControlMessage) => void) {
    this.#tell = tell;
  }

  get isAvailable(): boolean {
    return this.#problems.size === 0;
  }

  /** The cause of the problem that `of` has; undefined where it has none. */
  causeOf(of: string): DatabaseProblem['cause'] | undefined {
    return this.#problems.get(of)?.cause;
  }

  /**
   * The database has answered `of`, or has the problem for it. Streams of a shard share its connection, so a cause is told once; a
   * problem that `of` reports again is told again. `pending`: increments in all streams of the shard.
   */
  note(of: string, problem: DatabaseProblem | undefined, pending: number): void {
    if (problem === undefined) {
      if (this.#problems.delete(of) && this.isAvailable) this.tellAvailable(pending);
      return;
    }
    const isRepeated = this.causeOf(of) === problem.cause;
    const isKnown = [...this.#problems.values()].some(({ cause }) => cause === problem.cause);
    this.#problems.set(of, problem);
    if (isRepeated || !isKnown) this.#tell({ kind: 'database', state: { available: false, problem } });
  }

  /** Tells that the database is available. Replaces what an earlier thread of the shard has told. */
  tellAvailable(pending: number): void {
    this.#tell({ kind: 'database', state: { available: true, pending } });
  }

  /** Forgets problems of streams that are not flushed here any more: nobody would notice that the database is back. */
  keepOnly(streams: ReadonlySet<string>, pending: number): void {
    for (const of of this.#problems.keys()) if (!streams.has(of)) this.note(of, undefined, pending);
  }
}
