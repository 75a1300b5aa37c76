/** Shards whose journal is a real log in PostgreSQL, without the server around them. */
import { randomUUID } from 'node:crypto';
import { systemClock } from '#product/core/clock.js';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { migrate } from '#product/db/schema/migrate.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresJournal } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import type { ControlMessage } from '#product/shard-worker/protocol/control-messages.js';
import { makeStats, statsRow } from '#product/shard-worker/protocol/stats.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { Shard } from '#product/shard-worker/thread/shard.js';
import { ShardContext } from '#product/shard-worker/thread/shard-context.js';
import type { SharedStreamsDeps } from '#product/shard-worker/thread/streams/shared-streams.js';
import { connectTo, createTestDatabase, type TestDatabase } from './database.js';
import { followingStreams } from './following-streams.js';

/** What a shard has logged. */
export interface ShardLine {
  readonly level: string;
  readonly stream: string;
  readonly message: string;
}

/** Makes an empty database with our tables. */
export async function createLogDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  const connection = await connectTo(database.url);
  await migrate(connection);
  await connection.close();
  return database;
}

/** The log as one thread uses it. Without a flusher it only writes. */
export interface ThreadOnLog {
  readonly incrementLog: PostgresJournal;
  readonly database: PostgresShardDatabase;
}

/** Opens the log for one thread, with an id of its own as one that flushes, or without. */
export function openLog(url: string, flushes: boolean): ThreadOnLog {
  const open = (): ShardConnection => new ShardConnection(parseDatabaseUrl(url), { applicationName: 'test' });
  const [connection, turns, node] = [open(), new Turns(), randomUUID()];
  const owner = { node, shard: 0, flusher: flushes ? randomUUID() : undefined };
  return {
    incrementLog: new PostgresJournal({ statements: open(), flushes: connection, flushTurns: turns, owner }),
    database: new PostgresShardDatabase(connection, { node, shard: 0, journal: 'postgres' }, turns),
  };
}

/** Makes a shard. `lines` and `messages` get what it logs and tells its server. */
export function makeSharedShard(
  role: SharedStreamsDeps['role'],
  { incrementLog, database }: ThreadOnLog,
  intervals: NonNullable<SharedStreamsDeps['intervals']>,
  lines: ShardLine[],
  messages: ControlMessage[] = [],
): Shard {
  const context = new ShardContext({
    database,
    clock: systemClock,
    stats: statsRow(makeStats(1), 0),
    random: () => 0.5,
    flushIntervalMs: 20,
    earlyFlush: { keysMax: 1000, bytesMax: 2 ** 20, recordBytesMax: 2 ** 20 },
    ackTimeoutMs: 5000,
    tell: (message) => {
      messages.push(message);
    },
    fail: (error) => {
      throw error;
    },
    log: (level, fields, message) => {
      const { stream = '' } = fields as { readonly stream?: string };
      lines.push({ level, stream, message });
    },
  });
  const owner = { node: randomUUID(), shard: 0, shards: 1 };
  return new Shard(context, followingStreams(context, { ...owner, role, incrementLog, intervals }));
}
