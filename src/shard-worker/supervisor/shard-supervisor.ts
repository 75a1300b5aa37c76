/**
 * Starts the shard threads, restarts one that ends unexpectedly, and sends them requests. Main thread; owner of piscina.
 *
 * ```text
 * starting ──serving──► serving ──thread ends──► restarting ──serving──► serving
 *                          │                        │  ▲  └──budget spent──► failed (the process ends)
 *                          └──drain──► draining ────│──┘ thread ends
 *                                         └──► drained
 * ```
 *
 * A shard is one Piscina task that runs as long as its thread. When the thread ends, its requests in flight get
 * `outcome-unknown`, the other shards go on, and the next thread recovers from the journal. A drain also waits for shards that
 * start or restart, because only a recovered thread knows what stays in the journal.
 */
import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { journalKinds } from '../../config/journal-kind.js';
import { systemClock, type Clock } from '../../core/clock.js';
import { CounterError, isJournalVerdict, StartError, type JournalErrorCode, reasonOf } from '../../core/errors.js';
import type { Admission } from '../../core/increment.js';
import { missingRowsSentence } from '../journal/missing-rows.js';
import { closeBalance, STAT, statOf, statsRow } from '../protocol/stats.js';
import {
  packKeys,
  type ControlMessage,
  type ControlRequest,
  type HttpServerLink,
  type MissingRow,
  type PendingRange,
  type HotKey,
  type PendingAnswer,
  type SeenCheckpoints,
  type ShardDatabaseState,
  type ShardTask,
} from '../protocol/control-messages.js';
import { HandedOverStreams } from './handed-over-streams.js';
import type { FinishedStream } from '../../db/absent-streams.js';
import type { Logger } from '../../core/logger.js';

const RESTART_DELAY_MS = 100;

/** Restarts within {@link RESTART_WINDOW_MS}; one more is too many. */
const RESTARTS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;

/** Failures that the next thread may recover from. */
const RECOVERABLE: ReadonlySet<JournalErrorCode> = new Set(['journal-failed', 'journal-fenced', 'journal-unavailable']);

/** Most control requests that wait for one shard at a time. */
const CONTROL_REQUESTS_MAX = 10_000;

/** Most retired streams that are remembered. */
const FINISHED_MAX = 1000;

/** Events for the owner of the supervisor. */
interface SupervisorEvents {
  /** Whether a shard takes increments has changed. */
  admission(shard: number, admission: Admission): void;
  /** A shard cannot go on. The process must end. */
  fatal(reason: string): void;
  /** Whether a shard can use the database has changed. */
  database(shard: number, state: ShardDatabaseState): void;
}

/** Collaborators and values of the supervisor. */
export interface SupervisorOptions {
  readonly shards: number;
  readonly stats: SharedArrayBuffer;
  /** The task of a shard, without the part that the supervisor adds. */
  readonly taskOf: (
    shard: number,
  ) => Omit<ShardTask, 'control' | 'batchPorts' | 'stats' | 'handedOver' | 'shard' | 'shards'>;
  readonly httpServers: readonly HttpServerLink[];
  readonly logger: Logger;
  readonly events: SupervisorEvents;
}

type ShardState = 'starting' | 'serving' | 'restarting' | 'draining' | 'drained' | 'failed';

interface PendingControl {
  readonly resolve: (message: ControlMessage) => void;
  readonly reject: (error: CounterError) => void;
}

type WithoutId<T> = T extends { readonly id: number } ? Omit<T, 'id'> : never;

/** Why a shard cannot go on. */
interface Verdict {
  readonly detail: string;
  /** The journal prevents the start until an operator changes something. */
  readonly refusesStart: boolean;
  /** Rows that the database has lost, if that is why. */
  readonly missingRows: readonly MissingRow[];
}

/** One supervised shard. */
class SupervisedShard {
  /** Of the stats. */
  readonly row: Float64Array;
  state: ShardState = 'starting';
  recovered = false;
  streams: readonly string[] = [];
  /** Why a restart would not help. Set before the thread ends. */
  verdict: Verdict | undefined;
  /** What the thread has reported, and logged, about its journal. */
  reported: string | undefined;
  control: MessagePort | undefined;
  ended: Promise<void> = Promise.resolve();
  readonly restarts = new RestartBudget(systemClock);
  /** Increments that former threads of this shard left in the journal for the current thread to read. */
  handedOver = 0;
  /** The stat `recovered` when the current thread was launched. */
  recoveredBefore = 0;
  readonly handedOverStreams = new HandedOverStreams();
  readonly waiting = new Map<number, PendingControl>();

  constructor(row: Float64Array) {
    this.row = row;
  }
}

/** The supervisor of all shards of the server. */
export class ShardSupervisor {
  readonly #options: SupervisorOptions;
  readonly #pool: Piscina;
  readonly #shards: readonly SupervisedShard[];
  readonly #finished = new Map<string, FinishedStream>();
  #nextId = 1;
  #hasStarted = false;
  #onChange: (() => void)[] = [];

  constructor(options: SupervisorOptions) {
    this.#options = options;
    const { shards, stats } = options;
    this.#shards = Array.from({ length: shards }, (_, shard) => new SupervisedShard(statsRow(stats, shard)));
    this.#pool = new Piscina({
      filename: fileURLToPath(new URL('../thread/shard-task.cjs', import.meta.url)),
      name: 'runShard',
      minThreads: options.shards,
      maxThreads: options.shards,
      idleTimeout: Number.MAX_SAFE_INTEGER,
      // The task never ends, so a blocking wait for the next task would block the event loop of its thread.
      atomics: 'disabled',
    });
    // The task's promise reports a failure of its thread. Without a listener, this event would be thrown.
    this.#pool.on('error', (error: Error) => {
      options.logger.error({ err: error }, 'A shard thread failed');
    });
  }

  /**
   * Starts all shards; resolves when all serve. If a journal cannot be used, rejects with StartError once every shard serves or
   * has reported its journal. Rejects with CounterError if a shard cannot start for another reason.
   */
  async start(): Promise<void> {
    for (let shard = 0; shard < this.#shards.length; shard += 1) this.#launch(shard);
    await this.#until(() => this.#shards.every((shard) => shard.state === 'serving' || refusesStart(shard)));
    this.#hasStarted = true;
    const problems = problemsOf(this.#shards.flatMap(({ verdict }) => (verdict?.refusesStart === true ? verdict : [])));
    if (problems.length > 0) throw new StartError(problems);
  }

  /** Whether the shards have read all of their journals, so that reads are exact. */
  get isRecovered(): boolean {
    return this.#shards.every((shard) => shard.recovered);
  }

  /** The streams whose checkpoints a read must ask for. */
  get streams(): readonly string[] {
    return this.#shards.flatMap((shard) => shard.streams);
  }

  /** The last {@link FINISHED_MAX} streams that this process has flushed to their ends and removed. */
  get finished(): ReadonlyMap<string, FinishedStream> {
    return this.#finished;
  }

  /** The pending sums of keys in each shard, above the checkpoints that a read saw. */
  async pendingOf(keys: readonly Uint8Array[], seen: SeenCheckpoints): Promise<readonly PendingAnswer[]> {
    const packed = packKeys(keys);
    return Promise.all(
      this.#shards.map(async (_, shard) => {
        const answer = await this.#ask(shard, { kind: 'pending', keys: packed, seen });
        return answer.kind === 'pending' ? answer.pending : 'again';
      }),
    );
  }

  /** The keys with the most increments now, most first. Shards that do not serve are left out. */
  async hotKeys(most: number): Promise<readonly HotKey[]> {
    const answers = await Promise.allSettled(
      this.#shards.map((_, shard) => this.#ask(shard, { kind: 'hotKeys', most })),
    );
    return answers
      .flatMap((answer) => (answer.status === 'fulfilled' && answer.value.kind === 'hotKeys' ? answer.value.keys : []))
      .sort((a, b) => b.perSecond - a.perSecond)
      .slice(0, most);
  }

  /** Flushes all shards; resolves to the number of keys written. */
  async flush(): Promise<number> {
    const answers = await Promise.allSettled(this.#shards.map((_, shard) => this.#ask(shard, { kind: 'flush' })));
    let keys = 0;
    for (const answer of answers) {
      if (answer.status === 'rejected') throw answer.reason;
      if (answer.value.kind === 'flushed') keys += answer.value.keys;
    }
    return keys;
  }

  /** Acknowledged increments that ended threads left in the journal and no later thread has read yet. */
  get unread(): number {
    return this.#shards.reduce((total, shard) => total + this.#unreadOf(shard), 0);
  }

  /**
   * Lets every shard flush, prune and close; resolves to what stays in the journals. A shard that starts or restarts recovers
   * first, unless its disk refuses. Rejects if a shard cannot go on.
   */
  async drain(): Promise<readonly PendingRange[]> {
    const left = await Promise.all(this.#shards.map((shard, index) => this.#drainShard(shard, index)));
    await this.#pool.destroy();
    return left.flat();
  }

  async #drainShard(shard: SupervisedShard, index: number): Promise<readonly PendingRange[]> {
    for (;;) {
      // Also during a start, because only the thread knows whether its disk lets it start.
      await this.#until(() => shard.control !== undefined);
      shard.state = 'draining';
      try {
        const answer = await this.#ask(index, { kind: 'drain' });
        shard.state = 'drained';
        await shard.ended;
        return answer.kind === 'drained' ? answer.left : [];
      } catch (error) {
        if (!isReplaced(shard)) throw error;
      }
    }
  }

  #launch(index: number): void {
    const { shards, stats, taskOf } = this.#options;
    const shard = this.#shards[index] as SupervisedShard;
    const control = new MessageChannel();
    const channels = this.#options.httpServers.map((link) => ({ link, channel: new MessageChannel() }));
    shard.control = control.port1;
    shard.recoveredBefore = statOf(shard.row, STAT.recovered);
    control.port1.on('message', (message: ControlMessage) => {
      this.#receive(index, message, () => {
        for (const { link, channel } of channels) link.connect(index, channel.port1);
      });
    });
    const batchPorts = channels.map(({ channel }) => channel.port2);
    const given = { shard: index, shards, stats, handedOver: shard.handedOverStreams.all };
    const task: ShardTask = { ...taskOf(index), ...given, control: control.port2, batchPorts };
    shard.ended = this.#pool.run(task, { transferList: [control.port2, ...batchPorts] }).then(
      () => {
        this.#ended(index, undefined);
      },
      (error: unknown) => {
        this.#ended(index, error);
      },
    );
    this.#changed();
  }

  #receive(index: number, message: ControlMessage, connect: () => void): void {
    const shard = this.#shards[index] as SupervisedShard;
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
          this.#options.events.admission(index, 'open');
        }
        break;
      case 'streams':
        shard.streams = message.streams;
        break;
      case 'takenOver':
        shard.handedOverStreams.remove(message.stream);
        break;
      case 'finished':
        this.#finish(message);
        break;
      case 'database':
        this.#options.events.database(index, message.state);
        break;
      case 'journal':
        // A fenced shard has just reported the same.
        if (shard.verdict?.detail !== message.detail)
          this.#options.logger.error({ shard: index, code: message.code }, message.detail);
        shard.reported = message.detail;
        if (!RECOVERABLE.has(message.code)) {
          const isVerdict = !this.#hasStarted && isJournalVerdict(message.code);
          shard.verdict = { detail: message.detail, refusesStart: isVerdict, missingRows: message.missingRows };
        }
        break;
      case 'fenced':
        shard.verdict = { detail: message.detail, refusesStart: false, missingRows: [] };
        this.#options.events.admission(index, 'journal-unavailable');
        this.#options.events.fatal(message.detail);
    }
    this.#changed();
  }

  #finish({ stream, lsn, claims }: Extract<ControlMessage, { readonly kind: 'finished' }>): void {
    this.#finished.set(stream, { lsn, claims });
    const [oldest] = this.#finished.keys();
    if (oldest !== undefined && this.#finished.size > FINISHED_MAX) this.#finished.delete(oldest);
  }

  #ended(index: number, error: unknown): void {
    const shard = this.#shards[index] as SupervisedShard;
    this.#receiveLast(index);
    this.#logEnd(index, error);
    const orderly = error === undefined && (shard.state === 'draining' || shard.state === 'drained');
    for (const waiting of shard.waiting.values()) {
      waiting.reject(new CounterError('database-unavailable', 'A shard is restarting; try again.'));
    }
    shard.waiting.clear();
    for (const link of this.#options.httpServers) link.disconnect(index);
    if (orderly) return;
    this.#options.events.admission(index, 'journal-unavailable');
    const wasDrained = shard.state === 'drained';
    this.#closeBalance(index);
    shard.recovered = false;
    if (wasDrained || shard.verdict !== undefined || !shard.restarts.take()) {
      shard.state = 'failed';
      // The start reports the verdicts of all shards together.
      if (refusesStart(shard)) {
        this.#changed();
        return;
      }
      const why = shard.verdict?.detail ?? reasonOf(error);
      this.#options.events.fatal(`Shard ${index} cannot go on: ${why}`);
    } else {
      shard.state = 'restarting';
      shard.row[STAT.restarts] = statOf(shard.row, STAT.restarts) + 1;
      setTimeout(() => {
        this.#launch(index);
      }, RESTART_DELAY_MS).unref();
    }
    this.#changed();
  }

  /** Logs that a thread failed, without the error if the thread has reported it. */
  #logEnd(index: number, error: unknown): void {
    const shard = this.#shards[index] as SupervisedShard;
    const isReported = error instanceof Error && error.message === shard.reported;
    shard.reported = undefined;
    if (error === undefined) return;
    this.#options.logger.error(isReported ? { shard: index } : { err: error, shard: index }, 'A shard ended');
  }

  /** Receives the messages that a thread sent before it ended: the answer to a drain, or a verdict. */
  #receiveLast(index: number): void {
    const shard = this.#shards[index] as SupervisedShard;
    const control = shard.control;
    if (control === undefined) return;
    for (;;) {
      const received: { message: ControlMessage } | undefined = receiveMessageOnPort(control);
      if (received === undefined) break;
      this.#receive(index, received.message, () => undefined);
    }
    control.close();
    shard.control = undefined;
  }

  /** Hands pending increments of an ended thread over to the next one, or counts them as lost with a volatile journal. */
  #closeBalance(index: number): void {
    const shard = this.#shards[index] as SupervisedShard;
    const { isVolatile } = journalKinds[this.#options.taskOf(index).settings.journal];
    const cell = isVolatile ? STAT.lost : STAT.handedOver;
    // Before the balance is closed. The next thread must also read what this one did not.
    const unread = this.#unreadOf(shard);
    if (cell === STAT.handedOver) shard.handedOverStreams.add(shard.streams[0], shard.row);
    const left = closeBalance(shard.row, cell);
    if (cell === STAT.handedOver) shard.handedOver = unread + left;
    else if (left > 0) {
      this.#options.logger.error(
        { shard: index, lost: left },
        'Acknowledged increments are lost: the journal was in the memory of the shard',
      );
    }
  }

  #unreadOf({ row, recovered, handedOver, recoveredBefore }: SupervisedShard): number {
    return recovered ? 0 : Math.max(0, handedOver - (statOf(row, STAT.recovered) - recoveredBefore));
  }

  #ask(index: number, request: WithoutId<ControlRequest>): Promise<ControlMessage> {
    const shard = this.#shards[index] as SupervisedShard;
    const control = shard.control;
    if (control === undefined || shard.state === 'starting' || shard.state === 'restarting') {
      return Promise.reject(new CounterError('database-unavailable', 'A shard is starting; try again.'));
    }
    if (shard.waiting.size >= CONTROL_REQUESTS_MAX) {
      return Promise.reject(
        new CounterError(
          'overloaded',
          `${CONTROL_REQUESTS_MAX} reads and flushes already wait for a shard, which is the limit; retry later.`,
        ),
      );
    }
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      shard.waiting.set(id, { resolve, reject });
      control.postMessage({ ...request, id });
    });
  }

  #changed(): void {
    const listeners = this.#onChange;
    this.#onChange = [];
    for (const listener of listeners) listener();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.#shards.some((shard) => shard.state === 'failed' && !refusesStart(shard))) {
        throw new CounterError('internal-error', 'A shard cannot start.');
      }
      await new Promise<void>((resolve) => this.#onChange.push(resolve));
    }
  }
}

/**
 * How often one shard may restart before the process gives up.
 *
 * A budget for each shard, not for the process: a failover of the database that undoes commits makes all shards, up to 64,
 * recover at the same moment.
 */
export class RestartBudget {
  readonly #clock: Pick<Clock, 'monotonic'>;
  #restarts: number[] = [];

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
  }

  /** Takes one restart; false if the budget is spent. */
  take(): boolean {
    const now = this.#clock.monotonic();
    this.#restarts = [...this.#restarts.filter((at) => at >= now - RESTART_WINDOW_MS), now];
    return this.#restarts.length <= RESTARTS_MAX;
  }
}

/** The problems of all shards, each once. An operator decides about missing rows of all shards together. */
function problemsOf(verdicts: readonly Verdict[]): readonly string[] {
  const missingRows = verdicts.flatMap((verdict) => verdict.missingRows);
  const others = verdicts.filter((verdict) => verdict.missingRows.length === 0).map(({ detail }) => detail);
  return [...new Set(others), ...(missingRows.length === 0 ? [] : [missingRowsSentence(missingRows)])];
}

function refusesStart({ verdict }: SupervisedShard): boolean {
  return verdict?.refusesStart === true;
}

/** Whether the thread of a draining shard ended early, so that another replaces it or the shard has failed. */
function isReplaced({ state }: SupervisedShard): boolean {
  return state !== 'draining' && state !== 'drained';
}
