/**
 * The streams of one shard in this node's data directory. Shard thread.
 *
 * Several shard threads look at the directory at once, each for its own streams: a stream belongs to the shard that its
 * newest segment names, and where there is no such shard any more, to that number modulo the shards there are. What
 * another shard makes or removes meanwhile is none of ours, and does not disturb the looking.
 */
import { JournalError } from '../../../core/errors.js';
import type { FoundStream, Journal, JournalStreams, RecoverableJournal } from '../journal.js';
import { DiskReserve } from './disk-reserve.js';
import { orUnavailable } from './disk.js';
import { createFileJournal, openFileJournal, type FileJournal } from './file-journal.js';
import type { FileJournalOptions } from './file-journal-options.js';
import { listStreams, removeStream, sweepRemovedStreams, type StreamInfo } from './journal-directory.js';

/** What a shard's streams have in common. `shards` is how many there are. */
export interface FileJournalStreamsOptions extends FileJournalOptions {
  readonly shards: number;
  /** Streams of another database are taken over, knowingly. */
  readonly rebind?: boolean;
}

/** The file journal's streams for a shard. */
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
   * Streams of earlier runs: the newest of this shard is continued, all others are finished. Throws JournalError
   * `journal-corrupt` or `journal-format`, and `journal-unavailable` where the directory cannot be read.
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

  /** Removes the data of a stream whose checkpoint row is retired. */
  remove(journal: Journal): void {
    const { disk, directory } = this.#options;
    const { stream } = journal;
    this.#open.delete(stream);
    try {
      orUnavailable(`Stream ${stream} cannot be removed`, () => removeStream(disk, directory, stream));
    } catch (error) {
      // The row says that it is finished, so the next start removes it.
      if (!(error instanceof JournalError)) throw error;
    }
  }

  /** Makes the reserve that a start on a full disk needs, where there is room for it. */
  tend(): void {
    this.#reserve.tend(this.#options.clock.monotonic());
  }

  /** Throws JournalError `journal-foreign` where a stream in use belongs to another database. */
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
