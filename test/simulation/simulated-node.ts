/**
 * One process of the server: HTTP server, router, supervisor and shard threads, composed as in `server-process.ts` and
 * `shard-supervisor.ts`, in simulated time. Router, clients, reads and balances are the product's.
 */
import { randomUUID } from 'node:crypto';
import { ServerOperations } from '#product/server/server-operations.js';
import { readinessOf } from '#product/server/server-readiness.js';
import { boundSentences } from '#product/config/bound-sentences.js';
import { readConfig } from '#product/config/read-config.js';
import type { Refusal } from '#product/core/bounds.js';
import type { CommittedCounters } from '#product/db/counter-store.js';
import { CounterError, JournalError, type ErrorCode } from '#product/core/errors.js';
import type { Readiness } from '#product/core/counter-operations.js';
import type { Sum } from '#product/core/increment.js';
import {
  closeBalance,
  conservation,
  makeStats,
  STAT,
  statsRow,
  statTotal,
} from '#product/shard-worker/protocol/stats.js';
import type { BatchAnswer, BatchMessage } from '#product/shard-worker/protocol/batches.js';
import {
  packKeys,
  type ControlMessage,
  type ControlRequest,
  type PendingRange,
  type PendingAnswer,
  type SeenCheckpoints,
} from '#product/shard-worker/protocol/control-messages.js';
import { HandedOverStreams } from '#product/shard-worker/supervisor/handed-over-streams.js';
import { RestartBudget } from '#product/shard-worker/supervisor/shard-supervisor.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ShardRouter } from '#product/shard-worker/client/shard-router.js';
import type { NatsJournalIntervals } from '#product/shard-worker/journal/nats/nats-journal.js';
import type { SqsWriterTimes } from '#product/shard-worker/journal/sqs/sqs-transport.js';
import type { ReceivedStreamsWaits } from '#product/shard-worker/thread/streams/received-streams.js';
import type { Role, SharedStreamsIntervals } from '#product/shard-worker/thread/streams/shared-streams.js';
import type { TakenStreamsWaits } from '#product/shard-worker/thread/streams/taken-streams.js';
import { Channel } from './channel.js';
import { Violation, type Attempt } from './expectations.js';
import type { QueueClientTimes } from './queue-connection.js';
import { clockOf, Life } from './scheduler.js';
import { ShardThread } from './shard-thread.js';
import { systemError, type DiskCall, type Storage } from './storage.js';
import type { World } from './world.js';

/** How often a start looks for the broker. */
const BROKER_RETRY_MS = 100;

/** The configuration of a process. */
export interface NodeSettings {
  readonly syncPolicy: 'always' | 'everysec';
  readonly journalBytesMax: number;
  readonly segmentBytes: number;
  readonly keepSeconds: number;
  readonly flushIntervalMs: number;
  readonly flushKeysMax: number;
  readonly pendingKeysMax: number;
  readonly windowBytesMax: number;
  readonly ackTimeoutMs: number;
  /** Time between touches of an idle stream, and between those that send a time. */
  readonly touchMs: number;
  readonly touchTimeMs: number;
  /** The journal is that in PostgreSQL. */
  readonly shared?: SharedSettings;
}

/** The configuration of a process with a journal that others can reach. */
export interface SharedSettings {
  readonly role: Role;
  readonly intervals: SharedStreamsIntervals;
  readonly waits: TakenStreamsWaits;
  /** The journal is in a broker; undefined: in PostgreSQL. */
  readonly nats?: NatsJournalSettings;
  /** The journal is in a queue. */
  readonly sqs?: SqsJournalSettings;
}

/** The configuration of a journal in a queue. */
export interface SqsJournalSettings {
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  readonly client: QueueClientTimes;
  readonly times: SqsWriterTimes;
  readonly waits: ReceivedStreamsWaits;
}

/** The configuration of a journal in a broker. */
export interface NatsJournalSettings {
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  readonly windowHours: number;
  readonly intervals: NatsJournalIntervals;
}

/** How a process ended. `foreign`: another process owns its streams. */
export type NodeEnd = 'crashed' | 'drained' | 'failed' | 'foreign';

interface Supervised {
  state: 'starting' | 'serving' | 'restarting' | 'draining' | 'drained' | 'failed';
  recovered: boolean;
  streams: readonly string[];
  verdict: string | undefined;
  thread: ShardThread | undefined;
  lastAsked: number;
  readonly restarts: RestartBudget;
  readonly handedOver: HandedOverStreams;
  readonly waiting: Map<number, { resolve: (message: ControlMessage) => void; reject: (error: CounterError) => void }>;
}

type WithoutId<T> = T extends { readonly id: number } ? Omit<T, 'id'> : never;

/** The process. */
export class SimulatedNode {
  readonly life: Life;
  readonly #world: World;
  readonly storage: Storage;
  readonly settings: NodeSettings;
  readonly shards: number;
  readonly id: string;
  readonly name: string;
  /** An id of this process, for a bug. */
  readonly startId = randomUUID();
  readonly #stats: SharedArrayBuffer;
  readonly #rows: readonly Float64Array[];
  readonly #clients: readonly ShardClient[];
  readonly #router: ShardRouter;
  readonly #supervised: readonly Supervised[];
  readonly #operations: ServerOperations;
  readonly #attempts = new Set<Attempt>();
  #refusal: ErrorCode | undefined = 'starting';
  #databaseId: string | undefined;
  #nextId = 1;
  /** Steps until the process is killed; 0: never. */
  crashIn = 0;
  /** One of the next disk calls of these kinds fails. */
  diskFault:
    | {
        readonly calls: readonly DiskCall[];
        readonly code: string;
        /** All of them until this time. */
        readonly until?: number;
      }
    | undefined;
  /** Nothing passes between it and the broker or the queue of its journal. */
  isCutFromJournal = false;
  /** For how long it was suspended in such a way that its monotonic clock stood still, in ms. */
  suspendedMs = 0;
  #isCutFromDatabase = false;
  end: NodeEnd | undefined;
  /** Whether it ever took increments. */
  hasServed = false;
  /** Why it failed, for the last check. */
  reason: unknown;
  /** The content of the journals after the drain. */
  left: readonly PendingRange[] = [];

  constructor(world: World, storage: Storage, settings: NodeSettings, shards: number, id: string, name: string) {
    this.#world = world;
    this.storage = storage;
    this.settings = settings;
    this.shards = shards;
    this.id = id;
    this.name = name;
    this.life = new Life((error) => this.#fail(error));
    const clock = clockOf(world.scheduler, this.life);
    this.#stats = makeStats(shards);
    this.#rows = Array.from({ length: shards }, (_, shard) => statsRow(this.#stats, shard));
    this.#clients = this.#rows.map(
      (row) => new ShardClient(clock, undefined, undefined, () => row[STAT.generation] ?? 0),
    );
    const limits = {
      pendingKeysMax: settings.pendingKeysMax,
      pendingBytesMax: 1 << 30,
      journalBytesMax: settings.journalBytesMax,
      windowBytesMax: settings.windowBytesMax,
      ackTimeoutMs: settings.ackTimeoutMs,
      idempotencyRoom: () => 1000,
    };
    this.#router = new ShardRouter(this.#clients, this.#stats, limits, (callback) => {
      world.scheduler.after(0, this.life, callback);
    });
    this.#supervised = Array.from({ length: shards }, () => ({
      state: 'starting',
      recovered: false,
      streams: [],
      verdict: undefined,
      thread: undefined,
      lastAsked: 0,
      restarts: new RestartBudget(clock),
      handedOver: new HandedOverStreams(),
      waiting: new Map(),
    }));
    const store = {
      available: () => world.database.network === 'fine',
      readCounters: (keys: readonly Uint8Array[], streams: readonly string[]) => this.#readCounters(keys, streams),
      list: () => Promise.reject(new CounterError('database-unavailable', 'Nothing is listed here.')),
    };
    const role = settings.shared?.role ?? 'serve';
    const readiness = (): Readiness =>
      readinessOf({
        store: () => store,
        supervisor: () => this,
        refusal: () => this.#refusal ?? this.#router.refusalOfNew(512),
        boundSentences: boundSentences(readConfig({})),
        flushing: () => true,
        rejected: () => 0,
        journalProblem: () => undefined,
        refusesIdempotent: () => statTotal(this.#stats, shards, STAT.idempotentRefused) > 0,
        role,
      });
    this.#operations = new ServerOperations({
      store: () => store,
      deletes: () => undefined,
      supervisor: () => this,
      role,
      readiness,
      metrics: () => Promise.resolve(''),
      dashboard: () => Promise.resolve({ text: '', through: 0 }),
    });
  }

  get refusal(): ErrorCode | undefined {
    return this.#refusal ?? this.#router.closedAdmission;
  }

  /** The answer of GET /readyz. */
  get readiness(): Readiness {
    return this.#operations.readiness();
  }

  get isRecovered(): boolean {
    return this.#supervised.every((shard) => shard.recovered);
  }

  get streams(): readonly string[] {
    return this.#supervised.flatMap((shard) => shard.streams);
  }

  /** The streams of a shared journal that its shards write. */
  get written(): readonly string[] {
    return this.#supervised.flatMap(({ thread }) => thread?.written ?? []);
  }

  /** Pending keys in all shards, as MAX_PENDING_KEYS counts them. */
  get pendingKeys(): number {
    return statTotal(this.#stats, this.shards, STAT.pendingKeys);
  }

  async start(): Promise<void> {
    this.#databaseId = await this.#openDatabase();
    const { broker, queue } = this.#world;
    while (broker?.isDown === true || queue?.isGone === true) await this.#pause(BROKER_RETRY_MS);
    for (let shard = 0; shard < this.shards; shard += 1) this.#launch(shard);
    this.#expireLater();
  }

  /** A request arrives. */
  submit(attempt: Attempt): void {
    const { idempotencyKey } = attempt.request;
    const increments = attempt.columns();
    const take = (): Refusal | undefined =>
      idempotencyKey === undefined
        ? this.#router.submit(increments, attempt)
        : this.#router.submitIdempotent(idempotencyKey, increments, attempt);
    const code = this.refusal ?? take();
    if (code !== undefined) attempt.settle(code);
    else if (!attempt.isSettled) this.#attempts.add(attempt);
  }

  /** The counter's sum as a client reads it; rejects with CounterError. */
  async read(key: Uint8Array): Promise<Sum | undefined> {
    const [reading] = await this.#operations.read([key]);
    return reading === undefined || 'unreadable' in reading ? undefined : reading.sum;
  }

  flushAll(): Promise<number> {
    return this.#operations.flush();
  }

  async flush(): Promise<number> {
    const answers = await Promise.allSettled(this.#supervised.map((_, shard) => this.#ask(shard, { kind: 'flush' })));
    let keys = 0;
    for (const answer of answers) {
      if (answer.status === 'rejected') throw answer.reason as CounterError;
      if (answer.value.kind === 'flushed') keys += answer.value.keys;
    }
    return keys;
  }

  async pendingOf(keys: readonly Uint8Array[], seen: SeenCheckpoints): Promise<readonly PendingAnswer[]> {
    const packed = packKeys(keys);
    return Promise.all(
      this.#supervised.map(async (_, shard) => {
        const answer = await this.#ask(shard, { kind: 'pending', keys: packed, seen });
        return answer.kind === 'pending' ? answer.pending : 'again';
      }),
    );
  }

  /** SIGTERM. */
  async terminate(): Promise<void> {
    if (this.#refusal === 'draining') return;
    const wasServing = this.#refusal === undefined;
    this.#refusal = 'draining';
    if (!wasServing) {
      this.#finish('drained');
      return;
    }
    for (const attempt of this.#attempts) if (attempt.isSettled) this.#attempts.delete(attempt);
    while ([...this.#attempts].some((attempt) => !attempt.isSettled) || !this.#router.isIdle) await this.#pause(5);
    const left = await Promise.all(this.#supervised.map((shard, index) => this.#drainShard(shard, index)));
    this.left = left.flat();
    this.checkBalance();
    this.#finish('drained');
  }

  async #drainShard(shard: Supervised, index: number): Promise<readonly PendingRange[]> {
    for (;;) {
      while (shard.state !== 'serving') await this.#pause(1);
      shard.state = 'draining';
      try {
        const answer = await this.#ask(index, { kind: 'drain' });
        shard.state = 'drained';
        return answer.kind === 'drained' ? answer.left : [];
      } catch (error) {
        if (isOf(shard, 'draining', 'drained')) throw error;
      }
    }
  }

  /** kill -9, or the machine stops. */
  crash(): void {
    this.#finish('crashed');
  }

  /** Nothing passes between its threads and the database. */
  get isCutFromDatabase(): boolean {
    return this.#isCutFromDatabase;
  }

  set isCutFromDatabase(isCut: boolean) {
    this.#isCutFromDatabase = isCut;
    if (isCut) for (const { thread } of this.#supervised) thread?.loseSessions();
  }

  /** A thread ends for another reason, for example lack of memory. */
  killThread(index: number): void {
    this.#supervised[index]?.thread?.kill();
  }

  /** The product does something visible from outside: the process may be killed here. False if it has ended. */
  step(life: Life): boolean {
    if (life.isOver) return false;
    if (this.crashIn === 0) return true;
    this.crashIn -= 1;
    if (this.crashIn > 0) return true;
    this.crash();
    return false;
  }

  /** Makes a disk call fail if a fault is due. */
  disturb(call: DiskCall, path: string): void {
    const fault = this.diskFault;
    if (!fault?.calls.includes(call)) return;
    const { until } = fault;
    if (until === undefined || this.#world.scheduler.now >= until) this.diskFault = undefined;
    if (until !== undefined && this.#world.scheduler.now >= until) return;
    if (call === 'sync') {
      this.#world.circumstances.syncFailed = true;
      this.#world.circumstances.syncEverFailed = true;
    }
    this.#world.note(() => `${this.name}: ${call} of ${path} fails with ${fault.code}`);
    throw systemError(fault.code, path);
  }

  /** Throws if increments do not add up. */
  checkBalance(): void {
    const isBetween = ({ state, thread }: Supervised): boolean =>
      state === 'starting' || state === 'restarting' || thread?.isDying === true;
    if (this.life.isOver || this.#supervised.some(isBetween)) return;
    const balance = conservation(this.#stats, this.shards);
    if (balance.difference !== 0)
      throw new Violation(`${this.name}: increments do not add up: ${JSON.stringify(balance)}`);
  }

  async #openDatabase(): Promise<string | undefined> {
    const { scheduler, database } = this.#world;
    for (const until = scheduler.now + 3000; ;) {
      try {
        const session = await database.connect(this.life);
        void session.close();
        return database.databaseId;
      } catch {
        if (scheduler.now >= until) return undefined;
        await this.#pause(500);
      }
    }
  }

  #launch(index: number): void {
    const shard = this.#supervised[index] as Supervised;
    const { scheduler, random } = this.#world;
    const latency = (): number => random.below(10) / 10;
    // The thread's channel needs its life, which the thread creates; nothing is posted before it serves.
    const answers = new Channel<BatchAnswer>(scheduler, this.life, latency);
    const threadLife = new Life(() => undefined, this.life);
    const batches = new Channel<BatchMessage>(scheduler, threadLife, latency);
    const port = {
      listen: (callback: (answer: BatchAnswer) => void) => answers.listen(callback),
      receive: () => answers.receive(),
      post: (message: BatchMessage) => batches.post(message),
      close: () => answers.close(),
    };
    const events = {
      control: (message: ControlMessage) => {
        this.#receive(index, message, () => this.#clients[index]?.connect(port));
      },
      ended: (error: unknown) => {
        threadLife.end();
        this.#ended(index, error);
      },
    };
    const stats = this.#rows[index] as Float64Array;
    shard.thread = new ShardThread(
      this.#world,
      this,
      index,
      batches,
      answers,
      events,
      this.#databaseId,
      stats,
      shard.handedOver.all,
    );
    shard.lastAsked = 0;
    shard.thread.start();
  }

  #receive(index: number, message: ControlMessage, connect: () => void): void {
    const shard = this.#supervised[index] as Supervised;
    // The ids of ownership claims are the product's own random numbers, which no seed repeats.
    const isNoted = (name: string, value: unknown): unknown => (name === 'claims' ? undefined : value);
    this.#world.note(() => `${this.name} hears of shard ${index}: ${JSON.stringify(message, isNoted)}`);
    if ('id' in message) {
      const waiting = shard.waiting.get(message.id);
      shard.waiting.delete(message.id);
      if (message.kind === 'failed') waiting?.reject(new CounterError(message.code, message.detail));
      else waiting?.resolve(message);
      return;
    }
    switch (message.kind) {
      case 'serving':
        shard.recovered = message.recovered;
        if (shard.state === 'starting' || shard.state === 'restarting') {
          shard.state = 'serving';
          connect();
          this.#router.setShardAdmission(index, 'open');
          if (this.#refusal === 'starting' && this.#supervised.every(({ state }) => state === 'serving')) {
            this.#refusal = undefined;
            this.hasServed = true;
          }
        }
        break;
      case 'streams':
        shard.streams = message.streams;
        break;
      case 'journal':
        if (!['journal-failed', 'journal-fenced', 'journal-unavailable'].includes(message.code)) {
          shard.verdict = message.detail;
        }
        break;
      case 'fenced':
        shard.verdict = message.detail;
        this.#router.setShardAdmission(index, 'journal-unavailable');
        this.#finish('foreign');
        break;
      case 'takenOver':
        shard.handedOver.remove(message.stream);
        break;
      case 'finished':
      case 'database':
    }
  }

  #ended(index: number, error: unknown): void {
    const shard = this.#supervised[index] as Supervised;
    shard.thread = undefined;
    for (const stream of shard.streams) this.#world.threadEnded(stream);
    const orderly = error === undefined && (shard.state === 'draining' || shard.state === 'drained');
    for (const waiting of shard.waiting.values()) {
      waiting.reject(new CounterError('database-unavailable', 'The shard is being restarted.'));
    }
    shard.waiting.clear();
    this.#clients[index]?.disconnect();
    if (orderly) return;
    this.#router.setShardAdmission(index, 'journal-unavailable');
    const wasDrained = shard.state === 'drained';
    shard.handedOver.add(shard.streams[0], this.#rows[index] as Float64Array);
    closeBalance(this.#rows[index] as Float64Array, STAT.handedOver);
    shard.recovered = false;
    if (wasDrained || shard.verdict !== undefined || !shard.restarts.take()) {
      shard.state = 'failed';
      this.#fail(error);
      return;
    }
    shard.state = 'restarting';
    this.#world.scheduler.after(100, this.life, () => this.#launch(index));
  }

  #ask(index: number, request: WithoutId<ControlRequest>): Promise<ControlMessage> {
    const shard = this.#supervised[index] as Supervised;
    const { thread } = shard;
    if (thread === undefined || shard.state === 'starting' || shard.state === 'restarting') {
      return Promise.reject(new CounterError('database-unavailable', 'A shard is being started.'));
    }
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      shard.waiting.set(id, { resolve, reject });
      const { scheduler, random } = this.#world;
      shard.lastAsked = Math.max(shard.lastAsked, scheduler.now + random.below(10) / 10);
      // A member of the union with its id is a member of the original union.
      scheduler.after(shard.lastAsked - scheduler.now, thread.life, () => thread.ask({ ...request, id }));
    });
  }

  /** One snapshot of the database, after a while. */
  async #readCounters(keys: readonly Uint8Array[], streams: readonly string[]): Promise<CommittedCounters> {
    const { database, random } = this.#world;
    await this.#pause(random.below(20) / 10);
    if (database.network !== 'fine') throw new CounterError('database-unavailable', 'The database is unavailable.');
    const { counters, checkpoints } = database.tables;
    const read = keys.map((key) => {
      const committed = counters.get(Buffer.from(key).toString());
      return { committed: committed ?? 0n, exists: committed !== undefined, updatedAt: null };
    });
    const rows = streams.flatMap((stream) => {
      const row = checkpoints.get(stream);
      return row === undefined ? [] : [[stream, { epoch: row.epoch, lsn: row.lsn }] as const];
    });
    await this.#pause(random.below(20) / 10);
    return { counters: read, checkpoints: new Map(rows) };
  }

  #expireLater(): void {
    this.#world.scheduler.after(Math.max(10, Math.min(250, this.settings.ackTimeoutMs / 4)), this.life, () => {
      this.#router.expire();
      this.#expireLater();
    });
  }

  #fail(error: unknown): void {
    if (error instanceof Violation) this.#world.violate(error);
    this.reason = error;
    this.#finish('failed');
    if (!(error instanceof CounterError || error instanceof JournalError)) {
      this.#world.violate(error ?? new Violation(`${this.name} ended without a reason`));
    }
  }

  #finish(end: NodeEnd): void {
    if (this.life.isOver) return;
    this.end = end;
    for (const stream of this.streams) this.#world.threadEnded(stream);
    // A stream that was not read when the process ended may lack what an earlier thread held.
    if (end !== 'drained' || this.left.length > 0) this.#world.processEnded(this.storage);
    this.#world.note(() => `${this.name} has ${end === 'foreign' ? 'met a foreign owner' : end}`);
    this.life.end();
    for (const attempt of this.#attempts) attempt.abandon();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

function isOf({ state }: Supervised, ...states: readonly Supervised['state'][]): boolean {
  return states.includes(state);
}
