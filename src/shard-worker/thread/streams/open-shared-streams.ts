/**
 * Opens the streams of a shard whose journal other servers can reach. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { systemClock } from '../../../core/clock.js';
import { NatsBroker } from '../../journal/nats/nats-broker.js';
import { NatsJournal, type NatsJournalDeps } from '../../journal/nats/nats-journal.js';
import { PostgresJournal } from '../../journal/postgres/postgres-journal.js';
import { SqsJournal } from '../../journal/sqs/sqs-journal.js';
import { SqsQueue } from '../../journal/sqs/sqs-queue.js';
import type { ShardTask } from '../../protocol/control-messages.js';
import type { ShardContext } from '../shard-context.js';
import { connectionOf, type ThreadConnections } from '../thread-connections.js';
import { ReceivedStreams } from './received-streams.js';
import { SharedStreams, type SharedStreamsDeps } from './shared-streams.js';
import { TakenStreams } from './taken-streams.js';

/** Opens them by the settings of the task. */
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
  const journal = sharedJournalOf(task, { ...flushes, statements, owner, log });
  return new SharedStreams(context, { ...journal, role: settings.role, node, shard, shards });
}

function sharedJournalOf(
  { settings, shard, nats, sqs }: ShardTask,
  deps: Pick<NatsJournalDeps, 'statements' | 'flushes' | 'flushTurns' | 'owner' | 'log'>,
): Pick<SharedStreamsDeps, 'incrementLog' | 'makeFlushed'> {
  const common = { ...deps, clock: systemClock };
  if (sqs !== undefined) {
    const { groupBytesMax } = sqs;
    const queues = { appends: new SqsQueue(sqs), receives: new SqsQueue(sqs) };
    const incrementLog = new SqsJournal({ ...common, ...queues, groupBytesMax });
    return { incrementLog, makeFlushed: (streamsDeps) => new ReceivedStreams(incrementLog, streamsDeps) };
  }
  const incrementLog =
    nats === undefined
      ? new PostgresJournal(deps)
      : new NatsJournal({
          ...common,
          appends: new NatsBroker(nats, `summing-counters shard ${shard}`),
          reads: new NatsBroker(nats, `summing-counters reads of shard ${shard}`),
          groupBytesMax: nats.groupBytesMax,
          keepSeconds: settings.journalKeepSeconds,
          windowHours: settings.idempotencyWindowHours,
        });
  return { incrementLog, makeFlushed: (streamsDeps) => new TakenStreams(incrementLog, streamsDeps) };
}
