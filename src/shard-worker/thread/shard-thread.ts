/**
 * The root of a shard thread: a Piscina task that builds the shard and serves its ports for as long as the thread lives.
 *
 * A failure that the shard cannot survive is thrown where nothing catches it, so that the thread ends. Its connection,
 * files and timers end with it. The supervisor then starts another thread, which recovers the shard.
 */
import path from 'node:path';
import type { MessagePort } from 'node:worker_threads';
import { systemClock } from '../../core/clock.js';
import { parseDatabaseUrl } from '../../db/connection.js';
import { ShardConnection } from '../../db/shard-connection.js';
import { CounterError, JournalError } from '../../core/errors.js';
import { createLogger, type LogFields } from '../../core/logger.js';
import { httpServerPort } from '../protocol/batch-ports.js';
import { GroupCommit } from './group-commit.js';
import type { JournalStreams } from '../journal/journal.js';
import { systemDisk } from '../journal/file/disk.js';
import { FileJournalStreams } from '../journal/file/file-journal-streams.js';
import { timedDisk } from '../journal/file/timed-disk.js';
import { MemoryJournalStreams } from '../journal/memory-journal.js';
import { shardHistogram, statsRow } from '../protocol/stats.js';
import { unpackKeys, type ControlMessage, type ControlRequest, type ShardTask } from '../protocol/control-messages.js';
import { earlyFlush } from './flush/early-flush.js';
import { PostgresShardDatabase } from './flush/shard-database.js';
import { Shard } from './shard.js';

/** Runs a shard until it is drained. The task of Piscina. */
export function runShard(task: ShardTask): Promise<void> {
  return new Promise((resolve) => {
    new ShardThread(task, resolve).start();
  });
}

class ShardThread {
  readonly #control: MessagePort;
  readonly #shard: Shard;
  readonly #groups: GroupCommit;
  readonly #done: () => void;

  constructor(task: ShardTask, done: () => void) {
    const logger = createLogger(task.settings.logLevel, { shard: task.shard });
    this.#control = task.control;
    this.#done = done;
    const connection = new ShardConnection(parseDatabaseUrl(task.databaseUrl), {
      applicationName: `summing-counters shard ${task.shard}`,
      connectTimeoutMs: 2000,
    });
    const owner = { node: task.nodeId, shard: task.shard, journal: task.settings.journal };
    this.#shard = new Shard({
      journals: journalsOf(task, (fields, message) => {
        logger.warn(fields, message);
      }),
      database: new PostgresShardDatabase(connection, owner),
      databaseProblem: task.databaseProblem,
      clock: systemClock,
      stats: statsRow(task.stats, task.shard),
      handedOver: task.handedOver,
      random: Math.random,
      flushIntervalMs: task.settings.flushIntervalMs,
      earlyFlush: earlyFlush(task.settings, task.shards),
      ackTimeoutMs: task.settings.ackTimeoutMs,
      tell: (message) => {
        this.#tell(message);
      },
      fail: (error) => {
        this.#die(error);
      },
      log: (level, fields, message) => {
        logger[level](fields, message);
      },
    });
    this.#groups = new GroupCommit(task.batchPorts.map(httpServerPort), this.#shard);
  }

  start(): void {
    this.#control.on('message', (request: ControlRequest) => {
      this.#answer(request).catch((error: unknown) => {
        this.#refuse(request.id, error);
      });
    });
    this.#shard.start().then(
      () => {
        this.#groups.start();
      },
      (error: unknown) => {
        this.#die(error);
      },
    );
  }

  async #answer(request: ControlRequest): Promise<void> {
    const { id } = request;
    switch (request.kind) {
      case 'pending':
        this.#tell({ id, kind: 'pending', pending: this.#shard.pendingOf(unpackKeys(request.keys), request.seen) });
        return;
      case 'hotKeys':
        this.#tell({ id, kind: 'hotKeys', keys: this.#shard.hotKeys(request.most) });
        return;
      case 'flush':
        this.#tell({ id, kind: 'flushed', keys: await this.#shard.flush() });
        return;
      case 'drain':
        await this.#shard.endStart();
        await this.#groups.close();
        this.#tell({ id, kind: 'drained', left: await this.#shard.drain() });
        this.#control.close();
        this.#done();
    }
  }

  #refuse(id: number, error: unknown): void {
    if (error instanceof CounterError) this.#tell({ id, kind: 'failed', code: error.code, detail: error.detail });
    else this.#die(error);
  }

  #tell(message: ControlMessage): void {
    this.#control.postMessage(message);
  }

  #die(error: unknown): void {
    // An Error loses its class on the way to the main thread, so code and detail are sent ahead of it.
    if (error instanceof JournalError) this.#tell({ kind: 'journal', code: error.code, detail: error.message });
    setImmediate(() => {
      throw error;
    });
  }
}

function journalsOf(task: ShardTask, warn: (fields: LogFields, message: string) => void): JournalStreams {
  const { settings } = task;
  const syncSeconds = shardHistogram(statsRow(task.stats, task.shard), 'journalSyncSeconds');
  switch (settings.journal) {
    case 'memory':
      return new MemoryJournalStreams();
    case 'file':
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
}
