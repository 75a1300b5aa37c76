/**
 * The largest time of the database that a shard with a journal of its own has heard. It is noted with the journal, so that a
 * later start accepts idempotent requests under no earlier time. Shard thread.
 */
import type { DatabaseTime } from '../../../core/checkpoint.js';
import type { JournalStreams } from '../../journal/journal.js';
import type { ShardDeps } from '../shard-context.js';
import { isJournalUnavailable } from './owned-stream.js';

/** The heard and the noted time of one shard. */
export class NotedTime {
  readonly #deps: Pick<ShardDeps, 'database' | 'clock' | 'log'>;
  readonly #journals: JournalStreams;
  /** The time that an earlier run noted. */
  #noted: DatabaseTime = 0;

  constructor(deps: Pick<ShardDeps, 'database' | 'clock' | 'log'>, journals: JournalStreams) {
    this.#deps = deps;
    this.#journals = journals;
  }

  /** Reads the noted time of an earlier run. Throws JournalError `journal-unavailable`. */
  read(): void {
    this.#noted = this.#journals.notedTime();
  }

  /** The largest time that this shard heard or noted. */
  get heard(): DatabaseTime {
    return Math.max(this.#noted, this.#deps.database.time);
  }

  /**
   * The times for the touches of a stream, every `intervalMs`. Each is noted first. Every group in the journal is also in the
   * sums, because an append is synchronous.
   */
  forTouches(intervalMs: number): () => DatabaseTime | undefined {
    const { clock, log } = this.#deps;
    let dueAt = Number.NEGATIVE_INFINITY;
    return () => {
      const time = this.heard;
      if (time === 0 || clock.monotonic() < dueAt) return undefined;
      try {
        this.#journals.noteTime(time);
      } catch (error) {
        if (!isJournalUnavailable(error)) throw error;
        log('debug', { err: error }, 'Cannot note the time of the database on the disk');
        return undefined;
      }
      dueAt = clock.monotonic() + intervalMs;
      return time;
    };
  }
}
