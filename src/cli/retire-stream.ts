/**
 * Ends a stream whose node is gone for good, so that the pruning of idempotency tokens no longer waits for it. Main thread
 * of a process of its own.
 *
 * Only the database is asked: the node's disk is not there to be read. What it held above the checkpoint stays uncounted;
 * should the disk come back after all, its server refuses to start and says how these records are given a stream of their
 * own. A node that is alive is fenced, so it is asked first when it was last heard of.
 */
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

/** What came of it, as a sentence for the operator. */
export interface Retirement {
  /** The stream is retired now. */
  readonly isRetired: boolean;
  readonly sentence: string;
}

/** Retires the stream unless it has been heard of in the last five minutes. Throws StartError where that cannot be asked. */
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
    const problem = `${describeTarget(target)} could not be asked: ${reasonOf(cause)}.`;
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
    return { isRetired: false, sentence: `${describeTarget(target)} knows no stream ${stream}.` };
  }
  const { lsn, node, shard, journal, retired_at: retiredAt, heard_of: heardOf } = row;
  const whose = `${journal ?? 'unknown'} journal of shard ${shard ?? '?'} of node ${node ?? 'unknown'}`;
  if (isRetiredNow) {
    const sentence =
      `Stream ${stream}, the ${whose}, is retired at LSN ${lsn}. Everything that it had accepted before ` +
      `${heardOf.toISOString()} is counted; what it had above LSN ${lsn} is not.`;
    return { isRetired: true, sentence };
  }
  if (retiredAt !== null) {
    return { isRetired: true, sentence: `Stream ${stream} was retired at ${retiredAt.toISOString()} already.` };
  }
  const sentence =
    `Stream ${stream}, the ${whose}, was heard of at ${heardOf.toISOString()}, less than five minutes ago: ` +
    'its node is alive. Stop that first, or wait.';
  return { isRetired: false, sentence };
}
