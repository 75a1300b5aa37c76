/**
 * A process that writes streams of the nats journal, one at a time, in the simplest way that follows the protocol. One that serves
 * also flushes what it has written, from memory, until somebody takes its flushes.
 *
 * ```text
 * no stream → making its row (no reply: without it) → hello → writing → fenced, or its row is gone: no stream
 *
 * in hand → group sent → stored: acknowledged
 *                      → refused: 503, unless an attempt before it may be stored
 *                      → no answer: in doubt → the same bytes with the same expectation
 *                      → mismatch: in doubt → what the stream holds decides
 * ```
 */
import type { Broker, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import pg from 'pg';
import { ASK_STREAM } from '#product/db/log-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { WalkRequest, Outcome } from '../log-walk/walk-request.js';
import type { ProtocolWorld } from '../protocol-node.js';
import { Life } from '../scheduler.js';
import { ANY_SEQUENCE, type SimulatedBroker } from '../simulated-broker.js';
import { valuesOfFlush, type WalkRecord } from '../walk-flush.js';
import type { BrokerWalkMutations } from './broker-mutations.js';
import { purge, readStream } from './stream-reader.js';
import { expectTrouble } from './trouble.js';
import { decodeMessage, emptyRecord, encodeMessage, FENCE, type PlacedMessage, reachedLsn } from './walk-message.js';

/** What a process needs of its world. */
export interface BrokerWorld extends ProtocolWorld {
  readonly broker: SimulatedBroker;
  /** The end of an attempt. */
  settle(request: WalkRequest, outcome: Outcome): void;
  /** SIGSTOP, and SIGCONT some time later. */
  sleep(process: { readonly life: Life; readonly name: string }): void;
}

/** A request that is not in the stream yet, and how many attempts wait for it. */
interface Item {
  readonly request: WalkRequest;
  /** N as it was when the request was taken. */
  readonly heard: number;
  readonly since: number;
  waiting: number;
}

/** A group as it is sent, each time the same. Without items it is a hello or a heartbeat. */
interface Group {
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly items: readonly Item[];
  readonly records: readonly WalkRecord[];
  readonly data: Uint8Array;
  expectedSequence: number;
  /** An attempt may be stored, now or later. */
  isInDoubt: boolean;
}

interface OwnStream {
  readonly name: string;
  /** It has made its row, or seen it open. */
  isCovered: boolean;
  /** The row is retired, or gone. */
  isRowGone: boolean;
  /** The last acknowledged record. */
  acknowledged: { readonly lsn: number; readonly sequence: number; readonly heard: number };
  /** Of the last message that it knows. */
  lastSequence: number;
  /** The flushes; undefined: another process has them. */
  flushes: { readonly epoch: number; readonly coveredFrom: number; lsn: number } | undefined;
  /** What is not flushed yet, from the LSN after that of the flushes. */
  readonly memory: WalkRecord[];
}

const NODE = 'node';
/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 12;
const TROUBLE_ONE_IN = 25;
const HAND_MAX = 4;
/** A client waits for so long at most, in ms. */
const ACK_TIMEOUT_MS = 250;

/** One process. */
export class BrokerWriter {
  readonly life: Life;
  readonly name: string;
  readonly #world: BrokerWorld;
  readonly #mutations: BrokerWalkMutations;
  readonly #serves: boolean;
  readonly #broker: Broker;
  /** Of so many pieces of work one is a publish, if anything is in hand. */
  readonly #publishOneIn: number;
  #own: OwnStream | undefined;
  /** The largest time of a statement that saw the row of a stream open. */
  #heard = 0;
  #hand: Item[] = [];
  /** Sent and not settled; more than one in {@link BrokerWalkMutations.pipelined} only. */
  #doubt: Group[] = [];
  /** The idempotency keys that the present stream has. */
  readonly #window = new Set<string>();
  #session: SimulatedSession | undefined;
  #isStopping = false;

  constructor(world: BrokerWorld, mutations: BrokerWalkMutations, name: string, serves: boolean) {
    this.#world = world;
    this.#mutations = mutations;
    this.#serves = serves;
    this.#publishOneIn = world.random.pick([1, 1, 2, 12]);
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    this.#broker = world.broker.connect(this.life);
    world.note(() => `${name} starts, ${serves ? 'it serves' : 'it only writes'}`);
    for (const work of [this.#write(), this.#keepRow()]) work.catch((error: unknown) => world.violate(error));
  }

  /** kill -9: what is in hand or in doubt has no answer. */
  crash(): void {
    this.life.end();
    this.#settle([...this.#doubt.flatMap(({ items }) => items), ...this.#hand], 'unknown');
    this.#hand = [];
    this.#doubt = [];
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
    return [...this.#doubt.flatMap(({ items }) => items), ...this.#hand];
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
      try {
        await this.#step();
      } catch (error) {
        this.#expect(error);
      }
    }
  }

  async #step(): Promise<void> {
    const { random } = this.#world;
    if (random.below(TROUBLE_ONE_IN) === 0) this.#fallLater();
    this.#timeOut();
    const own = this.#own;
    if (own === undefined) {
      if (this.#isStopping) this.crash();
      else await this.#begin();
      return;
    }
    const [doubt] = this.#doubt;
    if (doubt !== undefined) return this.#publish(own, doubt);
    if (own.isRowGone) {
      this.#leave(own, own.acknowledged.lsn);
      return;
    }
    if (own.acknowledged.lsn === 0) return this.#send(own, []);
    if (this.#hand.length > 0) {
      if (random.below(this.#publishOneIn) === 0) await this.#sendHand(own);
      return;
    }
    if (this.#isStopping) return this.#end(own);
    if (this.#heard > own.acknowledged.heard && random.below(3) === 0) return this.#send(own, []);
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

  /** Clients do not wait any longer. A group that was sent stays in doubt. */
  #timeOut(): void {
    const isLate = ({ since }: Item): boolean => since < this.#world.scheduler.now - ACK_TIMEOUT_MS;
    this.#settle(this.#doubt.flatMap(({ items }) => items).filter(isLate), 'unknown');
    this.#settle(this.#hand.filter(isLate), 'refused');
    this.#hand = this.#hand.filter((item) => !isLate(item));
  }

  /** Makes the row of a new stream. Without a reply, or without the database, that is left to roll-ups. */
  async #begin(): Promise<void> {
    const { random, database } = this.#world;
    const own: OwnStream = {
      name: this.#world.uuid(),
      isCovered: false,
      isRowGone: false,
      acknowledged: { lsn: 0, sequence: 0, heard: 0 },
      lastSequence: 0,
      flushes: undefined,
      memory: [],
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
      found?.['epoch'] === null ? await run(owner.MAKE_CHECKPOINT, [own.name, ...claim, NODE, 0, 'nats', 0]) : [];
    await run(row === undefined ? owner.ROLL_BACK_TAKING : owner.COMMIT_TAKING);
    if (this.life.isOver || row === undefined) return;
    own.isCovered = true;
    this.#hear(found);
    const coveredFrom = Number(row['covered_from']);
    if (this.#serves) own.flushes = { epoch: Number(row['epoch']), coveredFrom, lsn: 0 };
  }

  #hear(row: Row | undefined): void {
    this.#heard = Math.max(this.#heard, Number(row?.['database_time'] ?? 0));
  }

  /** Sends all or some of what is in hand. */
  async #sendHand(own: OwnStream): Promise<void> {
    const take = (): readonly Item[] => this.#hand.splice(0, 1 + this.#world.random.below(this.#hand.length));
    const items = take();
    if (this.#mutations.pipelined !== true || this.#hand.length === 0) return this.#send(own, items);
    const first = this.#group(own.acknowledged.lsn + 1, own.lastSequence, items);
    const predicted = this.#mutations.secondExpectsNothing === true ? ANY_SEQUENCE : own.lastSequence + 1;
    const second = this.#group(first.lastLsn + 1, predicted, take());
    this.#doubt = [first, second];
    const outcomes = [first, second].map(({ data, expectedSequence }) =>
      this.#broker.publish(own.name, data, expectedSequence),
    );
    const [ofFirst, ofSecond] = await Promise.all(outcomes);
    if (this.life.isOver || ofFirst === undefined || ofSecond === undefined) return;
    if (ofSecond.kind === 'published') this.#settle(second.items, 'acknowledged');
    first.isInDoubt = second.isInDoubt = true;
    await this.#judge(own, first, ofFirst);
  }

  /** Without items it sends a record without increments. */
  async #send(own: OwnStream, items: readonly Item[]): Promise<void> {
    const group = this.#group(own.acknowledged.lsn + 1, own.lastSequence, items);
    this.#doubt = [group];
    await this.#publish(own, group);
  }

  #group(firstLsn: number, expectedSequence: number, items: readonly Item[]): Group {
    const heard = this.#oldest(items);
    const records =
      items.length === 0
        ? [emptyRecord(heard)]
        : items.map(({ request }) => ({ token: request.name, heard, isPlain: request.isPlain }));
    const data = encodeMessage({ isFence: false, firstLsn, records });
    const lastLsn = firstLsn + records.length - 1;
    return { firstLsn, lastLsn, items, records, data, expectedSequence, isInDoubt: false };
  }

  /**
   * N of a group: no idempotent request that it carries, or that waits behind it, was taken earlier. A plain one does not count,
   * since it may have been taken before the row was seen.
   */
  #oldest(items: readonly Item[]): number {
    const idempotent = [...items, ...this.#hand].filter(({ request }) => !request.isPlain);
    return Math.min(this.#heard, ...idempotent.map((item) => item.heard));
  }

  async #publish(own: OwnStream, group: Group): Promise<void> {
    const { items, firstLsn, expectedSequence, data } = group;
    this.#world.note(() => {
      const names = items.map(({ request }) => request.name).join(' ');
      return `${this.name} sends ${names} from LSN ${firstLsn} of ${own.name}, expecting ${expectedSequence}`;
    });
    const outcome = await this.#broker.publish(own.name, data, expectedSequence);
    if (!this.life.isOver) await this.#judge(own, group, outcome);
  }

  async #judge(own: OwnStream, group: Group, outcome: PublishOutcome): Promise<void> {
    this.#world.note(() => `${this.name}, LSN ${group.firstLsn} of ${own.name}: ${outcome.kind}`);
    switch (outcome.kind) {
      case 'published':
        this.#land(own, group, outcome.sequence, outcome.sequence);
        return;
      case 'reconnected':
        // It is sent again.
        return;
      case 'refused':
        if (group.isInDoubt) return;
        this.#drop(group);
        this.#settle(group.items, 'refused');
        return;
      case 'unknown':
        group.isInDoubt = true;
        if (this.#mutations.otherBytesAtLsn !== true) return;
        this.#drop(group);
        this.#settle(group.items, 'unknown');
        return;
      case 'mismatch':
        group.isInDoubt = true;
        await this.#look(own, group);
    }
  }

  #drop(group: Group): void {
    this.#doubt = this.#doubt.filter((other) => other !== group);
  }

  /** Reads from the last acknowledged record to the end. Only what is found decides, never what one read lacks. */
  async #look(own: OwnStream, group: Group): Promise<void> {
    const { lastMessageOnly, lastIsOurs, missingIsRefused } = this.#mutations;
    const found = await this.#read(own, lastMessageOnly === true);
    if (this.life.isOver) return;
    const { lsn } = own.acknowledged;
    const last = found.at(-1);
    // With one publish in flight an LSN that is found is never behind a gap.
    const reached = lastMessageOnly === true ? Math.max(lsn, last?.lastLsn ?? 0) : reachedLsn(found, lsn);
    const place = found.findLast(({ lastLsn, isFence }) => lastLsn >= group.lastLsn && !isFence);
    this.#world.note(() => {
      const texts = found.map(({ sequence, firstLsn, isFence }) => `${sequence}:${isFence ? 'fence' : firstLsn}`);
      return `${this.name} finds ${texts.join(' ')} in ${own.name}, reaches ${reached}`;
    });
    const isFenced = lastMessageOnly === true ? last?.isFence === true : found.some(({ isFence }) => isFence);
    const isGone = lsn > 0 && !isFenced && !found.some((message) => !message.isFence && message.lastLsn >= lsn);
    if (isFenced || (isGone && lastMessageOnly !== true)) {
      this.#leave(own, reached);
    } else if (lastIsOurs === true && last !== undefined && last.sequence > own.lastSequence) {
      this.#land(own, group, last.sequence, last.sequence);
    } else if (place !== undefined && last !== undefined && reached >= group.lastLsn) {
      this.#land(own, group, place.sequence, last.sequence);
    } else {
      group.expectedSequence = last?.sequence ?? own.lastSequence;
      own.lastSequence = group.expectedSequence;
      if (missingIsRefused !== true) return;
      this.#drop(group);
      this.#settle(group.items, 'refused');
    }
  }

  async #read({ name, acknowledged }: OwnStream, lastOnly: boolean): Promise<readonly PlacedMessage[]> {
    if (!lastOnly) return readStream(this.#broker, this.#world.random, name, acknowledged.sequence);
    const last = await this.#broker.last(name);
    return last === undefined ? [] : [decodeMessage(last)];
  }

  #land(own: OwnStream, group: Group, sequence: number, lastSequence: number): void {
    const { items, records, lastLsn } = group;
    this.#drop(group);
    own.acknowledged = { lsn: lastLsn, sequence, heard: records.at(-1)?.heard ?? 0 };
    own.lastSequence = lastSequence;
    if (own.flushes !== undefined) own.memory.push(...records);
    for (const { request } of items) if (!request.isPlain) this.#window.add(request.name);
    this.#settle(items, 'acknowledged');
  }

  /** The stream is over, for this process at least: what was sent and is not found may still be stored. */
  #leave(own: OwnStream, reached: number): void {
    this.#world.note(() => `${this.name} leaves ${own.name} at LSN ${reached}`);
    const groups = this.#doubt;
    const hand = this.#hand;
    const { sentIsRefused, carriesHand } = this.#mutations;
    this.#own = undefined;
    this.#doubt = [];
    this.#window.clear();
    for (const { lastLsn, items, isInDoubt } of groups) {
      const isRefused = !isInDoubt || sentIsRefused === true;
      this.#settle(items, lastLsn <= reached ? 'acknowledged' : isRefused ? 'refused' : 'unknown');
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

  /** A clean stop: its own fence. */
  async #end(own: OwnStream): Promise<void> {
    this.#world.note(() => `${this.name} stops, and fences ${own.name}`);
    await this.#broker.publish(own.name, encodeMessage(FENCE), own.lastSequence);
    this.crash();
  }

  /** What it asks and tells the database, beside its publishes. */
  async #keepRow(): Promise<void> {
    const { random, database } = this.#world;
    while (!this.life.isOver) {
      await this.#pause(5 + random.below(PACE_MS));
      const own = this.#own;
      if (own === undefined || own.isRowGone) continue;
      try {
        if (this.#session?.lost !== false) this.#session = await database.connect(this.life);
        if (own.flushes !== undefined && random.below(2) === 0) await this.#flush(this.#session, own);
        else if (random.below(4) === 0) await this.#ask(this.#session, own);
      } catch (error) {
        this.#expect(error);
        this.#session?.destroy();
      }
    }
  }

  /** Whether the row is open. A writer that has sent its hello makes no row; one that has never seen it waits for it. */
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

  async #flush(session: SimulatedSession, own: OwnStream): Promise<void> {
    const { flushes, memory, name } = own;
    if (flushes === undefined || memory.length === 0) return;
    const range = [...memory];
    const values = valuesOfFlush(name, flushes, range);
    const isCommitted = await this.#flushUntilKnown(session, own, values, flushes.lsn + range.length);
    if (this.life.isOver || isCommitted === undefined) return;
    if (!isCommitted) {
      this.#world.note(() => `${this.name} flushes ${name} no more`);
      own.flushes = undefined;
      memory.length = 0;
      return;
    }
    flushes.lsn += range.length;
    memory.splice(0, range.length);
    if (this.#world.random.below(3) === 0) await purge(this.#broker, this.#world, this.#mutations, name, flushes.lsn);
  }

  /** Without a reply the row tells. Undefined: the row tells that nothing has happened. */
  async #flushUntilKnown(
    session: SimulatedSession,
    { name, flushes }: OwnStream,
    values: readonly unknown[],
    toLsn: number,
  ): Promise<boolean | undefined> {
    let current: SimulatedSession = session;
    let isSent = false;
    while (!this.life.isOver && flushes !== undefined) {
      try {
        if (current.lost) {
          await this.#pause(5);
          current = this.#session = await this.#world.database.connect(this.life);
        }
        if (!isSent) {
          isSent = true;
          const [row] = await current.query<Row>({ text: owner.FLUSH_WITH_REJECTED, values });
          return row?.['fenced'] === 1;
        }
        const [row] = await current.query<Row>({ text: owner.READ_BACK, values: [name] });
        if (row === undefined || Number(row['epoch']) !== flushes.epoch) return false;
        if (Number(row['lsn']) === toLsn) return true;
        return Number(row['lsn']) === flushes.lsn ? undefined : false;
      } catch (error) {
        this.#expect(error);
        if (error instanceof pg.DatabaseError) return undefined;
      }
    }
    return undefined;
  }

  /** The database or the broker does not answer, or refuses. */
  #expect(error: unknown): void {
    const { message } = expectTrouble(error);
    this.#world.note(() => `${this.name}: ${message}`);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}
