/**
 * Recovery of a stream of an earlier run: takes it, then reads the journal. Shard thread.
 */
import type { RecoverableJournal } from '../../journal/journal.js';
import type { HandedOverStream } from '../../protocol/control-messages.js';
import { PendingSums } from '../pending-sums.js';
import { handedOverAbove, missingIncrements } from './handed-over.js';
import type { ShardLog } from './owned-stream.js';
import type { StreamTaker } from './stream-taker.js';

/** A recovered stream. */
export interface RecoveredStream {
  readonly pendingSums: PendingSums;
  /** Increments above the checkpoint: the pending ones. */
  readonly increments: number;
  /** Handed-over increments that the journal lacks. */
  readonly missing: number;
}

/**
 * Takes the stream, then recovers the journal above the checkpoint. In this order no earlier owner can still flush. Rejects as
 * {@link StreamTaker.take} and the journal's recovery do.
 */
export async function recoverStream(
  journal: RecoverableJournal,
  taker: StreamTaker,
  log: ShardLog,
  handedOver?: HandedOverStream,
): Promise<RecoveredStream> {
  const { stream } = journal;
  const row = await taker.take(journal);
  const facts = journal.recover(row.lsn);
  const pendingSums = new PendingSums(stream, row);
  const above = handedOver === undefined ? 0 : handedOverAbove(handedOver, row.lsn);
  let increments = 0;
  let found = 0;
  try {
    for (const { lsn, entries, databaseTime, acceptedAt } of journal.replay(row.lsn)) {
      const applied = pendingSums.apply(lsn, entries, 0, entries.length, databaseTime, acceptedAt);
      increments += applied;
      if (lsn > above) found += applied;
    }
  } catch (error) {
    journal.close();
    throw error;
  }
  log('info', { stream, checkpoint: row.lsn, end: journal.endLsn, increments, ...facts }, 'Recovered a journal');
  const missing = handedOver === undefined ? 0 : missingIncrements(handedOver, above, journal.endLsn, found);
  return { pendingSums, increments, missing };
}
