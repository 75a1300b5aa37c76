/**
 * One shard in its thread: builds it and serves its ports for as long as the thread lives.
 *
 * A failure that the shard cannot survive is thrown where nothing catches it, so that the thread ends. Its connection,
 * files and timers end with it. The supervisor then starts another thread, which recovers the shard.
 */
import { randomUUID } from 'node:crypto';
import { uptime } from 'node:os';
import path from 'node:path';
import type { MessagePort } from 'node:worker_threads';
import { systemClock } from '../../core/clock.js';
import { parseDatabaseUrl } from '../../db/connection.js';
import { ShardConnection } from '../../db/shard-connection.js';
import { CounterError, JournalError } from '../../core/errors.js';
import { Turns } from '../../core/turns.js';
import { createLogger, type LogFields } from '../../core/logger.js';
import { httpServerPort } from '../protocol/batch-ports.js';
import { GroupCommit } from './group-commit.js';
import type { JournalStreams } from '../journal/journal.js';
import type { QueueLog, SharedLog } from '../journal/stream-log.js';
import { systemDisk } from '../journal/file/disk.js';
import { FileJournalStreams } from '../journal/file/file-journal-streams.js';
import { timedDisk } from '../journal/file/timed-disk.js';
import { MemoryJournalStreams } from '../journal/memory-journal.js';
import { NatsBroker } from '../journal/nats/nats-broker.js';
import { NatsJournal, type NatsJournalDeps } from '../journal/nats/nats-journal.js';
import { SqsJournal } from '../journal/sqs/sqs-journal.js';
import { SqsQueue } from '../journal/sqs/sqs-queue.js';
import { PostgresJournal } from '../journal/postgres/postgres-journal.js';
import { shardHistogram, statsRow } from '../protocol/stats.js';
import { unpackKeys, type ControlMessage, type ControlRequest, type ShardTask } from '../protocol/control-messages.js';
import { earlyFlush } from './flush/early-flush.js';
import { PostgresShardDatabase } from './flush/shard-database.js';
import { Shard } from './shard.js';
import { ShardContext } from './shard-context.js';
import { DirectoryStreams } from './streams/directory-streams.js';
import type { ShardLog } from './streams/owned-stream.js';
import { SharedStreams } from './streams/shared-streams.js';
import type { ShardStreams } from './streams/shard-streams.js';

/** Runs a shard until it is drained. */
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
    this.#shard = this.#makeShard(task, (level, fields, message) => {
      logger[level](fields, message);
    });
    this.#groups = new GroupCommit(task.batchPorts.map(httpServerPort), this.#shard);
  }

  #makeShard(task: ShardTask, log: ShardLog): Shard {
    const { settings, shard, shards, nodeId: node, stats } = task;
    const { flushIntervalMs, ackTimeoutMs, journal } = settings;
    const looks = new Turns();
    const flushTurns = new Turns();
    const connection = connectionOf(task, 'shard', looks);
    const context = new ShardContext({
      database: new PostgresShardDatabase(connection, { node, shard, journal }, flushTurns),
      clock: systemClock,
      stats: statsRow(stats, shard),
      random: Math.random,
      ...{ flushIntervalMs, ackTimeoutMs },
      earlyFlush: earlyFlush(settings, shards),
      tell: (message: ControlMessage) => {
        this.#tell(message);
      },
      fail: (error: unknown) => {
        this.#die(error);
      },
      log,
    });
    return new Shard(context, streamsOf(task, context, { connection, looks, flushTurns }));
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

/** What the streams of a shard share with its flushes. */
interface ThreadConnections {
  readonly connection: ShardConnection;
  readonly looks: Turns;
  readonly flushTurns: Turns;
}

function streamsOf(task: ShardTask, context: ShardContext, connections: ThreadConnections): ShardStreams {
  const { settings, shard, shards, nodeId: node, databaseProblem, handedOver } = task;
  const { log } = context.deps;
  if (settings.journal === 'memory' || settings.journal === 'file') {
    const journals = journalsOf(task, (fields, message) => {
      log('warn', fields, message);
    });
    return new DirectoryStreams(context, { journals, databaseProblem, handedOver });
  }
  const { connection: flushes, looks, flushTurns } = connections;
  const flusher = settings.role === 'ingest' ? undefined : randomUUID();
  const owner = { node, shard, flusher };
  const statements = connectionOf(task, 'journal', looks);
  const incrementLog = sharedLogOf(task, { statements, flushes, flushTurns, owner, log });
  return new SharedStreams(context, { role: settings.role, incrementLog, node, shard, shards });
}

function connectionOf({ databaseUrl, shard }: ShardTask, what: string, looks: Turns): ShardConnection {
  const applicationName = `summing-counters ${what} ${shard}`;
  return new ShardConnection(parseDatabaseUrl(databaseUrl), { applicationName, connectTimeoutMs: 2000, looks });
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
