/**
 * One round of the pruner: retires abandoned streams, deletes idempotency keys whose window is over, and removes committed records
 * of the postgres journal. Main thread.
 *
 * A key can be deleted once no stream can still flush a retry that was accepted within its window. The row of each open stream has
 * the time of the database up to which all its accepted requests are committed (`accepted_through`). The least of these times, less
 * the window, is the limit. The round stores it in `pruned_before` before it deletes anything. The lock on that row prevents other
 * processes from taking a stream meanwhile: a row that is made or opened again later covers only newer requests (`covered_from`).
 *
 * All times are those of the database, so a node with a wrong clock prunes nothing too early.
 */
import { journalKinds, type JournalKind } from '../config/journal-kind.js';
import type { Logger } from '../core/logger.js';
import type { Statement } from './connection.js';
import { PRUNE_HEARTBEATS, PRUNE_LOG, PRUNE_LOG_TOMBSTONES } from './log-statements.js';
import {
  ADVANCE_PRUNED_BEFORE,
  BEGIN_PRUNING,
  COMMIT_PRUNING,
  EXPIRE_STREAM,
  FIND_EXPIRED_STREAMS,
  LOCK_PRUNING,
  NOTE_PRUNER_ROUND,
  PRUNE_DELETES,
  PRUNE_IDEMPOTENCY_KEYS,
  PRUNE_TOMBSTONES,
  PRUNER_UNLOCK,
  TRY_PRUNER_LOCK,
} from './upkeep-statements.js';

/** The session of a round. All statements of a round run on one. */
export interface PrunerSession {
  readonly lost: boolean;
  query<Row extends Record<string, unknown>>(statement: Statement): Promise<Row[]>;
  destroy(): void;
}

/** Limits of the pruner. */
export interface PrunerOptions {
  /** IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHours: number;
  /** STREAM_EXPIRY_DAYS; 0: no stream of a file journal expires. */
  readonly expiryDays: number;
  /** JOURNAL_KEEP_SECONDS of a journal in this database; undefined: this server has another journal. */
  readonly logKeepSeconds?: number | undefined;
  readonly logger: Pick<Logger, 'warn' | 'info'>;
}

const PRUNE_BATCH = 10_000;
/** Smaller, because a record is as large as a batch of requests. */
const LOG_BATCH = 500;
/** Most batches of one round, so that a round ends. */
const PRUNE_BATCHES_MAX = 100;
/** Most streams that expire in one round. */
const EXPIRED_MAX = 1000;

interface ExpiredRow extends Record<string, unknown> {
  readonly lsn: string;
  readonly node: string | null;
  readonly shard: number | null;
  readonly journal: JournalKind;
  readonly heard_at: Date;
  readonly closed: boolean;
}

/** The pruner of one process. One node prunes at a time. */
export class IdempotencyPruner {
  readonly #options: PrunerOptions;
  #closed = false;

  constructor(options: PrunerOptions) {
    this.#options = options;
  }

  /** Ends a round after the current statement. */
  close(): void {
    this.#closed = true;
  }

  /**
   * One round. Resolves to how far the oldest open stream delays the pruning, in seconds; undefined where another node prunes.
   * Rejects as the session does.
   */
  async round(session: PrunerSession): Promise<number | undefined> {
    const [lock] = await session.query<{ locked: boolean }>({ text: TRY_PRUNER_LOCK });
    if (lock?.locked !== true) return undefined;
    try {
      await session.query({ text: NOTE_PRUNER_ROUND });
      await this.#expire(session);
      const { horizon, heldSeconds } = await this.#advance(session);
      const { windowHours, logKeepSeconds } = this.#options;
      await this.#prune(session, PRUNE_IDEMPOTENCY_KEYS, [windowHours, PRUNE_BATCH, horizon]);
      await this.#prune(session, PRUNE_TOMBSTONES, [windowHours, PRUNE_BATCH]);
      await this.#prune(session, PRUNE_DELETES, [windowHours, PRUNE_BATCH]);
      if (logKeepSeconds !== undefined)
        await this.#prune(session, PRUNE_LOG, [logKeepSeconds, LOG_BATCH, LOG_BATCH], LOG_BATCH);
      await this.#prune(session, PRUNE_LOG_TOMBSTONES, [windowHours, PRUNE_BATCH]);
      await session.query({ text: PRUNE_HEARTBEATS });
      return heldSeconds;
    } finally {
      if (!session.lost) await session.query({ text: PRUNER_UNLOCK });
    }
  }

  async #expire(session: PrunerSession): Promise<void> {
    const { expiryDays, logger } = this.#options;
    const values = [expiryDays, EXPIRED_MAX];
    const found = await session.query<{ stream: string }>({ text: FIND_EXPIRED_STREAMS, values });
    for (const { stream } of found) {
      if (this.#closed) return;
      const [row] = await session.query<ExpiredRow>({ text: EXPIRE_STREAM, values: [expiryDays, stream] });
      if (row === undefined) continue;
      const { lsn, node, shard, journal, heard_at: heardAt, closed } = row;
      const fields = { stream, node, shard, journal, checkpoint: Number(lsn), heardAt };
      const { isQueue, isVolatile } = journalKinds[journal];
      if (closed || isVolatile) {
        logger.info(fields, 'Retired a stream with nothing left to flush, because its process is silent');
        continue;
      }
      if (isQueue) {
        const what =
          'Retired a stream of the sqs journal after 15 days without a record; a later record opens it again';
        logger.info(fields, what);
        continue;
      }
      logger.warn(
        fields,
        `Retired stream ${stream} at LSN ${lsn}, because its process has been silent since ${heardAt.toISOString()}; it no ` +
          'longer delays the pruning of idempotency keys. A later start with its directory still counts the remaining records',
      );
    }
  }

  /** Moves `pruned_before` in a transaction of its own. */
  async #advance(session: PrunerSession): Promise<{ readonly horizon: string; readonly heldSeconds: number }> {
    await session.query({ text: BEGIN_PRUNING });
    try {
      await session.query({ text: LOCK_PRUNING });
      const [row] = await session.query<{ horizon: string; held_seconds: number }>({ text: ADVANCE_PRUNED_BEFORE });
      await session.query({ text: COMMIT_PRUNING });
      if (row === undefined)
        throw new Error('the table idempotency_pruning has lost its row; restore it from a backup');
      return { horizon: row.horizon, heldSeconds: row.held_seconds };
    } catch (error) {
      // The transaction ends with its session.
      session.destroy();
      throw error;
    }
  }

  async #prune(session: PrunerSession, text: string, values: readonly unknown[], size = PRUNE_BATCH): Promise<void> {
    for (let batch = 0; batch < PRUNE_BATCHES_MAX && !this.#closed; batch += 1) {
      const [row] = await session.query<{ pruned: number }>({ text, values });
      if ((row?.pruned ?? 0) < size) break;
    }
  }
}
