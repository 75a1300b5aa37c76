/** The kinds of journal and their properties. Any thread. */

/** Whether a server takes increments (`ingest`), flushes what others have taken (`roll-up`), or does both (`serve`). */
export type Role = 'serve' | 'ingest' | 'roll-up';

/** The kind of journal that keeps increments until they are summed. */
export type JournalKind = 'memory' | 'file' | 'postgres' | 'nats' | 'sqs';

/** The properties of a kind. */
export interface JournalProperties {
  /** How JOURNAL selects it. */
  readonly setting: string;
  /** The roles that a server with it may have. */
  readonly roles: readonly Role[];
  /** Servers on other machines can read and flush it. All of them need one database. */
  readonly isShared: boolean;
  /** Its records end with the thread that wrote them. JOURNAL_MAX_BYTES does not limit it. */
  readonly isVolatile: boolean;
  /** Its streams are directories in DATA_DIR, which can be missing or come back. */
  readonly isInDirectory: boolean;
  /** Its records are in the database of the sums, and cannot be written without it. */
  readonly isInDatabase: boolean;
  /** Its records are messages of a queue. A late one opens a retired stream again. */
  readonly isQueue: boolean;
  /** Why acknowledged increments can be lost, for a sentence. */
  readonly lossCause: string;
  /** Where the stream of a dead node is and which servers finish it, for a sentence; undefined if none does by itself. */
  readonly finishedBy: string | undefined;
}

/** Defaults. */
const unlessSaid = {
  isShared: false,
  isVolatile: false,
  isInDirectory: false,
  isInDatabase: false,
  isQueue: false,
  lossCause: 'the database has gone back to an earlier state',
  finishedBy: undefined,
} as const;

/** Each kind by its name. */
export const journalKinds: Readonly<Record<JournalKind, JournalProperties>> = {
  memory: { ...unlessSaid, setting: 'memory', roles: ['serve'], isVolatile: true },
  file: {
    ...unlessSaid,
    setting: 'file',
    roles: ['serve'],
    isInDirectory: true,
    lossCause: 'a sync of the journal failed, or its files were removed',
  },
  postgres: {
    ...unlessSaid,
    setting: 'postgres',
    roles: ['serve', 'ingest', 'roll-up'],
    isShared: true,
    isInDatabase: true,
    finishedBy: 'is in the database: any server with JOURNAL=postgres',
  },
  nats: {
    ...unlessSaid,
    setting: 'nats://HOST:PORT',
    roles: ['serve', 'ingest', 'roll-up'],
    isShared: true,
    lossCause: 'NATS has lost their records, or the database has gone back to an earlier state',
    finishedBy: 'is in NATS: any server with that broker as its JOURNAL',
  },
  // A server cannot read its own increments back from a queue.
  sqs: { ...unlessSaid, setting: 'sqs:QUEUE_URL', roles: ['ingest', 'roll-up'], isShared: true, isQueue: true },
};

/** The properties of a kind by the text of a setting or a column; undefined for other text. */
export function journalNamed(text: string | null): JournalProperties | undefined {
  return Object.entries(journalKinds).find(([kind]) => kind === text)?.[1];
}

/** The settings that select the kinds, or those for a role, as the end of a sentence. */
export function journalSettings(role?: Role): string {
  const kinds = Object.values(journalKinds).filter(({ roles }) => role === undefined || roles.includes(role));
  const settings = kinds.map(({ setting }) => setting);
  return `${settings.slice(0, -1).join(', ')} or ${settings.at(-1) ?? ''}`;
}
