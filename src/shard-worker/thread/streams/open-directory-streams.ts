/** Opens the streams of a shard whose journal is in memory or in the data directory. Shard thread. */
import path from 'node:path';
import { systemClock } from '../../../core/clock.js';
import type { LogFields } from '../../../core/logger.js';
import { systemDisk } from '../../journal/file/disk.js';
import { FileJournalStreams } from '../../journal/file/file-journal-streams.js';
import { timedDisk } from '../../journal/file/timed-disk.js';
import type { JournalStreams } from '../../journal/journal.js';
import { MemoryJournalStreams } from '../../journal/memory-journal.js';
import type { ShardTask } from '../../protocol/control-messages.js';
import { shardHistogram, statsRow } from '../../protocol/stats.js';
import type { ShardContext } from '../shard-context.js';
import { DirectoryStreams } from './directory-streams.js';

/** Opens them by the settings of the task. */
export function openDirectoryStreams(task: ShardTask, context: ShardContext): DirectoryStreams {
  const { databaseProblem, handedOver } = task;
  const journals = journalsOf(task, (fields, message) => {
    context.deps.log('warn', fields, message);
  });
  return new DirectoryStreams(context, { journals, databaseProblem, handedOver });
}

function journalsOf(task: ShardTask, warn: (fields: LogFields, message: string) => void): JournalStreams {
  const { settings } = task;
  const syncSeconds = shardHistogram(statsRow(task.stats, task.shard), 'journalSyncSeconds');
  if (settings.journal === 'memory') return new MemoryJournalStreams();
  return new FileJournalStreams({
    disk: timedDisk(systemDisk, (ms) => {
      syncSeconds.observe(ms / 1000);
    }),
    directory: path.join(settings.dataDir, 'journal'),
    clock: systemClock,
    syncPolicy: settings.journalSync,
    bytesMax: settings.journalBytesMax,
    keepSeconds: settings.journalKeepSeconds,
    nodeId: task.nodeId,
    shard: task.shard,
    shards: task.shards,
    databaseId: task.databaseId,
    warn,
  });
}
