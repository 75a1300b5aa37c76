/** GET /readyz: whether increments are taken, and which parts do not work. Main thread. */
import type { BoundSentences } from '../config/bound-sentences.js';
import type { Role } from '../config/journal-kind.js';
import { codeOfRefusal, isBound, type Refusal } from '../core/bounds.js';
import type { Readiness } from '../core/counter-operations.js';
import type { ErrorCode } from '../core/errors.js';
import type { CounterStore } from '../db/counter-store.js';
import type { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** The sources of readiness. */
export interface ReadinessSources {
  /** Undefined until the address of the database is known. */
  readonly store: () => Pick<CounterStore, 'available'> | undefined;
  readonly supervisor: () => Pick<ShardSupervisor, 'isRecovered'> | undefined;
  /** Why increments are refused; undefined if they are taken. */
  readonly refusal: () => Refusal | undefined;
  readonly boundSentences: BoundSentences;
  /** False while the flushes of a shard fail. The database may still answer reads. */
  readonly flushing: () => boolean;
  /** Increments of rows that this process set aside because PostgreSQL refused them. */
  readonly rejected: () => number;
  /** What an operator must change at the broker or the queue, in sentences. */
  readonly journalProblem: () => string | undefined;
  /** Whether idempotent requests are refused, because no row of a stream covers them. */
  readonly refusesIdempotent: () => boolean;
  /** ROLE. */
  readonly role: Role;
}

/** Why reads are not possible yet. */
export const NOT_RECOVERED =
  'Recovery of the journals of earlier runs is not complete: it needs the database, and reads one after the other.';

const NOT_COVERED =
  'Requests with an Idempotency-Key are refused until rows of journal_checkpoints cover them, which needs the database.';

const REASONS: Partial<Record<ErrorCode, string>> = {
  starting: 'The server is starting.',
  draining: 'The server is shutting down.',
  'journal-unavailable':
    'A shard is restarting, its journal cannot be written, or its files were removed; the log says which.',
};

/** The current readiness. */
export function readinessOf(sources: ReadinessSources): Readiness {
  let readiness = withoutRows(sources);
  const rejected = sources.rejected();
  if (readiness.state !== 'refusing' && sources.refusesIdempotent()) readiness = withReason(readiness, NOT_COVERED);
  const journalProblem = sources.journalProblem();
  if (journalProblem !== undefined) readiness = withReason(readiness, journalProblem);
  return rejected === 0 ? readiness : withReason(readiness, `${rejectedSentence(rejected)}.`);
}

function withoutRows(sources: ReadinessSources): Readiness {
  const refusal = sources.refusal();
  if (refusal !== undefined) {
    const reason = isBound(refusal) ? sources.boundSentences[refusal] : REASONS[refusal];
    return { state: 'refusing', code: codeOfRefusal(refusal), reason: reason ?? 'Increments are refused.' };
  }
  const store = sources.store();
  if (sources.role === 'roll-up' && (store?.available() !== true || !sources.flushing())) {
    return {
      state: 'refusing',
      code: 'database-unavailable',
      reason: 'The database is unavailable; nothing is flushed.',
    };
  }
  if (store?.available() !== true) {
    return { state: 'degraded', reason: 'The database is unavailable; increments stay in the journal.' };
  }
  if (sources.supervisor()?.isRecovered !== true) return { state: 'degraded', reason: NOT_RECOVERED };
  if (!sources.flushing()) {
    return { state: 'degraded', reason: 'Flushes to the database fail; increments stay in the journal.' };
  }
  return { state: 'ok' };
}

/** Tells where increments of rejected rows are. Without a full stop. */
export function rejectedSentence(increments: number): string {
  const kept = increments === 1 ? '1 increment of rejected rows is' : `${increments} increments of rejected rows are`;
  return `${kept} kept in rejected_increments`;
}

function withReason(readiness: Readiness, reason: string): Readiness {
  return { ...readiness, reason: readiness.reason === undefined ? reason : `${readiness.reason} ${reason}` };
}
