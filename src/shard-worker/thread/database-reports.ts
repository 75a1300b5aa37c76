/** Whether a shard can use the database, by stream and for its journal. Reports changes to the main thread. Shard thread. */
import type { DatabaseProblem } from '../../db/database-problem.js';
import type { ControlMessage } from '../protocol/control-messages.js';

/** What one shard has reported of the database. */
export class DatabaseReports {
  readonly #tell: (message: ControlMessage) => void;
  /** By stream, or by what else uses the database. */
  readonly #problems = new Map<string, DatabaseProblem>();

  constructor(tell: (message: ControlMessage) => void) {
    this.#tell = tell;
  }

  get isAvailable(): boolean {
    return this.#problems.size === 0;
  }

  /** The cause of `of`'s problem; undefined without one. */
  causeOf(of: string): DatabaseProblem['cause'] | undefined {
    return this.#problems.get(of)?.cause;
  }

  /**
   * The database answered `of`, or failed with `problem`. Streams of a shard share a connection, so each cause is reported
   * once. `of` repeats its own problem. `pending`: increments in all streams of the shard.
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

  /** Reports the database as available. Replaces the report of an earlier thread of the shard. */
  tellAvailable(pending: number): void {
    this.#tell({ kind: 'database', state: { available: true, pending } });
  }

  /** Forgets problems of streams that are no longer flushed here. Nothing would clear them. */
  keepOnly(streams: ReadonlySet<string>, pending: number): void {
    for (const of of this.#problems.keys()) if (!streams.has(of)) this.note(of, undefined, pending);
  }
}
