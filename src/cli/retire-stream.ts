/**
 * Retires a stream of a node that is lost for good, so that the pruning of idempotency keys does not wait for it. Main thread
 * of the journal command.
 *
 * The command uses only the database, because the disk of the node is lost. Its records above the checkpoint stay uncounted. If
 * the disk comes back, its server takes the stream again and counts them, and sets aside idempotent requests that can no longer
 * be checked. Retiring fences a live node, so the command first checks its last heartbeat.
 */
import { journalNamed } from '../config/journal-kind.js';
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { reasonOf, StartError } from '../core/errors.js';
import { DESCRIBE_STREAM, RETIRE_DEAD_STREAM } from '../db/upkeep-statements.js';
import { EXIT_TEMPORARY } from './command-exit.js';

interface StreamRow {
  readonly lsn: string;
  readonly node: string | null;
  readonly shard: number | null;
  readonly journal: string | null;
  readonly retired_at: Date | null;
  readonly heard_of: Date;
}

/** The outcome for the operator. */
export interface Retirement {
  /** Whether the stream is retired now. */
  readonly isRetired: boolean;
  readonly sentence: string;
}

/**
 * Retires the stream, unless its last heartbeat is less than five minutes old. Throws StartError if the database does not
 * answer.
 */
export async function retireStream(target: DatabaseTarget, stream: string): Promise<Retirement> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      const retired = await connection.query({ text: RETIRE_DEAD_STREAM, values: [stream] });
      return retirement(target, stream, retired.length === 1, await describe(connection, stream));
    } finally {
      await connection.close();
    }
  } catch (cause) {
    const problem = `The query to ${describeTarget(target)} failed: ${reasonOf(cause)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

async function describe(connection: DatabaseConnection, stream: string): Promise<StreamRow | undefined> {
  const [row] = await connection.query<StreamRow & Record<string, unknown>>({
    text: DESCRIBE_STREAM,
    values: [stream],
  });
  return row;
}

function retirement(
  target: DatabaseTarget,
  stream: string,
  isRetiredNow: boolean,
  row: StreamRow | undefined,
): Retirement {
  if (row === undefined) {
    return { isRetired: false, sentence: `${describeTarget(target)} has no stream ${stream}.` };
  }
  const { lsn, node, shard, journal, retired_at: retiredAt, heard_of: heardOf } = row;
  const whose = `${journal ?? 'unknown'} journal of shard ${shard ?? '?'} of node ${node ?? 'unknown'}`;
  const kind = journalNamed(journal);
  if (isRetiredNow) {
    const sentence =
      `Stream ${stream}, the ${whose}, is retired at LSN ${lsn}; its node was last heard of at ${heardOf.toISOString()}. ` +
      (kind?.isQueue === true
        ? `Records above LSN ${lsn} that the queue still has, or gets, open it again.`
        : `Records above LSN ${lsn} are counted only if a server starts with its directory again.`);
    return { isRetired: true, sentence };
  }
  if (retiredAt !== null) {
    return { isRetired: true, sentence: `Stream ${stream} was already retired at ${retiredAt.toISOString()}.` };
  }
  if (kind?.finishedBy !== undefined) {
    const sentence = `Stream ${stream}, the ${whose}, ${kind.finishedBy} and a ROLE other than ingest finishes it.`;
    return { isRetired: false, sentence };
  }
  const sentence =
    `Stream ${stream}, the ${whose}, was heard of at ${heardOf.toISOString()}, less than five minutes ago: ` +
    'its node is alive. Stop the node first, or wait five minutes.';
  return { isRetired: false, sentence };
}
