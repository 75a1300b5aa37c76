/**
 * The readers of all streams that this thread flushes. Shard thread.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import type { JournalRecord } from '../journal.js';
import type { LogPosition } from '../stream-log.js';
import type { Broker } from './broker.js';
import type { WriteLine } from './errand.js';
import { StreamReader } from './stream-reader.js';
import type { SubjectPurge } from './subject-purge.js';

/** Collaborators of the readers. */
export interface StreamReadersDeps {
  readonly broker: Pick<Broker, 'publish' | 'read' | 'last'>;
  readonly purge: SubjectPurge;
  readonly clock: Pick<Clock, 'monotonic' | 'uptime'>;
  /** This long after a read was sent the broker may have restarted. */
  readonly confirmAfterMs: number;
  readonly log: WriteLine;
}

/** One reader a stream. */
export class StreamReaders {
  readonly #deps: StreamReadersDeps;
  readonly #readers = new Map<string, StreamReader>();

  constructor(deps: StreamReadersDeps) {
    this.#deps = deps;
  }

  /** Records above positions in their streams, about `recordsMax` of each. */
  async read(
    positions: readonly LogPosition[],
    recordsMax: number,
  ): Promise<ReadonlyMap<string, readonly JournalRecord[]>> {
    const reading = positions.map(async ({ stream, lsn }): Promise<[string, readonly JournalRecord[]]> => {
      const found = this.#readers.get(stream);
      const reader = found?.lsn === lsn ? found : this.begin(stream, lsn, found?.ends === true);
      return [stream, await reader.read(recordsMax)];
    });
    // Waits for all, also after a failure: two reads of a stream must not overlap.
    await Promise.allSettled(reading);
    return new Map(await Promise.all(reading));
  }

  /** Begins to read a stream above `lsn`. `ends`: whether this thread ends it. */
  begin(stream: string, lsn: Lsn, ends: boolean): StreamReader {
    const { broker, clock, confirmAfterMs, log, purge } = this.#deps;
    const purges = purge.of(stream);
    // The new reader decides what is purged.
    purges.clear();
    const reader = new StreamReader(stream, lsn, ends, {
      ...{ broker, purges, clock, confirmAfterMs },
      unreadable: (sequence, error) => {
        const what = `Stream ${stream} has an unreadable message in NATS; later messages are not counted`;
        log('error', { stream, sequence, err: error }, what);
      },
      unfenced: (error) => {
        log('debug', { stream, err: error }, 'Cannot fence a stream in NATS now; retrying');
      },
    });
    this.#readers.set(stream, reader);
    return reader;
  }

  /** Whether a stream was read up to a fence, so that it has no writer. */
  isFenced(stream: string): boolean {
    return this.#readers.get(stream)?.isFenced === true;
  }

  /** The last LSN before a fence of a stream, where records up to there are missing. */
  missingLsn(stream: string): Lsn | undefined {
    return this.#readers.get(stream)?.missingLsn;
  }

  /** Whether a stream was read to its end, and that is `lsn`. */
  hasEndedAt(stream: string, lsn: Lsn): boolean {
    const reader = this.#readers.get(stream);
    return reader?.hasEnded === true && reader.lsn === lsn;
  }

  forget(stream: string): void {
    this.#readers.delete(stream);
  }

  /** Other threads have taken or retired all streams but these. */
  forgetAllBut(owned: ReadonlySet<string>): void {
    for (const stream of this.#readers.keys()) if (!owned.has(stream)) this.#readers.delete(stream);
  }
}
