/**
 * A process that writes streams of the sqs journal, one at a time, in the simplest way that follows the protocol. It flushes nothing.
 *
 * ```text
 * no stream → making its row (no reply: without it) → hello → writing → close record
 *                                                             → its row is gone, or a send had no answer for an hour: no stream
 *
 * in hand → record sent → stored: acknowledged
 *                       → refused: 503, unless an attempt before it may be stored
 *                       → no answer: in doubt → the same bytes with the same id
 *                       → the client waits no longer: 500, and its number is never used again
 * ```
 */
import pg from 'pg';
import { ASK_STREAM } from '#product/db/log-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { Outcome, WalkRequest } from '../log-walk/walk-request.js';
import type { ProtocolWorld } from '../protocol-node.js';
import { Life } from '../scheduler.js';
import { type Queue, QueueUnavailable, type SendOutcome, type SimulatedQueue } from '../simulated-queue.js';
import type { QueueWalkMutations } from './queue-mutations.js';
import { encodeRecord, type QueueRecord } from './queue-record.js';

/** What a process needs of its world. */
export interface QueueWorld extends ProtocolWorld {
  readonly queue: SimulatedQueue;
  /** A writer sleeps where a send has had no answer. */
  readonly sleepsInDoubt: boolean;
  /** The end of an attempt. */
  settle(request: WalkRequest, outcome: Outcome): void;
  /** SIGSTOP, and SIGCONT some time later. */
  sleep(process: { readonly life: Life; readonly name: string }): void;
  /** A record is sent. */
  sent(stream: string, name: string): void;
  /**
   * Whether a stream without a row is one that had a row. With the lock on groups its hello would have been received first; without
   * it only an oracle knows.
   */
  isGone(stream: string): boolean;
  /** The close record of a stream is acknowledged. */
  closed(stream: string, lsn: number): void;
  /** A stream is retired at an LSN, since nothing was heard of it for 15 days. */
  expires(stream: string, lsn: number): void;
}

/** A request that is not in the queue yet, and how many attempts wait for it. */
interface Item {
  readonly request: WalkRequest;
  /** N as it was when the request was taken. */
  readonly heard: number;
  readonly since: number;
  waiting: number;
}

/** A record as it is sent, each time the same. Without an item it is a hello, a heartbeat or a close record. */
interface Sending {
  readonly record: QueueRecord;
  readonly item: Item | undefined;
  readonly body: string;
  readonly since: number;
  /** An attempt may be stored, now or later. */
  isInDoubt: boolean;
  attempts: number;
}

interface OwnStream {
  readonly name: string;
  /** It has made its row, or seen it open. */
  isCovered: boolean;
  /** The row is retired, or gone. */
  isRowGone: boolean;
  nextLsn: number;
  /** The last acknowledged record. */
  acknowledged: { readonly lsn: number; readonly heard: number };
  sentAt: number;
}

const NODE = 'node';
/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 14;
const TROUBLE_ONE_IN = 30;
const HAND_MAX = 4;
/** A client waits for so long at most, in ms. */
const ACK_TIMEOUT_MS = 200;
/** The hour after which a send without an answer ends the stream, in ms. */
const SUSPENDED_MS = 450;
/** A living writer sends at least one record in so long. The day of the rule, in ms. */
const HEARTBEAT_MS = 700;

/** One process. */
export class QueueWriter {
  readonly life: Life;
  readonly name: string;
  readonly #world: QueueWorld;
  readonly #mutations: QueueWalkMutations;
  readonly #queue: Queue;
  /** Of so many pieces of work one is a record, if anything is in hand. */
  readonly #sendOneIn: number;
  #own: OwnStream | undefined;
  /** The largest time of a statement that saw the row of a stream open. */
  #heard = 0;
  #hand: Item[] = [];
  /** Sent and not settled; more than one in {@link QueueWalkMutations.sendsAhead} and `repeatsBehind` only. */
  #sending: Sending[] = [];
  /** The idempotency keys that the present stream has. */
  readonly #window = new Set<string>();
  #session: SimulatedSession | undefined;
  #isStopping = false;

  constructor(world: QueueWorld, mutations: QueueWalkMutations, name: string) {
    this.#world = world;
    this.#mutations = mutations;
    this.#sendOneIn = world.random.pick([1, 1, 2, 10]);
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    this.#queue = world.queue.connect(this.life);
    world.note(() => `${name} starts`);
    for (const work of [this.#write(), this.#keepRow()]) work.catch((error: unknown) => world.violate(error));
  }

  /** kill -9: what is in hand or in doubt has no answer. */
  crash(): void {
    this.life.end();
    this.#settle(this.#items, 'unknown');
    this.#hand = [];
    this.#sending = [];
  }

  /** SIGTERM */
  stop(): void {
    this.#isStopping = true;
  }

  /** That to the database. */
  loseConnection(): void {
    this.#session?.destroy();
  }

  get isUp(): boolean {
    return !this.life.isOver;
  }

  /** Takes a request in hand, or answers it. */
  accept(request: WalkRequest): void {
    const pending = this.#items.find((item) => item.request === request);
    if (this.life.isOver || this.#isStopping) {
      this.#world.settle(request, 'refused');
    } else if (this.#window.has(request.name)) {
      this.#world.settle(request, 'acknowledged');
    } else if (pending !== undefined) {
      pending.waiting += 1;
    } else if (!this.#takes(request) || this.#hand.length >= HAND_MAX) {
      this.#world.settle(request, 'refused');
    } else {
      this.#hand.push({ request, heard: this.#heard, since: this.#world.scheduler.now, waiting: 1 });
      this.#world.note(() => `${this.name} has ${request.name} in hand`);
    }
  }

  get #items(): readonly Item[] {
    return [...itemsOf(this.#sending), ...this.#hand];
  }

  #takes({ isPlain }: WalkRequest): boolean {
    const { acceptBeforeRow, coverOfProcess } = this.#mutations;
    if (this.#own === undefined) return false;
    if (isPlain || acceptBeforeRow === true) return true;
    return this.#own.isCovered || (coverOfProcess === true && this.#heard > 0);
  }

  async #write(): Promise<void> {
    while (!this.life.isOver) {
      await this.#pause(this.#world.random.below(PACE_MS));
      if (this.life.isOver) return;
      try {
        await this.#step();
      } catch (error) {
        this.#expect(error);
      }
    }
  }

  async #step(): Promise<void> {
    const { random, scheduler } = this.#world;
    const { ignoresRetirement, heartbeatOverHand, closesEarly } = this.#mutations;
    if (random.below(TROUBLE_ONE_IN) === 0) this.#fallLater();
    this.#timeOut();
    const own = this.#own;
    if (own === undefined) {
      if (this.#isStopping) this.crash();
      else await this.#begin();
      return;
    }
    if (own.isRowGone && ignoresRetirement !== true) {
      this.#leave(own, 'its row is retired or gone');
      return;
    }
    if (this.#sending.length > 0) {
      await Promise.all(this.#sending.map((sending) => this.#attempt(own, sending)));
      return;
    }
    if (own.acknowledged.lsn === 0) {
      this.#next(own, undefined);
    } else if (this.#hand.length > 0 && !(this.#isStopping && closesEarly === true)) {
      const isNewer = this.#heard > own.acknowledged.heard;
      if (heartbeatOverHand === true && isNewer && random.below(4) === 0) this.#next(own, undefined);
      else if (random.below(this.#sendOneIn) === 0) this.#next(own, this.#hand.shift());
    } else if (this.#isStopping) {
      await this.#end(own);
    } else if (
      (this.#heard > own.acknowledged.heard && random.below(3) === 0) ||
      own.sentAt < scheduler.now - HEARTBEAT_MS
    ) {
      this.#next(own, undefined);
    }
  }

  /** The connection is lost, or the process ends or sleeps, while something is under way. */
  #fallLater(): void {
    const { random, scheduler } = this.#world;
    const fall = random.pick([
      (): void => this.crash(),
      (): void => this.loseConnection(),
      ...[1, 2, 3].map(() => (): void => this.#world.sleep(this)),
    ]);
    scheduler.after(random.below(30), this.life, fall);
  }

  /** Clients do not wait any longer. */
  #timeOut(): void {
    const isLate = ({ since }: Item): boolean => since < this.#world.scheduler.now - ACK_TIMEOUT_MS;
    const late = this.#hand.filter(isLate);
    this.#hand = this.#hand.filter((item) => !isLate(item));
    this.#settle(late, 'refused');
  }

  /** Makes the row of a new stream. Without a reply, or without the database, that is left to consumers. */
  async #begin(): Promise<void> {
    const { random, database, scheduler } = this.#world;
    const own: OwnStream = {
      name: this.#world.uuid(),
      isCovered: false,
      isRowGone: false,
      nextLsn: 1,
      acknowledged: { lsn: 0, heard: 0 },
      sentAt: scheduler.now,
    };
    try {
      this.#session = await database.connect(this.life);
      if (random.below(8) > 0) await this.#makeRow(this.#session, own);
    } catch (error) {
      this.#expect(error);
      this.#session?.destroy();
    }
    if (this.life.isOver) return;
    this.#own = own;
    this.#world.note(() => `${this.name} writes ${own.name}, its row is ${own.isCovered ? 'made' : 'not known'}`);
  }

  async #makeRow(session: SimulatedSession, own: OwnStream): Promise<void> {
    const run = (text: string, values: readonly unknown[] = []): Promise<Row[]> => session.query<Row>({ text, values });
    await run(owner.BEGIN_TAKING);
    await run(owner.LOCK_PRUNED_BEFORE);
    const [found] = await run(owner.LOCK_CHECKPOINT, [own.name]);
    const claim = [[this.#world.uuid()], [0]];
    const [row] =
      found?.['epoch'] === null ? await run(owner.MAKE_CHECKPOINT, [own.name, ...claim, NODE, 0, 'sqs', 0]) : [];
    await run(row === undefined ? owner.ROLL_BACK_TAKING : owner.COMMIT_TAKING);
    if (this.life.isOver || row === undefined) return;
    own.isCovered = true;
    this.#hear(found);
  }

  #hear(row: Row | undefined): void {
    this.#heard = Math.max(this.#heard, Number(row?.['database_time'] ?? 0));
  }

  /** The next record. Each number is used once. */
  #next(own: OwnStream, item: Item | undefined, isClose = false): Sending {
    const { timeOfSending, namesLastUsed, sendsAhead } = this.#mutations;
    const ahead = sendsAhead === true && item !== undefined ? this.#hand.shift() : undefined;
    const heard = item === undefined || timeOfSending === true ? this.#heard : item.heard;
    const record: QueueRecord = {
      token: item?.request.name ?? '',
      isPlain: item?.request.isPlain ?? true,
      heard,
      lsn: own.nextLsn,
      follows: namesLastUsed === true ? own.nextLsn - 1 : own.acknowledged.lsn,
      isClose,
    };
    own.nextLsn += 1;
    const since = item?.since ?? this.#world.scheduler.now;
    const sending = { record, item, body: encodeRecord(record), since, isInDoubt: false, attempts: 0 };
    this.#sending.push(sending);
    if (ahead !== undefined) this.#next(own, ahead);
    return sending;
  }

  /** The process may be stopped between its look at the clock and the request. */
  async #attempt(own: OwnStream, sending: Sending): Promise<void> {
    const { random, scheduler } = this.#world;
    const { sharedDeduplicationId, repeatsForEver } = this.#mutations;
    const { record, body } = sending;
    const { lsn } = record;
    if (repeatsForEver !== true && sending.isInDoubt && sending.since < scheduler.now - SUSPENDED_MS) {
      this.#leave(own, `LSN ${lsn} has had no answer for an hour`);
      return;
    }
    if (this.#isOverdue(sending)) {
      this.#giveUp(own, sending);
      return;
    }
    sending.attempts += 1;
    await this.#pause(random.below(3));
    if (this.life.isOver || this.#own !== own) return;
    const deduplicationId = sharedDeduplicationId === true ? String(lsn) : `${own.name}:${lsn}`;
    this.#world.note(() => `${this.name} sends ${record.token} as LSN ${lsn} of ${own.name}, after ${record.follows}`);
    this.#world.sent(own.name, record.token);
    own.sentAt = scheduler.now;
    // What becomes of the request is not known before its answer.
    const wasInDoubt = sending.isInDoubt;
    sending.isInDoubt = true;
    const outcome = await this.#queue.send({ group: own.name, deduplicationId, body });
    if (this.life.isOver || this.#own !== own || !this.#sending.includes(sending)) return;
    sending.isInDoubt = wasInDoubt;
    this.#judge(own, sending, outcome);
  }

  #isOverdue({ record, isInDoubt, since, attempts }: Sending): boolean {
    const { helloGivenUp, repeatsBehind, repeatsForEver } = this.#mutations;
    if (!isInDoubt || repeatsBehind === true) return false;
    if (record.lsn === 1 && helloGivenUp !== true) return false;
    if (repeatsForEver === true) return since < this.#world.scheduler.now - ACK_TIMEOUT_MS && attempts > 8;
    return since < this.#world.scheduler.now - ACK_TIMEOUT_MS;
  }

  #judge(own: OwnStream, sending: Sending, outcome: SendOutcome): void {
    const { refusedAfterUnknown, repeatsBehind } = this.#mutations;
    const { record, item } = sending;
    this.#world.note(() => `${this.name}, LSN ${record.lsn} of ${own.name}: ${outcome.kind}`);
    switch (outcome.kind) {
      case 'sent':
        this.#drop(sending);
        if (record.lsn > own.acknowledged.lsn) own.acknowledged = { lsn: record.lsn, heard: record.heard };
        if (record.isClose) {
          own.isRowGone = true;
          this.#world.closed(own.name, record.lsn);
        }
        if (item === undefined) return;
        if (!item.request.isPlain) this.#window.add(item.request.name);
        this.#settle([item], 'acknowledged');
        return;
      case 'refused':
        if (record.lsn === 1 || (sending.isInDoubt && refusedAfterUnknown !== true)) return;
        this.#drop(sending);
        if (item !== undefined) this.#settle([item], 'refused');
        return;
      case 'unknown':
        sending.isInDoubt = true;
        if (this.#world.sleepsInDoubt) this.#world.sleep(this);
        if (repeatsBehind === true && record.lsn > 1 && this.#sending.length < 3) this.#next(own, this.#hand.shift());
    }
  }

  /** The client gets 500. The number is never used again, and no later answer counts. */
  #giveUp(own: OwnStream, sending: Sending): void {
    const { reusesNumber, timeoutIsRefused } = this.#mutations;
    const { record, item } = sending;
    this.#world.note(() => `${this.name} gives up LSN ${record.lsn} of ${own.name}`);
    this.#drop(sending);
    if (reusesNumber === true) own.nextLsn = record.lsn;
    if (record.lsn === 1) own.acknowledged = { lsn: 1, heard: record.heard };
    if (item !== undefined) this.#settle([item], timeoutIsRefused === true ? 'refused' : 'unknown');
  }

  #drop(sending: Sending): void {
    this.#sending = this.#sending.filter((other) => other !== sending);
  }

  /** The stream is over: what was sent and not answered may still be stored. */
  #leave(own: OwnStream, why: string): void {
    const { sentIsRefused, carriesHand } = this.#mutations;
    this.#world.note(() => `${this.name} leaves ${own.name}: ${why}`);
    const sending = this.#sending;
    const hand = this.#hand;
    this.#own = undefined;
    this.#sending = [];
    this.#window.clear();
    for (const { item, isInDoubt } of sending) {
      if (item !== undefined) this.#settle([item], isInDoubt && sentIsRefused !== true ? 'unknown' : 'refused');
    }
    if (carriesHand === true) return;
    this.#hand = [];
    this.#settle(hand, 'refused');
  }

  #settle(items: readonly Item[], outcome: Outcome): void {
    for (const item of items) {
      if (item.waiting > 0) this.#world.note(() => `${item.request.name} is ${outcome}`);
      for (; item.waiting > 0; item.waiting -= 1) this.#world.settle(item.request, outcome);
    }
  }

  /** A clean stop: a close record, after everything else. Without an answer, age ends the stream. */
  async #end(own: OwnStream): Promise<void> {
    this.#world.note(() => `${this.name} stops, and closes ${own.name}`);
    const { closesEarly } = this.#mutations;
    const close = this.#next(own, undefined, true);
    while (this.#sending.includes(close) && !this.life.isOver) await this.#attempt(own, close);
    if (this.life.isOver) return;
    if (closesEarly !== true) {
      this.crash();
      return;
    }
    own.isRowGone = false;
    while (this.#hand.length > 0 && !this.life.isOver) {
      const late = this.#next(own, this.#hand.shift());
      while (this.#sending.includes(late) && !this.life.isOver) await this.#attempt(own, late);
    }
    this.crash();
  }

  /** What it asks the database, beside its sends. */
  async #keepRow(): Promise<void> {
    const { random, database } = this.#world;
    while (!this.life.isOver) {
      await this.#pause(5 + random.below(2 * PACE_MS));
      const own = this.#own;
      if (own === undefined || own.isRowGone || random.below(4) > 0) continue;
      try {
        if (this.#session?.lost !== false) this.#session = await database.connect(this.life);
        await this.#ask(this.#session, own);
      } catch (error) {
        this.#expect(error);
        this.#session?.destroy();
      }
    }
  }

  /** Whether the row is open. A writer that has begun makes no row; one that has never seen it waits for it. */
  async #ask(session: SimulatedSession, own: OwnStream): Promise<void> {
    const [open] = await session.query<Row>({ text: ASK_STREAM, values: [own.name] });
    if (this.life.isOver) return;
    if (open !== undefined) {
      this.#hear(open);
      own.isCovered = true;
      return;
    }
    const [row] = await session.query<Row>({ text: owner.LOCK_CHECKPOINT, values: [own.name] });
    if (this.life.isOver) return;
    const isGone = row?.['epoch'] === null && own.isCovered;
    if (isGone && this.#mutations.remakeRow === true) return this.#makeRow(session, own);
    own.isRowGone = isGone || row?.['retired'] === true;
    if (own.isRowGone) this.#world.note(() => `${this.name} finds the row of ${own.name} retired or gone`);
  }

  /** The database or the queue does not answer, or refuses. */
  #expect(error: unknown): void {
    const { message } = expectTrouble(error);
    this.#world.note(() => `${this.name}: ${message}`);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

function itemsOf(sending: readonly Sending[]): readonly Item[] {
  return sending.flatMap(({ item }) => (item === undefined ? [] : [item]));
}

/** Errors that a process of a walk lives with: the database or the queue is unavailable, or refuses. Rethrows others. */
export function expectTrouble(error: unknown): Error {
  const isLost = error instanceof Error && ('code' in error || error.message.includes('connection error'));
  if (isLost || error instanceof pg.DatabaseError || error instanceof QueueUnavailable) return error;
  throw error;
}
