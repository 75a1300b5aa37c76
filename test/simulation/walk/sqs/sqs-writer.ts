/**
 * A process that writes streams of the sqs journal. It flushes nothing.
 *
 * ```text
 * writing → close record, or its row is gone, or a send had no answer for an hour: no stream
 *
 * in hand → record sent → stored: acknowledged
 *                       → refused: 503, unless an attempt before it may be stored
 *                       → no answer: in doubt → the same bytes with the same id
 *                       → the client waits no longer: 500, and its number is never used again
 * ```
 */
import type { Queue, SendOutcome, SimulatedQueue } from '../../simulated-queue.js';
import type { WalkWorld } from '../process.js';
import { type RowStream, RowWriter } from '../row-writer.js';
import type { Item } from '../writer.js';
import type { SqsWalkMutations } from './sqs-mutations.js';
import { encodeRecord, type SqsRecord } from './sqs-record.js';

/** What a process needs of its world. */
export interface SqsWorld extends WalkWorld {
  readonly queue: SimulatedQueue;
  /** A writer sleeps where a send has had no answer. */
  readonly sleepsInDoubt: boolean;
  /** A record is sent. */
  sent(stream: string, name: string): void;
  /**
   * Whether a stream without a row is one that had a row. With the lock on groups its opening record would have been received first; without
   * it only an oracle knows.
   */
  isGone(stream: string): boolean;
  /** The close record of a stream is acknowledged. */
  closed(stream: string, lsn: number): void;
  /** A stream is retired at an LSN, since nothing was heard of it for 15 days. */
  expires(stream: string, lsn: number): void;
}

/** A record as it is sent, each time the same. Without an item it is an opening record, a heartbeat or a close record. */
interface Sending {
  readonly record: SqsRecord;
  readonly item: Item | undefined;
  readonly body: string;
  readonly since: number;
  /** An attempt may be stored, now or later. */
  isInDoubt: boolean;
  attempts: number;
}

interface OwnStream extends RowStream {
  nextLsn: number;
  /** The last acknowledged record. */
  acknowledged: { readonly lsn: number; readonly heard: number };
  sentAt: number;
}

/** A client waits for so long at most, in ms. */
const ACK_TIMEOUT_MS = 200;
const PACE = { journal: 'sqs', restMs: 14, rowRestMs: 28, troubleOneIn: 30, ackTimeoutMs: ACK_TIMEOUT_MS } as const;
/** The hour after which a send without an answer ends the stream, in ms. */
const SUSPENDED_MS = 450;
/** A living writer sends at least one record in so long. The day of the rule, in ms. */
const HEARTBEAT_MS = 700;

/** One process. */
export class SqsWriter extends RowWriter<SqsWorld, OwnStream> {
  readonly #mutations: SqsWalkMutations;
  readonly #queue: Queue;
  /** Of so many pieces of work one is a record, if anything is in hand. */
  readonly #sendOneIn: number;
  /** Sent and not settled; more than one in {@link SqsWalkMutations.sendsAhead} and `repeatsBehind` only. */
  #sending: Sending[] = [];

  constructor(world: SqsWorld, mutations: SqsWalkMutations, name: string) {
    super(world, name, mutations, PACE);
    this.#mutations = mutations;
    this.#sendOneIn = world.random.pick([1, 1, 2, 10]);
    this.#queue = world.queue.connect(this.life);
    this.note(() => ' starts');
    this.work();
  }

  override crash(): void {
    super.crash();
    this.#sending = [];
  }

  protected override get sent(): readonly Item[] {
    return this.#sending.flatMap(({ item }) => (item === undefined ? [] : [item]));
  }

  protected override newStream(name: string): OwnStream {
    return {
      name,
      isCovered: false,
      isRowGone: false,
      nextLsn: 1,
      acknowledged: { lsn: 0, heard: 0 },
      sentAt: this.world.scheduler.now,
    };
  }

  protected override async write(own: OwnStream): Promise<void> {
    const { random, scheduler } = this.world;
    const { ignoresRetirement, heartbeatOverHand, closesEarly } = this.#mutations;
    if (own.isRowGone && ignoresRetirement !== true) {
      this.leave(own, 'its row is retired or gone');
      return;
    }
    if (this.#sending.length > 0) {
      await Promise.all(this.#sending.map((sending) => this.#attempt(own, sending)));
      return;
    }
    if (own.acknowledged.lsn === 0) {
      this.#next(own, undefined);
    } else if (this.hand.length > 0 && !(this.isStopping && closesEarly === true)) {
      const isNewer = this.heard > own.acknowledged.heard;
      if (heartbeatOverHand === true && isNewer && random.below(4) === 0) this.#next(own, undefined);
      else if (random.below(this.#sendOneIn) === 0) this.#next(own, this.hand.shift());
    } else if (this.isStopping) {
      await this.#end(own);
    } else if (
      (this.heard > own.acknowledged.heard && random.below(3) === 0) ||
      own.sentAt < scheduler.now - HEARTBEAT_MS
    ) {
      this.#next(own, undefined);
    }
  }

  /** The next record. Each number is used once. */
  #next(own: OwnStream, item: Item | undefined, isClose = false): Sending {
    const { timeOfSending, namesLastUsed, sendsAhead } = this.#mutations;
    const ahead = sendsAhead === true && item !== undefined ? this.hand.shift() : undefined;
    const heard = item === undefined || timeOfSending === true ? this.heard : item.heard;
    const record: SqsRecord = {
      token: item?.request.name ?? '',
      isPlain: item?.request.isPlain ?? true,
      heard,
      lsn: own.nextLsn,
      follows: namesLastUsed === true ? own.nextLsn - 1 : own.acknowledged.lsn,
      isClose,
    };
    own.nextLsn += 1;
    const since = item?.since ?? this.world.scheduler.now;
    const sending = { record, item, body: encodeRecord(record), since, isInDoubt: false, attempts: 0 };
    this.#sending.push(sending);
    if (ahead !== undefined) this.#next(own, ahead);
    return sending;
  }

  /** The process may be stopped between its look at the clock and the request. */
  async #attempt(own: OwnStream, sending: Sending): Promise<void> {
    const { random, scheduler } = this.world;
    const { sharedDeduplicationId, repeatsForEver } = this.#mutations;
    const { record, body } = sending;
    const { lsn } = record;
    if (repeatsForEver !== true && sending.isInDoubt && sending.since < scheduler.now - SUSPENDED_MS) {
      this.leave(own, `LSN ${lsn} has had no answer for an hour`);
      return;
    }
    if (this.#isOverdue(sending)) {
      this.#giveUp(own, sending);
      return;
    }
    sending.attempts += 1;
    await this.pause(random.below(3));
    if (this.life.isOver || this.own !== own) return;
    const deduplicationId = sharedDeduplicationId === true ? String(lsn) : `${own.name}:${lsn}`;
    this.note(() => ` sends ${record.token} as LSN ${lsn} of ${own.name}, after ${record.follows}`);
    this.world.sent(own.name, record.token);
    own.sentAt = scheduler.now;
    // What becomes of the request is not known before its answer.
    const wasInDoubt = sending.isInDoubt;
    sending.isInDoubt = true;
    const outcome = await this.#queue.send({ group: own.name, deduplicationId, body });
    if (this.life.isOver || this.own !== own || !this.#sending.includes(sending)) return;
    sending.isInDoubt = wasInDoubt;
    this.#judge(own, sending, outcome);
  }

  #isOverdue({ record, isInDoubt, since, attempts }: Sending): boolean {
    const { openingRecordGivenUp, repeatsBehind, repeatsForEver } = this.#mutations;
    if (!isInDoubt || repeatsBehind === true) return false;
    if (record.lsn === 1 && openingRecordGivenUp !== true) return false;
    if (repeatsForEver === true) return since < this.world.scheduler.now - ACK_TIMEOUT_MS && attempts > 8;
    return since < this.world.scheduler.now - ACK_TIMEOUT_MS;
  }

  #judge(own: OwnStream, sending: Sending, outcome: SendOutcome): void {
    const { refusedAfterUnknown, repeatsBehind } = this.#mutations;
    const { record, item } = sending;
    this.note(() => `, LSN ${record.lsn} of ${own.name}: ${outcome.kind}`);
    switch (outcome.kind) {
      case 'sent':
        this.#drop(sending);
        if (record.lsn > own.acknowledged.lsn) own.acknowledged = { lsn: record.lsn, heard: record.heard };
        if (record.isClose) {
          own.isRowGone = true;
          this.world.closed(own.name, record.lsn);
        }
        if (item === undefined) return;
        this.acknowledge(own.name, [item]);
        return;
      case 'refused':
        if (record.lsn === 1 || (sending.isInDoubt && refusedAfterUnknown !== true)) return;
        this.#drop(sending);
        if (item !== undefined) this.settle([item], 'refused');
        return;
      case 'unknown':
        sending.isInDoubt = true;
        if (this.world.sleepsInDoubt) this.world.sleep(this);
        if (repeatsBehind === true && record.lsn > 1 && this.#sending.length < 3) this.#next(own, this.hand.shift());
    }
  }

  /** The client gets 500. The number is never used again, and no later answer counts. */
  #giveUp(own: OwnStream, sending: Sending): void {
    const { reusesNumber, timeoutIsRefused } = this.#mutations;
    const { record, item } = sending;
    this.note(() => ` gives up LSN ${record.lsn} of ${own.name}`);
    this.#drop(sending);
    if (reusesNumber === true) own.nextLsn = record.lsn;
    if (record.lsn === 1) own.acknowledged = { lsn: 1, heard: record.heard };
    if (item !== undefined) this.settle([item], timeoutIsRefused === true ? 'refused' : 'unknown');
  }

  #drop(sending: Sending): void {
    this.#sending = this.#sending.filter((other) => other !== sending);
  }

  /** What was sent and not answered may still be stored. */
  protected override leave(own: OwnStream, why: string): void {
    const sending = this.#sending;
    this.#sending = [];
    super.leave(own, why);
    for (const { item, isInDoubt } of sending) {
      if (item !== undefined) this.settle([item], this.outcomeOf(isInDoubt));
    }
  }

  /** A clean stop: a close record, after everything else. Without an answer, age ends the stream. */
  async #end(own: OwnStream): Promise<void> {
    this.note(() => ` stops, and closes ${own.name}`);
    const { closesEarly } = this.#mutations;
    const close = this.#next(own, undefined, true);
    while (this.#sending.includes(close) && !this.life.isOver) await this.#attempt(own, close);
    if (this.life.isOver) return;
    if (closesEarly !== true) {
      this.crash();
      return;
    }
    own.isRowGone = false;
    while (this.hand.length > 0 && !this.life.isOver) {
      const late = this.#next(own, this.hand.shift());
      while (this.#sending.includes(late) && !this.life.isOver) await this.#attempt(own, late);
    }
    this.crash();
  }

  protected override async keepRow(own: OwnStream): Promise<void> {
    if (this.world.random.below(4) === 0) await this.withDatabase((session) => this.ask(session, own));
  }
}
