/**
 * What a start needs to know of the database to find out whether a broker or a queue belongs to it. Main thread and commands.
 */
import { JournalError } from '../../core/errors.js';
import type { JournalStore } from '../protocol/control-messages.js';

/** The database of the server. */
export interface PairedDatabase {
  /** Undefined until the database has answered. */
  readonly id: string | undefined;
  /** Those of the streams that have no row. Rejects with CounterError `database-unavailable`. */
  unknownStreams(streams: readonly string[]): Promise<readonly string[]>;
}

/** What `journal -- pair-store` finds, and does. */
export interface StorePairing {
  /** Undefined where the store belongs to no database. */
  readonly before: JournalStore | undefined;
  /** Streams with records that the database does not know. */
  readonly unknownStreams: readonly string[];
  /** Gives the store to a database, with the streams that name none. */
  readonly pair: (databaseId: string) => Promise<JournalStore>;
}

const NAMED_MAX = 3;

/** The error of a store that belongs to no database, while that of the server is unavailable. `what`: the store. */
export function unpaired(what: string): JournalError {
  const message = `${what} belongs to no database yet, and the database is unavailable.`;
  return new JournalError('journal-unavailable', message);
}

/** `what`: the store, `setting`: that of its name. */
export function foreignSentence(what: string, databaseId: string, ours: string, setting: string): string {
  return (
    `JOURNAL: ${what} belongs to the database ${databaseId}, and DATABASE_URL is the database ${ours}. Correct JOURNAL, ${setting} or ` +
    'DATABASE_URL. To give it to this database, stop all servers that use it, and run `npm run journal -- pair-store`.'
  );
}

/** The sentence for a store of an earlier version with streams that may be those of another database. */
export function unknownSentence(what: string, streams: readonly string[], setting: string): string {
  const more = streams.length > NAMED_MAX ? ` and ${streams.length - NAMED_MAX} more` : '';
  return (
    `JOURNAL: ${what} belongs to no database yet, and has streams that this one does not know: ` +
    `${streams.slice(0, NAMED_MAX).join(', ')}${more}. If another database counts them, set ${setting} to another name. If they belong to this ` +
    'one, run `npm run journal -- pair-store`.'
  );
}
