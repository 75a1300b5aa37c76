/**
 * A process that writes streams of the nats journal. One that serves also flushes what it has written, from memory, until somebody
 * takes its flushes.
 *
 * ```text
 * writing → fenced, or its row is gone: no stream
 *
 * in hand → group sent → stored: acknowledged
 *                      → refused: 503, unless an attempt before it may be stored
 *                      → no answer: in doubt → the same bytes with the same expectation
 *                      → mismatch: in doubt → what the stream holds decides
 * ```
 */
import type { Broker, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Row } from '../../database/values.js';
import { ANY_SEQUENCE, type SimulatedBroker } from '../../simulated-broker.js';
import { type Position, positionOf, type WalkWorld } from '../process.js';
import { type RowStream, RowWriter } from '../row-writer.js';
import { emptyRecord, type WalkRecord } from '../walk-flush.js';
import type { Item, ServedStream } from '../writer.js';
import { decodeMessage, encodeMessage, FENCE, type PlacedMessage, reachedLsn } from './nats-message.js';
import type { NatsWalkMutations } from './nats-mutations.js';
import { purge, readStream } from './stream-reader.js';

/** What a process needs of its world. */
export interface NatsWorld extends WalkWorld {
  readonly broker: SimulatedBroker;
}

/** A group as it is sent, each time the same. Without items it is an opening record or a heartbeat. */
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

interface OwnStream extends RowStream, ServedStream {
  /** The last acknowledged record. */
  acknowledged: { readonly lsn: number; readonly sequence: number; readonly heard: number };
  /** Of the last message that it knows. */
  lastSequence: number;
}

const PACE = { journal: 'nats', restMs: 12, rowRestMs: 12, troubleOneIn: 25, ackTimeoutMs: 250 } as const;

/** One process. */
export class NatsWriter extends RowWriter<NatsWorld, OwnStream> {
  readonly #mutations: NatsWalkMutations;
  readonly #serves: boolean;
  readonly #broker: Broker;
  /** Of so many pieces of work one is a publish, if anything is in hand. */
  readonly #publishOneIn: number;
  /** Sent and not settled; more than one in {@link NatsWalkMutations.pipelined} only. */
  #doubt: Group[] = [];

  constructor(world: NatsWorld, mutations: NatsWalkMutations, name: string, serves: boolean) {
    super(world, name, mutations, PACE);
    this.#mutations = mutations;
    this.#serves = serves;
    this.#publishOneIn = world.random.pick([1, 1, 2, 12]);
    this.#broker = world.broker.connect(this.life);
    this.note(() => ` starts, ${serves ? 'it serves' : 'it only writes'}`);
    this.work();
  }

  override crash(): void {
    super.crash();
    this.#doubt = [];
  }

  protected override get sent(): readonly Item[] {
    return this.#doubt.flatMap(({ items }) => items);
  }

  protected override newStream(name: string): OwnStream {
    return {
      name,
      isCovered: false,
      isRowGone: false,
      acknowledged: { lsn: 0, sequence: 0, heard: 0 },
      lastSequence: 0,
      flushes: undefined,
      memory: [],
    };
  }

  protected override async write(own: OwnStream): Promise<void> {
    const { random } = this.world;
    const [doubt] = this.#doubt;
    if (doubt !== undefined) return this.#publish(own, doubt);
    if (own.isRowGone) {
      this.#leaveAt(own, own.acknowledged.lsn);
      return;
    }
    if (own.acknowledged.lsn === 0) return this.#send(own, []);
    if (this.hand.length > 0) {
      if (random.below(this.#publishOneIn) === 0) await this.#sendHand(own);
      return;
    }
    if (this.isStopping) return this.#end(own);
    if (this.heard > own.acknowledged.heard && random.below(3) === 0) return this.#send(own, []);
  }

  /** A group that was sent stays in doubt. */
  protected override timeOut(): void {
    this.settle(
      this.sent.filter((item) => this.isLate(item)),
      'unknown',
    );
    super.timeOut();
  }

  protected override async makeRow(session: SimulatedSession, own: OwnStream): Promise<Row | undefined> {
    const row = await super.makeRow(session, own);
    if (row !== undefined && this.#serves) own.flushes = { ...positionOf(row), lsn: 0 };
    return row;
  }

  /** Sends all or some of what is in hand. */
  async #sendHand(own: OwnStream): Promise<void> {
    const take = (): readonly Item[] => this.hand.splice(0, 1 + this.world.random.below(this.hand.length));
    const items = take();
    if (this.#mutations.pipelined !== true || this.hand.length === 0) return this.#send(own, items);
    const first = this.#group(own.acknowledged.lsn + 1, own.lastSequence, items);
    const predicted = this.#mutations.secondExpectsNothing === true ? ANY_SEQUENCE : own.lastSequence + 1;
    const second = this.#group(first.lastLsn + 1, predicted, take());
    this.#doubt = [first, second];
    const outcomes = [first, second].map(({ data, expectedSequence }) =>
      this.#broker.publish(own.name, data, expectedSequence),
    );
    const [ofFirst, ofSecond] = await Promise.all(outcomes);
    if (this.life.isOver || ofFirst === undefined || ofSecond === undefined) return;
    if (ofSecond.kind === 'published') this.settle(second.items, 'acknowledged');
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
    const idempotent = [...items, ...this.hand].filter(({ request }) => !request.isPlain);
    return Math.min(this.heard, ...idempotent.map((item) => item.heard));
  }

  async #publish(own: OwnStream, group: Group): Promise<void> {
    const { items, firstLsn, expectedSequence, data } = group;
    this.note(() => {
      const names = items.map(({ request }) => request.name).join(' ');
      return ` sends ${names} from LSN ${firstLsn} of ${own.name}, expecting ${expectedSequence}`;
    });
    const outcome = await this.#broker.publish(own.name, data, expectedSequence);
    if (!this.life.isOver) await this.#judge(own, group, outcome);
  }

  async #judge(own: OwnStream, group: Group, outcome: PublishOutcome): Promise<void> {
    this.note(() => `, LSN ${group.firstLsn} of ${own.name}: ${outcome.kind}`);
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
        this.settle(group.items, 'refused');
        return;
      case 'unknown':
        group.isInDoubt = true;
        if (this.#mutations.otherBytesAtLsn !== true) return;
        this.#drop(group);
        this.settle(group.items, 'unknown');
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
    this.note(() => {
      const texts = found.map(({ sequence, firstLsn, isFence }) => `${sequence}:${isFence ? 'fence' : firstLsn}`);
      return ` finds ${texts.join(' ')} in ${own.name}, reaches ${reached}`;
    });
    const isFenced = lastMessageOnly === true ? last?.isFence === true : found.some(({ isFence }) => isFence);
    const isGone = lsn > 0 && !isFenced && !found.some((message) => !message.isFence && message.lastLsn >= lsn);
    if (isFenced || (isGone && lastMessageOnly !== true)) {
      this.#leaveAt(own, reached);
    } else if (lastIsOurs === true && last !== undefined && last.sequence > own.lastSequence) {
      this.#land(own, group, last.sequence, last.sequence);
    } else if (place !== undefined && last !== undefined && reached >= group.lastLsn) {
      this.#land(own, group, place.sequence, last.sequence);
    } else {
      group.expectedSequence = last?.sequence ?? own.lastSequence;
      own.lastSequence = group.expectedSequence;
      if (missingIsRefused !== true) return;
      this.#drop(group);
      this.settle(group.items, 'refused');
    }
  }

  async #read({ name, acknowledged }: OwnStream, lastOnly: boolean): Promise<readonly PlacedMessage[]> {
    if (!lastOnly) return readStream(this.#broker, this.world.random, name, acknowledged.sequence);
    const last = await this.#broker.last(name);
    return last === undefined ? [] : [decodeMessage(last)];
  }

  #land(own: OwnStream, group: Group, sequence: number, lastSequence: number): void {
    const { items, records, lastLsn } = group;
    this.#drop(group);
    own.acknowledged = { lsn: lastLsn, sequence, heard: records.at(-1)?.heard ?? 0 };
    own.lastSequence = lastSequence;
    if (own.flushes !== undefined) own.memory.push(...records);
    this.acknowledge(own.name, items);
  }

  /** What was sent and is not found may still be stored. */
  #leaveAt(own: OwnStream, reached: number): void {
    const groups = this.#doubt;
    this.#doubt = [];
    this.leave(own, `it ends with LSN ${reached}`);
    for (const { lastLsn, items, isInDoubt } of groups) {
      this.settle(items, lastLsn <= reached ? 'acknowledged' : this.outcomeOf(isInDoubt));
    }
  }

  /** A clean stop: its own fence. */
  async #end(own: OwnStream): Promise<void> {
    this.note(() => ` stops, and fences ${own.name}`);
    await this.#broker.publish(own.name, encodeMessage(FENCE), own.lastSequence);
    this.crash();
  }

  protected override keepRow(own: OwnStream): Promise<void> {
    const { random } = this.world;
    return this.withDatabase(async (session) => {
      if (own.flushes !== undefined && random.below(2) === 0) await this.#flush(session, own, own.flushes);
      else if (random.below(4) === 0) await this.ask(session, own);
    });
  }

  async #flush(session: SimulatedSession, own: OwnStream, flushes: Position): Promise<void> {
    const isCommitted = await this.flushMemory(session, own);
    if (!isCommitted || this.world.random.below(3) > 0) return;
    await purge(this.#broker, this.world, this.#mutations, own.name, flushes.lsn);
  }
}
