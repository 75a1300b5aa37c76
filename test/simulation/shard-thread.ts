/**
 * A shard thread in a simulated process: the product's Shard, GroupCommit, file journal, flusher and database side,
 * composed as in `src/shard-worker/thread/shard-thread.ts`, with ports, disk, clock and connection of the simulation.
 */
import { parseDatabaseUrl, type ConnectOptions } from '#product/db/connection.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { CounterError, JournalError } from '#product/core/errors.js';
import type { HttpServerPort } from '#product/shard-worker/protocol/batch-ports.js';
import { GroupCommit } from '#product/shard-worker/thread/group-commit.js';
import { FileJournalStreams } from '#product/shard-worker/journal/file/file-journal-streams.js';
import { type BatchAnswer, type BatchMessage, IDEMPOTENT_OUTCOME } from '#product/shard-worker/protocol/batches.js';
import {
  unpackKeys,
  type ControlMessage,
  type ControlRequest,
  type HandedOverStream,
  type PendingRange,
} from '#product/shard-worker/protocol/control-messages.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import type { Broker } from '#product/shard-worker/journal/nats/broker.js';
import { NatsJournal, type NatsJournalDeps } from '#product/shard-worker/journal/nats/nats-journal.js';
import type { SharedLog, StreamWriter } from '#product/shard-worker/journal/stream-log.js';
import type { Queue } from '#product/shard-worker/journal/sqs/queue.js';
import { SqsJournal, type SqsJournalDeps } from '#product/shard-worker/journal/sqs/sqs-journal.js';
import { PostgresJournal } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import { Shard } from '#product/shard-worker/thread/shard.js';
import { ShardContext, type ShardDeps } from '#product/shard-worker/thread/shard-context.js';
import { DirectoryStreams } from '#product/shard-worker/thread/streams/directory-streams.js';
import { ReceivedStreams } from '#product/shard-worker/thread/streams/received-streams.js';
import { SharedStreams } from '#product/shard-worker/thread/streams/shared-streams.js';
import type { ShardLog } from '#product/shard-worker/thread/streams/owned-stream.js';
import { Turns } from '#product/core/turns.js';
import { connectToBroker } from './broker-connection.js';
import type { Channel } from './channel.js';
import { followingStreams } from '../support/following-streams.js';
import { mutateIncrementLog } from './mutated-log.js';
import { mutateAppends, mutateNatsDatabase, mutateNatsLog, mutateReads, purgeTo } from './mutated-nats.js';
import { mutate, mutateDisk } from './mutated-parts.js';
import { MutatedSqsLog, mutateSqsDatabase, mutateSqsDeps } from './mutated-sqs.js';
import { connectToQueue } from './queue-connection.js';
import type { Clock, Timer } from '#product/core/clock.js';
import { clockOf, Life } from './scheduler.js';
import type { NatsJournalSettings, SharedSettings, SimulatedNode, SqsJournalSettings } from './simulated-node.js';
import type { DiskCall } from './storage.js';
import { SimulatedCrash } from './scheduler.js';
import type { World } from './world.js';
import type { SimulatedSession } from './database/session.js';

const target = parseDatabaseUrl('postgresql://simulation@localhost/simulation');

/** Messages to the main thread. */
export interface ThreadEvents {
  control(message: ControlMessage): void;
  ended(error: unknown): void;
}

/** One thread, from its start to its end. */
export class ShardThread {
  readonly life: Life;
  readonly #world: World;
  readonly #node: SimulatedNode;
  readonly #index: number;
  readonly #events: ThreadEvents;
  readonly #shard: Shard;
  readonly #groups: GroupCommit;
  readonly #posted: ArrayBufferLike[] = [];
  #sessions: SimulatedSession[] = [];
  #own: string | undefined;
  /** The stream of a shared journal that it writes. */
  written: string | undefined;
  /** Streams that it has written and left, and up to where. */
  readonly #left = new Map<string, number>();
  /** By stream, for a bug. */
  readonly #writers = new Map<string, StreamWriter>();
  #lastDelivery = 0;
  #dying = false;

  constructor(
    world: World,
    node: SimulatedNode,
    index: number,
    batches: Channel<BatchMessage>,
    answers: Channel<BatchAnswer>,
    events: ThreadEvents,
    databaseId: string | undefined,
    stats: Float64Array,
    handedOver: readonly HandedOverStream[],
  ) {
    this.#world = world;
    this.#node = node;
    this.#index = index;
    this.#events = events;
    this.life = new Life((error) => this.#die(error), node.life);
    const clock = suspendableClock(
      clockOf(world.scheduler, this.life, () => this.#step()),
      node,
    );
    const { shared } = node.settings;
    this.#shard =
      shared === undefined
        ? this.#makeShard(clock, databaseId, stats, handedOver)
        : this.#makeSharedShard(clock, stats, shared);
    this.#groups = new GroupCommit([this.#port(batches, answers)], this.#shard);
  }

  #makeShard(
    clock: Clock,
    databaseId: string | undefined,
    stats: Float64Array,
    handedOver: readonly HandedOverStream[],
  ): Shard {
    const world = this.#world;
    const node = this.#node;
    const index = this.#index;
    const { settings, shards } = node;
    const streams = new FileJournalStreams({
      disk: mutateDisk(
        node.storage.diskOf((call, path) => this.#beforeDiskCall(call, path)),
        world.mutations,
      ),
      directory: '/data/journal',
      clock,
      syncPolicy: world.mutations.acknowledgeBeforeSync === true ? 'everysec' : settings.syncPolicy,
      bytesMax: settings.journalBytesMax,
      keepSeconds: settings.keepSeconds,
      nodeId: node.id,
      shard: index,
      shards,
      databaseId,
      segmentBytes: settings.segmentBytes,
      newStreamId: () => world.uuid(),
      warn: (fields, message) => {
        world.note(() => `${this.name}: ${message} ${JSON.stringify(fields)}`);
        const facts: Readonly<Record<string, unknown>> = { ...fields };
        world.strand(String(facts['stream']), message.includes('keeping the records in memory'));
      },
    });
    const database = new PostgresShardDatabase(this.#connect(clock), { node: node.id, shard: index, journal: 'file' });
    const deps = mutate(streams, database, world.mutations, node.startId);
    const context = this.#makeContext(clock, stats, deps.database);
    const streamDeps = {
      journals: deps.streams,
      handedOver: world.mutations.forgetHandedOver === true ? [] : handedOver,
      touchIntervals: { touchMs: settings.touchMs, timeMs: settings.touchTimeMs },
    };
    return new Shard(context, new DirectoryStreams(context, streamDeps));
  }

  #makeContext(clock: Clock, stats: Float64Array, database: ShardDeps['database']): ShardContext {
    const { settings } = this.#node;
    return new ShardContext({
      ...{ database, clock, stats },
      random: () => this.#world.random.next() / 0x1_0000_0000,
      flushIntervalMs: settings.flushIntervalMs,
      earlyFlush: {
        keysMax: settings.flushKeysMax,
        bytesMax: Number.POSITIVE_INFINITY,
        recordBytesMax: Number.POSITIVE_INFINITY,
      },
      ackTimeoutMs: settings.ackTimeoutMs,
      tell: (message) => this.#tell(message),
      fail: (error) => this.#die(error),
      log: this.#log,
    });
  }

  #makeSharedShard(clock: Clock, stats: Float64Array, { role, intervals, waits, nats, sqs }: SharedSettings): Shard {
    const world = this.#world;
    const { id: node, shards } = this.#node;
    const shard = this.#index;
    const flushes = this.#connect(clock);
    const flushTurns = new Turns();
    const flusher = role === 'ingest' ? undefined : world.uuid();
    const owner = { node, shard, flusher };
    const statements = this.#connect(clock);
    const logDeps = { statements, flushes, flushTurns, owner, clock };
    const sqsLog = sqs === undefined ? undefined : this.#makeSqsLog(logDeps, sqs);
    const journal = sqs !== undefined ? 'sqs' : nats === undefined ? 'postgres' : 'nats';
    const database = new PostgresShardDatabase(flushes, { node, shard, journal }, flushTurns);
    const context = this.#makeContext(
      clock,
      stats,
      sqsLog === undefined
        ? mutateNatsDatabase(database, world.mutations, this.#purge, this.#writers)
        : mutateSqsDatabase(database, world.mutations, sqsLog.remove),
    );
    const common = { role, node, shard, shards, intervals, newStreamId: () => world.uuid() };
    const positionLog = (): SharedLog =>
      nats === undefined
        ? mutateIncrementLog(new PostgresJournal(logDeps), world.mutations, world.database)
        : this.#makeNatsLog(logDeps, nats);
    const streams =
      sqsLog === undefined
        ? followingStreams(context, { ...common, incrementLog: positionLog() }, waits)
        : new SharedStreams(context, {
            ...common,
            incrementLog: sqsLog.log,
            makeFlushed: (deps) => new ReceivedStreams(sqsLog.log, deps, sqs?.waits),
          });
    const made = new Shard(context, streams);
    if (world.mutations.staleBatches === true) made.isStale = () => false;
    return made;
  }

  #makeNatsLog(
    deps: Pick<NatsJournalDeps, 'statements' | 'flushes' | 'flushTurns' | 'owner' | 'clock'>,
    { groupBytesMax, windowHours, intervals }: NatsJournalSettings,
  ): SharedLog {
    const { broker, mutations, database } = this.#world;
    if (broker === undefined) throw new TypeError('The world has no broker');
    const client = { life: this.life, step: () => this.#step(), isCut: () => this.#node.isCutFromJournal };
    const connect = (): Broker => connectToBroker(broker, client);
    const log = new NatsJournal({
      ...deps,
      appends: mutateAppends(connect(), mutations),
      reads: mutateReads(connect(), mutations, database),
      ...{ groupBytesMax, windowHours, intervals },
      keepSeconds: this.#node.settings.keepSeconds,
      log: this.#log,
    });
    return mutateNatsLog(
      log,
      mutations,
      { clock: deps.clock, keepSeconds: this.#node.settings.keepSeconds },
      this.#purge,
      this.#writers,
    );
  }

  #makeSqsLog(
    deps: Pick<SqsJournalDeps, 'statements' | 'flushes' | 'flushTurns' | 'owner' | 'clock'>,
    { groupBytesMax, client, times }: SqsJournalSettings,
  ): MutatedSqsLog {
    const world = this.#world;
    const { queue } = world;
    if (queue === undefined) throw new TypeError('The world has no queue');
    const thread = {
      life: this.life,
      step: () => this.#step(),
      isCut: () => this.#node.isCutFromJournal,
      sent: (stream: string, data: Uint8Array) => world.queued.sent(stream, data),
    };
    const connect = (): Queue => connectToQueue(queue, thread, client);
    const logDeps = mutateSqsDeps(
      {
        ...deps,
        appends: connect(),
        receives: connect(),
        ...{ times, groupBytesMax },
        log: this.#log,
      },
      world.mutations,
    );
    return new MutatedSqsLog(new SqsJournal(logDeps), world.mutations, logDeps, world.database);
  }

  /** For a bug. */
  readonly #purge = (stream: string, lsn: number): void => {
    const { broker } = this.#world;
    if (broker !== undefined) purgeTo(broker, this.life, stream, lsn);
  };

  #connect(clock: Clock): ShardConnection {
    const connect = async (_: unknown, { queryTimeoutMs }: ConnectOptions): Promise<SimulatedSession> => {
      if (!this.#step()) return new Promise(() => undefined);
      const session = await this.#world.database.connect(this.life, queryTimeoutMs);
      if (this.#node.isCutFromDatabase) {
        session.lose();
        throw Object.assign(new Error('connect'), { code: 'ECONNREFUSED' });
      }
      this.#sessions = [...this.#sessions.filter(({ lost }) => !lost), session];
      return session;
    };
    return new ShardConnection(target, { applicationName: 'simulation', clock, connect });
  }

  readonly #log: ShardLog = (level, fields, message) => {
    this.#step();
    const facts: Readonly<Record<string, unknown>> = { ...fields };
    if (message.startsWith('Began a stream')) this.written = String(facts['stream']);
    if (message.includes('lacks records in SQS')) this.#world.lacks(String(facts['stream']));
    if (message.includes('another server has taken it')) this.#world.taken(String(facts['stream']));
    if (message.startsWith('No longer writing the stream')) this.written = undefined;
    if (facts['lost'] !== undefined && this.#world.broker !== undefined)
      this.#world.saidLost(String(facts['stream']), Number(facts['afterLsn']), Number(facts['lost']));
    else if (facts['throughLsn'] !== undefined && this.#world.broker !== undefined)
      this.#world.saidMayBeLost(String(facts['stream']));
    if (facts['lost'] !== undefined && this.#node.settings.shared === undefined) {
      this.#world.lost(String(facts['stream']), Number(facts['afterLsn']), Number(facts['lost']));
    }
    if (facts['endLsn'] !== undefined) this.#left.set(String(facts['stream']), Number(facts['endLsn']));
    this.#world.note(() => `${this.name}: ${level}: ${message} ${JSON.stringify(fields)}`);
  };

  /** It has failed and ends next: its stats may be incomplete. */
  get isDying(): boolean {
    return this.#dying;
  }

  get #isShared(): boolean {
    return this.#node.settings.shared !== undefined;
  }

  get name(): string {
    return `${this.#node.name} shard ${this.#index}`;
  }

  start(): void {
    this.#shard.start().then(
      () => {
        if (!this.life.isOver) this.#groups.start();
      },
      (error: unknown) => this.#die(error),
    );
  }

  /** A control request from the main thread. */
  ask(request: ControlRequest): void {
    this.#answer(request).catch((error: unknown) => {
      if (error instanceof CounterError) {
        this.#tell({ id: request.id, kind: 'failed', code: error.code, detail: error.detail });
      } else {
        this.#die(error);
      }
    });
  }

  /** The network between this thread and the database is down. */
  loseSessions(): void {
    for (const session of this.#sessions) session.lose();
  }

  /** The thread ends for a reason outside the shard. */
  kill(): void {
    this.#end(new JournalError('journal-failed', 'killed'));
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
        this.#tell({ id, kind: 'drained', left: await this.#drain() });
        this.#end(undefined);
    }
  }

  async #drain(): Promise<readonly PendingRange[]> {
    const world = this.#world;
    const lacking = [...this.#left].filter(([stream, lsn]) => world.lacksLost(stream, lsn));
    const left = await this.#shard.drain();
    // A connection may be silent until the rows are gone.
    const visible = lacking.filter(([stream, lsn]) => world.lacksLost(stream, lsn)).map(([stream]) => stream);
    if (world.isHealthy) world.checkSaidLost(visible, this.name);
    return left;
  }

  #port(batches: Channel<BatchMessage>, answers: Channel<BatchAnswer>): HttpServerPort {
    const take = (message: BatchMessage): BatchMessage => {
      this.#posted.push(message.memory);
      return message;
    };
    return {
      listen: (callback) => batches.listen((message) => callback(take(message))),
      receive: () => {
        const message = batches.receive();
        return message === undefined ? undefined : take(message);
      },
      post: (answer) => {
        if (!this.#step()) return;
        this.#watchAnswer(answer);
        answers.post(answer);
      },
      close: () => batches.close(),
    };
  }

  #watchAnswer(answer: BatchAnswer): void {
    const isRefused = typeof answer === 'object' && 'refused' in answer;
    const count = typeof answer === 'number' ? answer : isRefused ? answer.refused : 1;
    const isKept = typeof answer === 'number' || (!isRefused && answer.outcomes.includes(IDEMPOTENT_OUTCOME.journaled));
    for (const batch of this.#posted.splice(0, count)) {
      if (isKept && this.#own !== undefined && !this.#isShared)
        this.#world.acknowledged(this.#node.storage, this.#own, batch);
    }
  }

  #tell(message: ControlMessage): void {
    if (!this.#step()) return;
    if (message.kind === 'streams') {
      // Nothing of an earlier thread is in memory.
      if (this.#own === undefined && !this.#isShared)
        for (const stream of message.streams) this.#world.strand(stream, false);
      this.#own = message.streams[0];
    }
    this.#deliver(() => this.#events.control(message));
  }

  #die(error: unknown): void {
    if (this.life.isOver || this.#dying || error instanceof SimulatedCrash) return;
    this.#dying = true;
    this.#world.note(() => `${this.name} fails: ${String(error)}`);
    if (error instanceof JournalError)
      this.#tell({ kind: 'journal', code: error.code, detail: error.message, missingRows: [] });
    this.#world.scheduler.after(0, this.life, () => this.#end(error));
  }

  #end(error: unknown): void {
    if (this.life.isOver) return;
    this.#deliver(() => this.#events.ended(error));
    this.life.end();
  }

  /** To the main thread, in order. */
  #deliver(callback: () => void): void {
    const { scheduler, random } = this.#world;
    this.#lastDelivery = Math.max(this.#lastDelivery, scheduler.now + random.below(10) / 10);
    scheduler.after(this.#lastDelivery - scheduler.now, this.#node.life, callback);
  }

  /** False if the thread has ended, or ends here. */
  #step(): boolean {
    return this.#node.step(this.life);
  }

  #beforeDiskCall(call: DiskCall, path: string): void {
    if (this.life.isOver) throw new SimulatedCrash('gone');
    if (call !== 'close' && call !== 'read' && !this.#step()) {
      throw Object.assign(new SimulatedCrash('killed'), { lastCall: true });
    }
    this.#node.disturb(call, path);
  }
}

/** A clock whose monotonic time, and whose timers, stand still while its machine is suspended. */
function suspendableClock(clock: Clock, node: SimulatedNode): Clock {
  const monotonic = (): number => clock.monotonic() - node.suspendedMs;
  return {
    now: () => clock.now(),
    monotonic,
    uptime: () => clock.uptime(),
    schedule(delayMs, callback) {
      const dueAt = monotonic() + delayMs;
      const wait = (ms: number): Timer =>
        clock.schedule(ms, () => {
          const restMs = dueAt - monotonic();
          // Timers are due a little late; a suspension makes them early.
          if (restMs > 1) timer = wait(restMs);
          else callback();
        });
      let timer = wait(delayMs);
      return {
        cancel: () => {
          timer.cancel();
        },
      };
    },
  };
}
