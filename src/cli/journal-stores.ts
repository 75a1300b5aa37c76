/**
 * The brokers and queues that belong to a database: lists them, retires the streams of one that is lost, and gives one to the
 * database. Main thread of the journal command.
 */
import { CounterError, JournalError, reasonOf, StartError } from '../core/errors.js';
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { FORGET_STORE, LIST_STORES, LIST_STORE_STREAMS, UNKNOWN_STREAMS } from '../db/identity-statements.js';
import { DATABASE_ID } from '../db/statements.js';
import { decideBroker } from '../shard-worker/journal/nats/nats-start.js';
import { decideQueue } from '../shard-worker/journal/sqs/sqs-start.js';
import type { PairedDatabase, StorePairing } from '../shard-worker/journal/store-pairing.js';
import { commandConfig } from './command-config.js';
import { EXIT_TEMPORARY } from './command-exit.js';

/** Prints a line. */
type Say = (line: string) => void;

interface StoreRow extends Record<string, unknown> {
  /** Null: streams of an earlier version that no server has found. */
  readonly id: string | null;
  readonly journal: string;
  readonly place: string | null;
  readonly streams: number;
}

interface StoreStream extends Record<string, unknown> {
  readonly stream: string;
  readonly node: string | null;
  readonly shard: number | null;
  readonly lsn: string;
  readonly heard_at: Date;
}

/** How `forget-store` names the streams of no store. */
export const NO_STORE = 'none';

/** Prints each store of the database with its open streams. */
export function listStores(target: DatabaseTarget, say: Say): Promise<void> {
  return withDatabase(target, async (connection) => {
    const [row] = await connection.query<{ database_id: string }>({ text: DATABASE_ID });
    say(`Database ${String(row?.database_id)}`);
    const stores = await connection.query<StoreRow>({ text: LIST_STORES });
    if (stores.length === 0) say('No broker and no queue belongs to it.');
    for (const store of stores) await listStore(connection, store, say);
  });
}

async function listStore(
  connection: DatabaseConnection,
  { id, journal, place, streams }: StoreRow,
  say: Say,
): Promise<void> {
  const what = id === null ? `${journal}, store not known (${NO_STORE})` : `${journal} ${id} at ${String(place)}`;
  say(`${what}: ${streamsText(streams)}`);
  for (const each of await connection.query<StoreStream>({ text: LIST_STORE_STREAMS, values: [id, journal] })) {
    const { stream, node, shard, lsn, heard_at: heardAt } = each;
    say(
      `  ${stream} of shard ${shard ?? '?'} of node ${node ?? '?'}, counted to LSN ${lsn}, last heard of at ${heardAt.toISOString()}`,
    );
  }
}

/**
 * Says what it would do or, with `isConfirmed`, retires the open streams of a store that is lost for good. True if it has. `store`: an
 * id, or {@link NO_STORE}.
 */
export function forgetStore(target: DatabaseTarget, store: string, isConfirmed: boolean, say: Say): Promise<boolean> {
  return withDatabase(target, async (connection) => {
    const stores = await connection.query<StoreRow>({ text: LIST_STORES });
    const found = stores.filter(({ id }) => (id ?? NO_STORE) === store);
    if (found.length === 0)
      throw new StartError([`The database has no store ${store}; see journal -- stores.`], { exitCode: 1 });
    for (const each of found) await listStore(connection, each, say);
    const id = store === NO_STORE ? null : store;
    if (!isConfirmed) {
      say(
        'With --yes these streams are retired at these LSNs. Records above them that the store still has are not counted.',
      );
      return false;
    }
    const retired = await connection.query({ text: FORGET_STORE, values: [id] });
    say(
      `${streamsText(retired.length)} retired. ${id === null ? '' : `Store ${store} no longer belongs to this database.`}`.trim(),
    );
    return true;
  });
}

/**
 * Says what it would do or, with `isConfirmed`, gives the broker or the queue of JOURNAL to the database. True if it has, or if
 * nothing is to be done.
 */
export function pairStore(target: DatabaseTarget, isConfirmed: boolean, say: Say): Promise<boolean> {
  return withDatabase(target, async (connection) => {
    const [row] = await connection.query<{ database_id: string }>({ text: DATABASE_ID });
    const id = row?.database_id ?? '';
    const database: PairedDatabase = {
      id,
      unknownStreams: async (streams) => {
        const unknown = await connection.query<{ stream: string }>({ text: UNKNOWN_STREAMS, values: [streams] });
        return unknown.map(({ stream }) => stream);
      },
    };
    return decide(database, (pairing) => pairWith(id, pairing, isConfirmed, say));
  });
}

async function decide(database: PairedDatabase, with_: (pairing: StorePairing) => Promise<boolean>): Promise<boolean> {
  const { nats, natsStream, natsReplicas, sqs } = commandConfig();
  try {
    if (nats !== undefined)
      return await decideBroker({ ...nats, stream: natsStream, replicas: natsReplicas }, database, with_);
    if (sqs !== undefined) return await decideQueue(sqs, with_);
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    throw new StartError([error.message], { exitCode: EXIT_TEMPORARY, cause: error });
  }
  throw new StartError(['pair-store needs JOURNAL with a broker or a queue.'], { exitCode: 64 });
}

async function pairWith(
  id: string,
  { before, unknownStreams, pair }: StorePairing,
  isConfirmed: boolean,
  say: Say,
): Promise<boolean> {
  if (before === undefined) say('The store belongs to no database yet.');
  else say(`The store ${before.id} belongs to the database ${before.databaseId}.`);
  if (before?.databaseId === id && before.isAdopted) {
    say('It belongs to this database, with the streams that name none; nothing to do.');
    return true;
  }
  if (unknownStreams.length > 0)
    say(
      `It has records of ${streamsText(unknownStreams.length)} that this database does not know: ${unknownStreams.join(', ')}`,
    );
  if (!isConfirmed) {
    say(
      `With --yes it belongs to the database ${id}, which then also counts streams whose messages name no database. Streams whose ` +
        'messages name another database stay uncounted. Stop all servers that use the store first.',
    );
    return false;
  }
  const after = await pair(id);
  say(`The store ${after.id} belongs to the database ${after.databaseId} now. Start the servers.`);
  return true;
}

async function withDatabase<T>(
  target: DatabaseTarget,
  work: (connection: DatabaseConnection) => Promise<T>,
): Promise<T> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      return await work(connection);
    } finally {
      await connection.close();
    }
  } catch (cause) {
    if (cause instanceof StartError || cause instanceof CounterError) throw cause;
    const problem = `The query to ${describeTarget(target)} failed: ${reasonOf(cause)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

function streamsText(streams: number): string {
  return streams === 1 ? '1 open stream' : `${streams} open streams`;
}
