/**
 * A stream that this process owns. Shard thread.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import { addSums, type Sum } from '../../../core/increment.js';
import { hashKey } from '../../../core/key-hash.js';
import type { LogFields } from '../../../core/logger.js';
import type { Journal } from '../../journal/journal.js';
import type { PendingAnswer, PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import type { Flusher } from '../flush/flusher.js';
import { isDatabaseUnavailable, type ShardDatabase } from '../flush/shard-database.js';
import type { PendingSums } from '../pending-sums.js';

/** Logs a line. */
export type ShardLog = (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;

/** A journal, the pending sums above its checkpoint, and the loop that flushes them. */
export interface OwnedStream {
  readonly journal: Journal;
  readonly pendingSums: PendingSums;
  readonly flusher: Flusher;
}

/** The pending sums of keys in all streams, above the checkpoints that a read saw. Null: no stream holds the key. */
export function pendingIn(
  streams: readonly { readonly pendingSums: PendingSums }[],
  keys: readonly Uint8Array[],
  seen: SeenCheckpoints,
): PendingAnswer {
  const pending: (Sum | null)[] = [];
  for (const key of keys) {
    const sum = pendingOfKey(streams, key, seen);
    if (sum === 'again') return sum;
    pending.push(sum);
  }
  return pending;
}

function pendingOfKey(
  streams: readonly { readonly pendingSums: PendingSums }[],
  key: Uint8Array,
  seen: SeenCheckpoints,
): Sum | 'again' | null {
  const hash = hashKey(key, 0, key.length);
  let pending: Sum | null = null;
  for (const { pendingSums } of streams) {
    const view = seen.get(pendingSums.stream);
    if (view === undefined) return 'again';
    const part = pendingSums.pendingOf(hash, key, view ?? undefined);
    if (part === 'again') return 'again';
    if (part !== undefined) pending = addSums(pending ?? 0, part);
  }
  return pending;
}

/** What is pending in all streams. */
export function pendingOfAll(
  streams: readonly { readonly pendingSums: PendingSums }[],
  what: 'pendingIncrements' | 'pendingKeys' | 'pendingBytes',
): number {
  return streams.reduce((total, { pendingSums }) => total + pendingSums[what], 0);
}

/** The range of a stream that was read. */
export interface ReadRange extends PendingRange {
  readonly throughLsn: Lsn;
  readonly increments: number;
}

/** The range of a stream above its checkpoint. */
export function rangeOf(pendingSums: PendingSums): ReadRange {
  return {
    stream: pendingSums.stream,
    afterLsn: pendingSums.checkpointLsn,
    throughLsn: pendingSums.appliedLsn,
    increments: pendingSums.pendingIncrements,
  };
}

/**
 * Notes durably that the stream's row is about to be closed or retired. A start without the database must not accept idempotent
 * requests under such a row. Throws JournalError `journal-unavailable`.
 */
export function markClosed(journal: Journal): void {
  const ownership = journal.ownership();
  if (ownership.mark !== 'closed') journal.keepOwnership({ ...ownership, mark: 'closed' });
}

/** Closes a stream at a clean stop, so that its row does not hold up the pruning of idempotency keys. */
export async function endStream(
  journal: Journal,
  { stream, checkpoint }: PendingSums,
  how: 'closeStream' | 'retire',
  database: ShardDatabase,
  log: ShardLog,
): Promise<void> {
  try {
    markClosed(journal);
    await database[how](stream, checkpoint);
  } catch (error) {
    if (!isDatabaseUnavailable(error) && !isJournalUnavailable(error)) throw error;
    log(
      'warn',
      { err: error, stream },
      'Cannot close the stream; pruning of idempotency keys waits for the next start',
    );
  }
}

/** Whether the journal is unavailable now, for example because of a full disk. Its content is unharmed. */
export function isJournalUnavailable(error: unknown): boolean {
  return error instanceof JournalError && error.code === 'journal-unavailable';
}
