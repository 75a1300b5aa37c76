/**
 * Counts what a stream of a broker or a queue has above missing records. Main thread of the journal command.
 *
 * A stream that lacks records is ended at its checkpoint, because nobody can tell what a client was told of the missing ones. Its
 * later records wait for an operator.
 */
import { reasonOf, StartError } from '../core/errors.js';
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { BEGIN_TAKING, COMMIT_TAKING, DATABASE_ID, LOCK_PRUNED_BEFORE } from '../db/statements.js';
import { DESCRIBE_STREAM, SKIP_MISSING } from '../db/upkeep-statements.js';
import { NatsBroker } from '../shard-worker/journal/nats/nats-broker.js';
import { decideBroker } from '../shard-worker/journal/nats/nats-start.js';
import { SubjectScan } from '../shard-worker/journal/nats/subject-content.js';
import { commandConfig } from './command-config.js';
import { EXIT_TEMPORARY, EXIT_USAGE } from './command-exit.js';

interface StreamRow extends Record<string, unknown> {
  readonly lsn: string;
  readonly journal: string | null;
}

/**
 * Says what it would do or, with `isConfirmed`, moves the checkpoint of a stream over missing records up to `above`. True if it has.
 * Throws StartError.
 */
export async function skipMissing(
  target: DatabaseTarget,
  { stream, above, isConfirmed }: { readonly stream: string; readonly above: number; readonly isConfirmed: boolean },
  say: (line: string) => void,
): Promise<boolean> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      const [row] = await connection.query<StreamRow>({ text: DESCRIBE_STREAM, values: [stream] });
      const lsn = Number(row?.lsn);
      if (row === undefined || !(above > lsn))
        throw usage(
          row === undefined ? `There is no stream ${stream}.` : `Stream ${stream} is counted to LSN ${lsn} already.`,
        );
      say(`Stream ${stream} is counted to LSN ${lsn}. LSNs ${lsn + 1} to ${above} stay uncounted.`);
      if (!(await isFollowed(connection, row, { stream, above }, say))) return false;
      if (!isConfirmed) {
        say('With --yes the stream is opened again, and what follows is counted.');
        return false;
      }
      await connection.query({ text: BEGIN_TAKING });
      await connection.query({ text: LOCK_PRUNED_BEFORE });
      const moved = await connection.query({ text: SKIP_MISSING, values: [stream, above] });
      await connection.query({ text: COMMIT_TAKING });
      say(
        moved.length === 1
          ? 'The stream is open. A server that flushes counts what follows.'
          : 'The stream has moved meanwhile.',
      );
      return moved.length === 1;
    } finally {
      await connection.close();
    }
  } catch (cause) {
    if (cause instanceof StartError) throw cause;
    const problem = `The command failed: ${reasonOf(cause)}. The database is ${describeTarget(target)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

/** Whether a record follows `above`. A queue cannot be asked. */
async function isFollowed(
  connection: DatabaseConnection,
  { journal }: StreamRow,
  { stream, above }: { readonly stream: string; readonly above: number },
  say: (line: string) => void,
): Promise<boolean> {
  if (journal === 'sqs') return true;
  const { nats, natsStream, natsReplicas } = commandConfig();
  if (journal !== 'nats' || nats === undefined)
    throw usage('skip is for streams of the journals nats and sqs; for nats it needs JOURNAL.');
  const settings = { ...nats, stream: natsStream, replicas: natsReplicas };
  const [database] = await connection.query<{ database_id: string }>({ text: DATABASE_ID });
  const known = { id: database?.database_id, unknownStreams: () => Promise.resolve([]) };
  const store = await decideBroker(settings, known, ({ before }) => Promise.resolve(before));
  if (store === undefined) throw usage('The broker belongs to no database.');
  const broker = new NatsBroker({ ...settings, store }, 'summing-counters journal');
  try {
    const content = await new SubjectScan(broker, () => undefined).content(stream, above);
    if (typeof content !== 'object') throw usage(`Stream ${stream} has an unreadable message.`);
    if (content.lastLsn > above) say(`LSNs ${above + 1} to ${content.lastLsn} are in NATS, and would be counted.`);
    else if (content.gapAt === undefined) say('NATS has no record above.');
    else
      say(
        `NATS has no record at LSN ${above + 1}; the next one is ${content.gapAt}: use --above ${content.gapAt - 1}.`,
      );
    return content.lastLsn > above;
  } finally {
    await broker.close();
  }
}

function usage(problem: string): StartError {
  return new StartError([problem], { exitCode: EXIT_USAGE });
}
