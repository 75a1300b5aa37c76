/**
 * Counts what a stream of a broker or a queue has above missing records. Main thread of the journal command.
 *
 * A stream that lacks records is ended at its checkpoint, because nobody can tell what a client was told of the missing ones. Its
 * later records wait for an operator: in the broker, or set aside from a queue.
 */
import { reasonOf, StartError } from '../core/errors.js';
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { BEGIN_TAKING, COMMIT_TAKING, DATABASE_ID, LOCK_PRUNED_BEFORE } from '../db/statements.js';
import { LOCK_SET_ASIDE } from '../db/stream-statements.js';
import { COUNT_ASIDE, DESCRIBE_ASIDE, DESCRIBE_STREAM, SKIP_MISSING } from '../db/upkeep-statements.js';
import { NatsBroker } from '../shard-worker/journal/nats/nats-broker.js';
import { decideBroker } from '../shard-worker/journal/nats/nats-start.js';
import { SubjectScan } from '../shard-worker/journal/nats/subject-content.js';
import { commandConfig } from './command-config.js';
import { EXIT_TEMPORARY, EXIT_USAGE } from './command-exit.js';

/** Rows of one statement. */
const BATCH_ROWS = 10_000;

interface StreamRow extends Record<string, unknown> {
  readonly lsn: string;
  readonly journal: string | null;
}

/** The result of COUNT_ASIDE. */
interface Batch extends Record<string, unknown> {
  readonly lsn: string | null;
  readonly increments: number;
  /** Requests whose idempotency keys are recorded. */
  readonly known: number;
}

/** What to skip. */
interface Skip {
  readonly stream: string;
  readonly above: number;
  readonly isConfirmed: boolean;
}

/**
 * Says what it would do or, with `isConfirmed`, counts what a stream has above missing records up to `above`. True if it has.
 * Throws StartError.
 */
export async function skipMissing(target: DatabaseTarget, skip: Skip, say: (line: string) => void): Promise<boolean> {
  const { stream, above, isConfirmed } = skip;
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      const [row] = await connection.query<StreamRow>({ text: DESCRIBE_STREAM, values: [stream] });
      const journal = row?.journal ?? 'sqs';
      if (journal !== 'nats' && journal !== 'sqs') throw usage('skip is for streams of the journals nats and sqs.');
      const aside = journal === 'nats' ? undefined : await describeAside(connection, skip);
      if (row === undefined && aside?.last === null) throw usage(`There is no stream ${stream}.`);
      const lsn = Number(row?.lsn ?? 0);
      if (above <= lsn) throw usage(`Stream ${stream} is counted to LSN ${lsn} already.`);
      say(
        row === undefined
          ? `Stream ${stream} has no row, so it is unknown what of it is counted up to LSN ${above}.`
          : `Stream ${stream} is counted to LSN ${lsn}. LSNs ${lsn + 1} to ${above} stay uncounted.`,
      );
      if (!(aside === undefined ? await isFollowed(connection, row, skip, say) : isAside(aside, say))) return false;
      if (!isConfirmed) {
        say('With --yes, what follows is counted.');
        return false;
      }
      return await (aside === undefined ? openAbove : countAside)(connection, skip, say);
    } finally {
      await connection.close();
    }
  } catch (cause) {
    if (cause instanceof StartError) throw cause;
    const problem = `The command failed: ${reasonOf(cause)}. The database is ${describeTarget(target)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

/** Has a server count what the broker has above the missing records. */
async function openAbove(
  connection: DatabaseConnection,
  { stream, above }: Skip,
  say: (line: string) => void,
): Promise<boolean> {
  await connection.query({ text: BEGIN_TAKING });
  await connection.query({ text: LOCK_PRUNED_BEFORE });
  const moved = await connection.query({ text: SKIP_MISSING, values: [stream, above] });
  await connection.query({ text: COMMIT_TAKING });
  const isMoved = moved.length === 1;
  say(
    isMoved
      ? 'The stream is open. A server that flushes counts what follows.'
      : 'The stream has moved meanwhile; run the command again.',
  );
  return isMoved;
}

/** What servers have received from a queue above the missing records, and set aside. */
interface Aside extends Record<string, unknown> {
  readonly first: string | null;
  readonly last: string | null;
  readonly increments: string;
}

async function describeAside(connection: DatabaseConnection, { stream, above }: Skip): Promise<Aside | undefined> {
  const [aside] = await connection.query<Aside>({ text: DESCRIBE_ASIDE, values: [stream, above] });
  return aside;
}

function isAside({ first, last, increments }: Aside, say: (line: string) => void): boolean {
  say(
    last === null
      ? 'Nothing is set aside above. A roll-up sets records aside half a minute after it finds that earlier ones are missing.'
      : `LSNs ${first} to ${last} are set aside in rejected_increments: ${increments} increments, which would be counted.`,
  );
  return last !== null;
}

/** Counts what is set aside, in batches, from the first record on. */
async function countAside(
  connection: DatabaseConnection,
  { stream, above }: Skip,
  say: (line: string) => void,
): Promise<boolean> {
  let [counted, known] = [0, 0];
  for (let lsn: string | number | null = above; ;) {
    await connection.query({ text: BEGIN_TAKING });
    await connection.query({ text: LOCK_PRUNED_BEFORE });
    await connection.query({ text: LOCK_SET_ASIDE, values: [stream] });
    const values: readonly unknown[] = [stream, lsn, BATCH_ROWS];
    const [batch] = await connection.query<Batch>({ text: COUNT_ASIDE, values });
    await connection.query({ text: COMMIT_TAKING });
    lsn = batch?.lsn ?? null;
    if (batch === undefined || lsn === null) break;
    counted += batch.increments;
    known += batch.known;
  }
  const requests = known === 0 ? '' : `, without those of ${known} requests whose idempotency keys are recorded`;
  say(`Counted ${counted} increments${requests}.`);
  return counted > 0;
}

/** Whether the broker has a record above. */
async function isFollowed(
  connection: DatabaseConnection,
  row: StreamRow | undefined,
  { stream, above }: Skip,
  say: (line: string) => void,
): Promise<boolean> {
  const { nats, natsStream, natsReplicas } = commandConfig();
  if (row === undefined || nats === undefined) throw usage('For a stream in NATS, skip needs JOURNAL.');
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
