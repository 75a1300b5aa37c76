/**
 * What ended threads of a shard had applied and not committed, by stream, until a later thread has read the stream and counted
 * missing records. Main thread.
 */
import type { HandedOverStream } from '../protocol/control-messages.js';
import { STAT, statOf } from '../protocol/stats.js';

/** Most streams that are remembered. Each thread adds one, and a shard restarts at most a few times a minute. */
const STREAMS_MAX = 1000;

/** The streams that ended threads of one shard have handed over. */
export class HandedOverStreams {
  readonly #streams = new Map<string, HandedOverStream>();

  /** The streams that no thread has taken over yet. */
  get all(): readonly HandedOverStream[] {
    return [...this.#streams.values()];
  }

  /** The thread whose own stream is `stream` has ended. `row`: the shard's stats, before their balance is closed. */
  add(stream: string | undefined, row: Float64Array): void {
    const at = (cell: number): number => statOf(row, cell);
    if (stream === undefined || at(STAT.ownAppliedLsn) <= at(STAT.ownCheckpointLsn)) return;
    this.#streams.set(stream, {
      stream,
      checkpointLsn: at(STAT.ownCheckpointLsn),
      frozenLsn: at(STAT.ownFrozenLsn),
      appliedLsn: at(STAT.ownAppliedLsn),
      frozenIncrements: at(STAT.ownFrozenIncrements),
      liveIncrements: at(STAT.ownLiveIncrements),
    });
    const [oldest] = this.#streams.keys();
    if (oldest !== undefined && this.#streams.size > STREAMS_MAX) this.#streams.delete(oldest);
  }

  /** A thread has read the stream and counted missing records. */
  remove(stream: string): void {
    this.#streams.delete(stream);
  }
}
