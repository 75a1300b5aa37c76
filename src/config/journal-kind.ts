/**
 * The kinds of journal. Any thread.
 */

/** The journals that this version implements. */
export const journalKinds = ['memory', 'file', 'postgres', 'nats', 'sqs'] as const;

/** The kind of journal that keeps increments until they are summed. */
export type JournalKind = (typeof journalKinds)[number];

/** Whether servers on other machines can read the journal, so that any of them flushes it. */
export function isSharedJournal(journal: JournalKind): boolean {
  return journal !== 'memory' && journal !== 'file';
}
