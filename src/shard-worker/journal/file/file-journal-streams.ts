/**
 * The streams of one shard in the journal directory. Shard thread.
 *
 * Several shard threads read the directory at the same time, each for its own streams. A stream belongs to the shard
 * that its newest segment names; if there are fewer shards now, to that number modulo the number of shards. What other
 * shards create or remove meanwhile does not disturb the reading.
 */
import { JournalError } from '../../../core/errors.js';
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
    const found = ({ stream, bytes }: StreamInfo): FoundStream => ({ stream, bytes });
    return { own: own && found(own), orphaned: streams.filter((info) => info !== own).map(found) };
  }

  create(): Journal {
    return this.#keep(createFileJournal(this.#settings()));
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
    try {
      orUnavailable(`Stream ${stream} cannot be removed`, () => removeStream(disk, directory, stream));
    } catch (error) {
      // Its row is retired, so the next start removes the stream.
      if (!(error instanceof JournalError)) throw error;
    }
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

  #settings(): FileJournalOptions {
    return { ...this.#options, databaseId: this.#databaseId, reserve: this.#reserve };
  }

  #keep(journal: FileJournal): FileJournal {
    this.#open.set(journal.stream, journal);
    return journal;
  }
}
