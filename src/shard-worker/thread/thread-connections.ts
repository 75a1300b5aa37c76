/**
 * The connections of one shard thread to the database. Shard thread.
 */
import type { Turns } from '../../core/turns.js';
import { parseDatabaseUrl } from '../../db/connection.js';
import { ShardConnection } from '../../db/shard-connection.js';
import type { ShardTask } from '../protocol/control-messages.js';

/** Shared by the streams of a shard and its flushes. */
export interface ThreadConnections {
  /** The connection of the flushes, and the turns in which it is used. */
  readonly flushes: ShardConnection;
  readonly flushTurns: Turns;
  readonly looks: Turns;
}

/** A connection of a thread. `what` names it in PostgreSQL. */
export function connectionOf(
  { databaseUrl, shard, nats, sqs }: ShardTask,
  what: string,
  looks: Turns,
): ShardConnection {
  const applicationName = `summing-counters ${what} ${shard}`;
  const databaseId = (nats ?? sqs)?.store.databaseId;
  const options = { applicationName, connectTimeoutMs: 2000, looks, ...(databaseId !== undefined && { databaseId }) };
  return new ShardConnection(parseDatabaseUrl(databaseUrl), options);
}
