/**
 * Finds open checkpoint rows of this node's file journals without a journal here. Such a row delays the pruning of idempotency
 * keys for ever. Main thread.
 *
 * - A stream that this process has finished and removed: a database that fails over to an older state opens its row again. The
 *   increments that this state lacks are lost, because the journal is removed. The row is retired, with an error in the log.
 * - Any other stream: its directory may be lost, or not mounted, or elsewhere. Only an operator knows, so the row stays, with a
 *   warning.
 */
import type { Logger } from '../core/logger.js';
import type { Lsn } from '../core/checkpoint.js';
import type { DatabaseConnection } from './connection.js';
import { OPEN_FILE_STREAMS, RETIRE_FINISHED_STREAM } from './upkeep-statements.js';

/** A stream that this process has flushed to its end and removed. */
export interface FinishedStream {
  /** Its last LSN. */
  readonly lsn: Lsn;
  /** The last ownership claims of its directory. */
  readonly claims: readonly string[];
}

/** Node, streams and log of the process. */
export interface AbsentStreamsOptions {
  /** This node's id. */
  readonly node: string;
  /** Streams on this disk or of a shard of this process; undefined if the disk cannot be read. */
  readonly here: () => readonly string[] | undefined;
  readonly finished: () => ReadonlyMap<string, FinishedStream>;
  readonly logger: Logger;
}

interface OpenRow {
  readonly stream: string;
  readonly epoch: string;
  readonly lsn: string;
  /** The last ownership claim; null if there is none. */
  readonly claim: string | null;
  /** Its owner has been silent for five minutes. */
  readonly is_silent: boolean;
}

/** Most streams of one round, and most warnings. */
const STREAMS_MAX = 1000;

/** Looks for such rows. */
export class AbsentStreams {
  readonly #options: AbsentStreamsOptions;
  readonly #warned = new Set<string>();

  constructor(options: AbsentStreamsOptions) {
    this.#options = options;
  }

  /** One round. Rejects as the connection does. */
  async look(connection: DatabaseConnection): Promise<void> {
    const { node, here, finished } = this.#options;
    const present = here();
    if (present === undefined) return;
    const known = finished();
    const rows = await connection.query<OpenRow & Record<string, unknown>>({
      text: OPEN_FILE_STREAMS,
      values: [node, present, [...known.keys()], STREAMS_MAX],
    });
    for (const row of rows) {
      const end = known.get(row.stream);
      if (end !== undefined && isOurs(row, end)) await this.#retire(connection, row, end);
      else if (row.is_silent) this.#warn(row);
    }
  }

  async #retire(connection: DatabaseConnection, { stream, epoch, lsn }: OpenRow, end: FinishedStream): Promise<void> {
    const values = [stream, epoch, lsn];
    const retired = await connection.query({ text: RETIRE_FINISHED_STREAM, values });
    // Another process has moved the row; the next round looks again.
    if (retired.length === 0) return;
    const from = Number(lsn) + 1;
    const fields = { stream, checkpoint: Number(lsn), end: end.lsn };
    if (from > end.lsn) {
      this.#options.logger.info(fields, 'Retired a finished stream again: the database went back to an earlier state');
      return;
    }
    this.#options.logger.error(
      fields,
      `Stream ${stream} is at LSN ${lsn} in the database and was finished at LSN ${end.lsn} here: increments of LSN ` +
        `${from} to ${end.lsn} are lost with the database's failover; the stream is retired`,
    );
  }

  #warn({ stream, lsn }: OpenRow): void {
    if (this.#warned.has(stream) || this.#warned.size >= STREAMS_MAX) return;
    this.#warned.add(stream);
    this.#options.logger.warn(
      { stream, checkpoint: Number(lsn) },
      `Stream ${stream} of this node is open in the database and has no journal here, so idempotency keys are not ` +
        `pruned. If its directory is lost for good, run \`npm run journal -- retire --stream ${stream}\``,
    );
  }
}

/** Whether this data directory owned the row. A claim of another directory shows that one of the two is a copy. */
function isOurs({ epoch, lsn, claim }: OpenRow, end: FinishedStream): boolean {
  if (Number(lsn) > end.lsn) return false;
  return claim === null ? Number(epoch) === 0 : end.claims.includes(claim);
}
