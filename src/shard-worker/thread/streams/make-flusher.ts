/** Makes the flusher of one stream. Shard thread. {@link FlusherParts} is the part that depends on the journal. */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { STAT } from '../../protocol/stats.js';
import { Flusher, type FlusherDatabase } from '../flush/flusher.js';
import type { CommittedFlush } from '../flush/range-flush.js';
import type { PendingSums } from '../pending-sums.js';
import type { ShardContext } from '../shard-context.js';
import { pendingOfAll } from './owned-stream.js';
import type { FlushedStream } from './shard-streams.js';
import type { Published } from '../shard-balance.js';

/** The part of a flusher that depends on the journal. */
export interface FlusherParts {
  readonly database: FlusherDatabase;
  readonly touchIntervalMs: number;
  /** Makes what was applied durable before it is frozen. */
  readonly sync: () => void;
  /** See `FlusherOptions.touchTime`. */
  readonly touchTime: () => DatabaseTime | undefined;
  /** Everything up to `toLsn` is committed. Publishes the flush. */
  readonly committed: (toLsn: Lsn, flush: CommittedFlush) => void;
  /** The row was seen where this process left it. */
  readonly confirmed: () => void;
  /** See `FlusherEvents.register`. */
  readonly register: () => Promise<void>;
  /** See `FlusherEvents.fenced`. */
  readonly fenced: (row: Checkpoint | undefined) => Promise<'over' | 'same' | 'committed'>;
}

/** Makes the flusher of a stream. `shard`: all streams that are flushed here. */
export function makeFlusher(
  context: ShardContext,
  shard: Published & { readonly flushed: readonly FlushedStream[] },
  pendingSums: PendingSums,
  parts: FlusherParts,
): Flusher {
  const { balance, setAside, reports, deps } = context;
  const { clock, random, flushIntervalMs, earlyFlush } = deps;
  const { database, touchIntervalMs, sync, touchTime, committed, confirmed, register, fenced } = parts;
  const options = { intervalMs: flushIntervalMs, ...earlyFlush, sync, touchTime, touchIntervalMs, random };
  return new Flusher(pendingSums, database, clock, options, {
    committed: ({ toLsn, acceptedThrough }, flush, ms) => {
      balance.observeFlush(flush.keys, ms);
      setAside.note(pendingSums.stream, flush, acceptedThrough);
      committed(toLsn, flush);
    },
    retried: () => {
      balance.count(STAT.flushRetries);
    },
    confirmed,
    register,
    fenced: (row) => {
      balance.count(STAT.fenced);
      return fenced(row);
    },
    databaseAvailable: (_, problem) => {
      balance.publish(shard);
      // Ignores failed statements of a removed stream. Nothing would clear their problem.
      if (!shard.flushed.some((flushed) => flushed.pendingSums === pendingSums)) return;
      reports.note(pendingSums.stream, problem, pendingOfAll(shard.flushed, 'pendingIncrements'));
    },
    failed: (error) => {
      context.fail(error);
    },
  });
}
