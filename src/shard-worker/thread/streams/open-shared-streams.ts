/**
 * Opens the streams of a shard whose journal other servers can reach. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { uptime } from 'node:os';
import { systemClock } from '../../../core/clock.js';
import { NatsBroker } from '../../journal/nats/nats-broker.js';
import { NatsJournal, type NatsJournalDeps } from '../../journal/nats/nats-journal.js';
import { PostgresJournal } from '../../journal/postgres/postgres-journal.js';
import { SqsJournal } from '../../journal/sqs/sqs-journal.js';
import { SqsQueue } from '../../journal/sqs/sqs-queue.js';
import type { QueueLog, SharedLog } from '../../journal/stream-log.js';
import type { ShardTask } from '../../protocol/control-messages.js';
import type { ShardContext } from '../shard-context.js';
import { connectionOf, type ThreadConnections } from '../thread-connections.js';
import { SharedStreams } from './shared-streams.js';

/** Opens them as the settings of the task say. */
export function openSharedStreams(
  task: ShardTask,
  context: ShardContext,
  connections: ThreadConnections,
): SharedStreams {
  const { settings, shard, shards, nodeId: node } = task;
  const { log } = context.deps;
  const { looks, ...flushes } = connections;
  const owner = { node, shard, flusher: settings.role === 'ingest' ? undefined : randomUUID() };
  const statements = connectionOf(task, 'journal', looks);
  const incrementLog = sharedLogOf(task, { ...flushes, statements, owner, log });
  return new SharedStreams(context, { role: settings.role, incrementLog, node, shard, shards });
}

function sharedLogOf(
  { settings, shard, nats, sqs }: ShardTask,
  deps: Pick<NatsJournalDeps, 'statements' | 'flushes' | 'flushTurns' | 'owner' | 'log'>,
): SharedLog | QueueLog {
  if (nats !== undefined)
    return new NatsJournal({
      ...deps,
      appends: new NatsBroker(nats, `summing-counters shard ${shard}`),
      reads: new NatsBroker(nats, `summing-counters reads of shard ${shard}`),
      clock: systemClock,
      groupBytesMax: nats.groupBytesMax,
      keepSeconds: settings.journalKeepSeconds,
      windowHours: settings.idempotencyWindowHours,
    });
  if (sqs !== undefined)
    return new SqsJournal({
      ...deps,
      appends: new SqsQueue(sqs),
      receives: new SqsQueue(sqs),
      clock: systemClock,
      uptime,
      groupBytesMax: sqs.groupBytesMax,
    });
  return new PostgresJournal(deps);
}
