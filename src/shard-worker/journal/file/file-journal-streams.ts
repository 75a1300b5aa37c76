/**
 * The streams of one shard in the journal directory. Shard thread.
 *
 * Several shard threads read the directory at the same time, each for its own streams. A stream belongs to the shard
 * that its newest segment names; if there are fewer shards now, to that number modulo the number of shards. What other
 * shards create or remove meanwhile does not disturb the reading.
 */
import { join } from 'node:path';
import type { DatabaseTime } from '../../../core/checkpoint.js';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { StreamMark } from '../ownership-claim.js';
import { keepTime, readOwnership, readTime } from './stream-files.js';
import { findLastTime, findSegments } from './stream-scan.js';
import type { FoundStream, Journal, JournalStreams, RecoverableJournal } from '../journal.js';
import { DiskReserve } from './disk-reserve.js';
import { orUnavailable } from './disk.js';
import { createFileJournal, openFileJournal, type FileJournal } from './file-journal.js';
import type { FileJournalOptions } from './file-journal-options.js';
import { listStreams, removeStream, sweepRemovedStreams, type StreamInfo } from './journal-directory.js';

/** Options of all streams of a shard. `shards` is the number of shards. */
export interface FileJournalStreamsOptions extends FileJournalOptions {
  readonly shards: number;
  /** The operator wants the streams to move to another database. */
  readonly rebind?: boolean;
}

/** The streams of a shard with a file journal. */
export class FileJournalStreams implements JournalStreams {
  readonly endsWithThread = false;
  readonly #options: FileJournalStreamsOptions;
  readonly #open = new Map<string, FileJournal>();
  readonly #reserve: DiskReserve;
  #databaseId: string | undefined;
  #own: string | undefined;
  /** Streams of earlier runs with their marks, as they were last listed. Only an open stream changes its mark. */
  #listed = new Map<string, StreamMark>();
  /** The time that is durable on the disk, apart from the streams, which are removed. */
  #noted: DatabaseTime = 0;

  constructor(options: FileJournalStreamsOptions) {
    this.#options = options;
    this.#databaseId = options.databaseId;
    this.#reserve = new DiskReserve(options.disk, options.directory, options.shard);
  }

  get keepMs(): number {
    return 1000 * this.#options.keepSeconds;
  }

  /**
   * Streams of earlier runs. The newest one of this shard is its own; all others are orphaned. Throws JournalError
   * `journal-corrupt` or `journal-format`, and `journal-unavailable` if the directory cannot be read.
   */
  existing(): ReturnType<JournalStreams['existing']> {
    const { disk, directory, shard, shards } = this.#options;
    const isOurs = (info: StreamInfo): boolean => info.shard % shards === shard;
    sweepRemovedStreams(disk, directory);
    const streams = listStreams(disk, directory).filter(isOurs);
    const own = streams.findLast((info) => info.shard === shard);
    this.#own = own?.stream;
    const found = streams.map(({ stream, bytes }): FoundStream => ({ stream, bytes, mark: this.#markOnDisk(stream) }));
    this.#listed = new Map(found.map(({ stream, mark }) => [stream, mark]));
    return {
      own: found.find(({ stream }) => stream === own?.stream),
      orphaned: found.filter(({ stream }) => stream !== own?.stream),
    };
  }

  create(cover?: string): Journal {
    return this.#keep(createFileJournal(this.#settings(), cover));
  }

  /** Throws as {@link openFileJournal} does. */
  open(stream: string): RecoverableJournal {
    const { rebind } = this.#options;
    const forFinishing = stream !== this.#own;
    return this.#keep(
      openFileJournal({ ...this.#settings(), stream, forFinishing, ...(rebind === true && { rebind }) }),
    );
  }

  /** Removes the directory of a stream whose checkpoint row is retired. */
  remove(journal: Journal): void {
    const { disk, directory } = this.#options;
    const { stream } = journal;
    this.#open.delete(stream);
    this.#listed.delete(stream);
    try {
      orUnavailable(`Stream ${stream} cannot be removed`, () => removeStream(disk, directory, stream));
    } catch (error) {
      // Its row is retired, so the next start removes the stream.
      if (!(error instanceof JournalError)) throw error;
    }
  }

  markOf(stream: string): StreamMark | undefined {
    return this.#open.get(stream)?.ownership().mark ?? this.#listed.get(stream);
  }

  notedTime(): DatabaseTime {
    const { disk, directory } = this.#options;
    let time = this.#noted;
    try {
      this.#noted = Math.max(this.#noted, readTime(disk, directory));
      time = this.#noted;
      for (const stream of this.#listed.keys())
        time = Math.max(time, findLastTime(disk, findSegments(disk, join(directory, stream))));
    } catch (error) {
      // Recovery reports the error. A time that is too early refuses requests, and never counts twice.
      if (systemErrorCode(error) === undefined && !(error instanceof JournalError)) throw error;
    }
    return time;
  }

  noteTime(time: DatabaseTime): void {
    if (time <= this.#noted) return;
    const { disk, directory, shard } = this.#options;
    orUnavailable(`${directory} cannot be written`, () => {
      keepTime(disk, directory, shard, time);
    });
    this.#noted = time;
  }

  /** Writes the reserve for a start on a full disk, if there is room. */
  tend(): void {
    this.#reserve.tend(this.#options.clock.monotonic());
  }

  /** Throws JournalError `journal-foreign` if an open stream belongs to another database. */
  setDatabaseId(databaseId: string): void {
    this.#databaseId = databaseId;
    for (const journal of this.#open.values()) journal.setDatabaseId(databaseId);
  }

  #markOnDisk(stream: string): StreamMark {
    const { disk, directory } = this.#options;
    const path = join(directory, stream);
    return orUnavailable(`${path} cannot be read`, () => readOwnership(disk, path).mark);
  }

  #settings(): FileJournalOptions {
    return { ...this.#options, databaseId: this.#databaseId, reserve: this.#reserve };
  }

  #keep(journal: FileJournal): FileJournal {
    this.#open.set(journal.stream, journal);
    return journal;
  }
}
