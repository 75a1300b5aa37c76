/**
 * Builds one shard in its thread and serves its ports until the thread ends.
 *
 * A failure that the shard cannot survive is thrown where nothing catches it. It ends the thread with its connections, files
 * and timers. The supervisor then starts another thread, which recovers the shard.
 */
import type { MessagePort } from 'node:worker_threads';
import { systemClock } from '../../core/clock.js';
import { CounterError, JournalError } from '../../core/errors.js';
import { Turns } from '../../core/turns.js';
import { createLogger } from '../../core/logger.js';
import { MissingRowsError } from '../journal/missing-rows.js';
import { httpServerPort } from '../protocol/batch-ports.js';
import { GroupCommit } from './group-commit.js';
import { statsRow } from '../protocol/stats.js';
import { unpackKeys, type ControlMessage, type ControlRequest, type ShardTask } from '../protocol/control-messages.js';
import { earlyFlush } from './flush/early-flush.js';
import { PostgresShardDatabase } from './flush/shard-database.js';
import { Shard } from './shard.js';
import { ShardContext } from './shard-context.js';
import type { ShardLog } from './streams/owned-stream.js';
import type { ShardStreams } from './streams/shard-streams.js';
import { connectionOf, type ThreadConnections } from './thread-connections.js';

type OpenStreams = (task: ShardTask, context: ShardContext, connections: ThreadConnections) => ShardStreams;

/** Runs a shard until it is drained. */
export async function runShard(task: ShardTask): Promise<void> {
  const openStreams = await streamsOf(task);
  await new Promise<void>((resolve) => {
    new ShardThread(task, openStreams, resolve).start();
  });
}

/** Loads only what the journal needs. Each file being loaded takes a file descriptor, in each thread. */
async function streamsOf({ settings }: ShardTask): Promise<OpenStreams> {
  return settings.journal === 'memory' || settings.journal === 'file'
    ? (await import('./streams/open-directory-streams.js')).openDirectoryStreams
    : (await import('./streams/open-shared-streams.js')).openSharedStreams;
}

class ShardThread {
  readonly #control: MessagePort;
  readonly #shard: Shard;
  readonly #groups: GroupCommit;
  readonly #done: () => void;

  constructor(task: ShardTask, openStreams: OpenStreams, done: () => void) {
    const logger = createLogger(task.settings.logLevel, { shard: task.shard });
    this.#control = task.control;
    this.#done = done;
    this.#shard = this.#makeShard(task, openStreams, (level, fields, message) => {
      logger[level](fields, message);
    });
    this.#groups = new GroupCommit(task.batchPorts.map(httpServerPort), this.#shard);
  }

  #makeShard(task: ShardTask, openStreams: OpenStreams, log: ShardLog): Shard {
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
    return new Shard(context, openStreams(task, context, { flushes: connection, looks, flushTurns }));
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
    // An Error loses its class on the way to the main thread, so code and detail are sent first.
    if (error instanceof JournalError) {
      const missingRows = error instanceof MissingRowsError ? error.rows : [];
      this.#tell({ kind: 'journal', code: error.code, detail: error.message, missingRows });
    }
    setImmediate(() => {
      throw error;
    });
  }
}
