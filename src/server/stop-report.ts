/** Logs what became of the increments when a process ends. Main thread. */
import type { Config } from '../config/config.js';
import { journalKinds, type JournalKind } from '../config/journal-kind.js';
import type { Logger } from '../core/logger.js';
import type { PendingRange } from '../shard-worker/protocol/control-messages.js';
import type { conservation } from '../shard-worker/protocol/stats.js';
import { rejectedSentence } from './server-readiness.js';

/** The result of a drain. */
export interface StopReport extends Pick<Config, 'journal' | 'role'> {
  readonly logger: Logger;
  readonly balance: ReturnType<typeof conservation>;
  /** The ranges that stay in the journals. */
  readonly left: readonly PendingRange[];
  /** Acknowledged increments in the journals of shards that ended and have not recovered since. */
  readonly unread: number;
  /** Why the database was last unavailable. */
  readonly databaseReason: string;
}

/** Logs the report. Returns the exit code. */
export function reportStop({ journal, role, logger, balance, left, unread, databaseReason }: StopReport): number {
  const { isVolatile, lossCause } = journalKinds[journal];
  // With a volatile journal, increments lost with a shard also count.
  const known = unread + (isVolatile ? balance.lost : 0);
  const pending = left.reduce((total, { increments = 0 }) => total + increments, known);
  const isLost = balance.lost > 0 && !isVolatile;
  if (isLost) {
    const what = `${balance.lost} acknowledged increments are lost, because ${lossCause}; exiting with code 1`;
    logger.error({ ...balance }, what);
  }
  if (balance.rejected > 0) {
    const advice = 'list them with `npm run journal -- rejected`; exiting with code 1';
    logger.error({ ...balance }, `${rejectedSentence(balance.rejected)} and not counted; ${advice}`);
  }
  if (left.length === 0 && pending === 0) {
    const what = balance.rejected > 0 || isLost ? 'Everything else' : 'Everything';
    const where = role === 'ingest' ? 'in the journal, for a roll-up' : 'committed';
    logger.info({ ...balance }, `${what} that was acknowledged is ${where}`);
  } else {
    const streams = left.filter(({ throughLsn }) => throughLsn === undefined).length;
    const earlier = streams === 0 ? '' : `, besides ${streams} unread ${streams === 1 ? 'stream' : 'streams'}`;
    const reason = databaseReason === '' ? undefined : databaseReason;
    const fields = { ranges: left, pending, flushed: balance.flushed, reason };
    if (isVolatile) logger.error(fields, fateOf(pending, journal));
    else logger.warn(fields, fateOf(pending, journal) + earlier);
  }
  if (balance.difference !== 0) {
    logger.error({ ...balance }, 'Increments do not add up at shutdown because of a bug; exiting with code 70');
    return 70;
  }
  return balance.rejected > 0 || isLost || (isVolatile && (left.length > 0 || pending > 0)) ? 1 : 0;
}

/** What becomes of pending increments when a process ends. */
export function fateOf(pending: number, journal: JournalKind): string {
  const { isShared, isVolatile } = journalKinds[journal];
  if (isVolatile) return `${pending} acknowledged increments are lost`;
  const whom = isShared ? 'any server that flushes it' : 'the next start';
  return `${pending} acknowledged increments stay in the journal for ${whom}`;
}
