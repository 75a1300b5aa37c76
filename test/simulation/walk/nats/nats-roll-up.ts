/**
 * A process that flushes streams of the nats journal, ends those whose writers are gone, and opens retired ones again that go on,
 * in the simplest way that follows the protocol.
 *
 * ```text
 * found → row taken → read → flushed → ... → fence sent, and read → nothing above it: retired → purged to its first fence
 *
 * retired, and a record above its checkpoint: row taken again
 * ```
 */
import type { Broker } from '#product/shard-worker/journal/nats/broker.js';
import * as streams from '#product/db/stream-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../../database/session.js';
import type { CheckpointRow } from '../../database/tables.js';
import type { Row } from '../../database/values.js';
import { ANY_SEQUENCE } from '../../simulated-broker.js';
import { type Doubt, type ReadStream, RollUp } from '../flusher.js';
import { positionOf } from '../process.js';
import { emptyRecord, type WalkRecord } from '../walk-flush.js';
import { encodeMessage, FENCE, type PlacedMessage, reachedLsn } from './nats-message.js';
import type { NatsWalkMutations } from './nats-mutations.js';
import type { NatsWorld } from './nats-writer.js';
import { purge, readStream } from './stream-reader.js';

/** A stream that it has taken. */
interface Held extends ReadStream {
  /** Of the last message that it has read. */
  lastSequence: number;
  /** The sequence with which it has begun to read, until it has read what is before; 0: there is nothing. */
  leftOutTo: number;
  /** It has read the stream to its end at least once. */
  isRead: boolean;
  /** It has read a fence, and no record behind it. */
  isFenced: boolean;
  /** What follows is behind a gap. */
  hasGap: boolean;
}

const HELD_MAX = 4;
const PACE = {
  restMs: 12,
  troubleOneIn: 25,
  troubles: ['crash', 'loseConnection', 'loseConnection', 'sleep'],
} as const;

/** One process. A careful one meets with no trouble, and ends every stream. */
export class NatsRollUp extends RollUp<NatsWorld, Held> {
  readonly #mutations: NatsWalkMutations;
  readonly #broker: Broker;
  /** It ends one of so many streams that it may end, at each look. */
  readonly #endOneIn: number;
  /** When it first saw that a retired stream holds nothing but fences. */
  readonly #emptySince = new Map<string, number>();

  constructor(world: NatsWorld, mutations: NatsWalkMutations, name: string, isCareful = false) {
    super(world, name, isCareful, PACE);
    this.#mutations = mutations;
    this.#endOneIn = world.random.pick([1, 2, 4, 20]);
    this.#broker = world.broker.connect(this.life);
    this.note(() => ' starts');
    this.begin(this.work());
  }

  protected override async step(session: SimulatedSession, held: Held | undefined): Promise<void> {
    const { random } = this.world;
    if (held === undefined) {
      if (this.held.size === 0 || (this.held.size < HELD_MAX && random.below(2) === 0)) await this.#takeAny(session);
      return;
    }
    if (held.doubt !== undefined) return this.resolve(session, held, held.doubt);
    if (!this.isCareful && random.below(20) === 0) {
      this.drop(held);
      return;
    }
    if (random.below(4) > 0) await this.#read(held);
    if (this.holds(held) && held.hasGap) return this.#lookAtRow(session, held);
    if (this.holds(held) && held.records.length > 0 && random.below(4) > 0) await this.flushSome(session, held);
    if (this.holds(held) && held.doubt === undefined) await this.#endOrTouch(session, held);
  }

  async #endOrTouch(session: SimulatedSession, held: Held): Promise<void> {
    const { retiresUnfenced, retiresUnflushed, touchesAtEnd, neverReadsLeftOut } = this.#mutations;
    const isFlushed = held.records.length === 0 || retiresUnflushed === true;
    if (touchesAtEnd === true && held.isRead && held.records.length === 0) {
      await this.touchWithTime(session, held.stream, held);
    }
    if (!this.isCareful && this.world.random.below(this.#endOneIn) > 0) return;
    const isEnded = held.isFenced || (held.isRead && retiresUnfenced === true);
    if (isEnded && held.leftOutTo > 0 && neverReadsLeftOut !== true) return this.#readLeftOut(held);
    if (isEnded && isFlushed) return this.retire(session, held);
    if (!held.isFenced) await this.#fence(held);
  }

  /** Streams that have a row, and those that the broker has; who owns them plays no part. */
  async #takeAny(session: SimulatedSession): Promise<void> {
    const { random, database } = this.world;
    const found = await this.#broker.streams();
    const names = new Set([...database.tables.checkpoints.keys(), ...found.keys()]);
    const free = [...names].filter((stream) => !this.held.has(stream));
    const isDone = (stream: string): boolean => database.tables.checkpoints.get(stream)?.retiredAt !== undefined;
    const open = free.filter((stream) => !isDone(stream));
    const choice = open.length > 0 && random.below(3) > 0 ? open : free;
    if (choice.length > 0 && !this.life.isOver) await this.#take(session, random.pick(choice));
  }

  /** Without a row only a stream that begins with LSN 1 gets one; a retired one is opened again if it goes on. */
  async #take(session: SimulatedSession, stream: string): Promise<void> {
    const { neverReopens, anyRecordMakesRow } = this.#mutations;
    const messages = await readStream(this.#broker, this.world.random, stream, 0);
    const known = this.world.database.tables.checkpoints.get(stream);
    if (known?.retiredAt !== undefined && (reachedLsn(messages, known.lsn) === known.lsn || neverReopens === true)) {
      return this.#keepRetired(stream, known);
    }
    let how = 'takes';
    const row = await this.take(session, stream, async (run, found) => {
      const isMissing = found?.['epoch'] === null;
      const isRetired = found?.['retired'] === true;
      const lsn = Number(found?.['lsn'] ?? 0);
      const first = anyRecordMakesRow === true ? messages.find(({ isFence }) => !isFence) : messages[0];
      const begins = first?.firstLsn === 1 || (anyRecordMakesRow === true && first !== undefined);
      const goesOn = reachedLsn(messages, lsn) > lsn;
      const values = this.rowOf(stream, 'nats', anyRecordMakesRow === true ? (first?.firstLsn ?? 1) - 1 : 0);
      if ((isMissing && !begins) || (isRetired && !goesOn)) return [];
      how = isMissing ? 'makes' : isRetired ? 'opens' : 'takes';
      return isMissing ? run(owner.MAKE_CHECKPOINT, values) : run(streams.TAKE_FLUSHES, [stream, null]);
    });
    if (row !== undefined) this.#hold(stream, row, how, messages);
  }

  #hold(stream: string, row: Row, how: string, messages: readonly PlacedMessage[]): void {
    const position = positionOf(row);
    const { lsn, epoch } = position;
    const { readsFromFirst } = this.#mutations;
    const begin =
      readsFromFirst === true
        ? 0
        : (messages.findLast(({ isFence, lastLsn }) => !isFence && lastLsn <= lsn)?.sequence ?? 0);
    this.held.set(stream, {
      stream,
      ...position,
      records: [],
      lastSequence: Math.max(0, begin - 1),
      leftOutTo: begin,
      isRead: false,
      isFenced: false,
      hasGap: false,
      doubt: undefined,
    });
    this.note(() => ` ${how} ${stream} at LSN ${lsn}, epoch ${epoch}`);
  }

  async #read(held: Held): Promise<void> {
    const { stream } = held;
    const messages = await readStream(this.#broker, this.world.random, stream, held.lastSequence + 1);
    if (this.life.isOver || held.hasGap) return;
    for (const message of messages) {
      if (!this.#apply(held, message)) {
        if (held.leftOutTo > 0) {
          this.#beginAgain(held);
          return;
        }
        held.hasGap = true;
        this.note(() => `: LSN ${message.firstLsn} of ${stream} follows a gap`);
        return;
      }
      held.lastSequence = message.sequence;
    }
    held.isRead = true;
  }

  /** What is before the message with which it has begun. A record that is not read yet makes it begin again. */
  async #readLeftOut(held: Held): Promise<void> {
    const messages = await readStream(this.#broker, this.world.random, held.stream, 0);
    if (this.life.isOver) return;
    const last = held.lsn + held.records.length;
    const before = messages.filter(({ sequence }) => sequence < held.leftOutTo);
    if (before.some(({ isFence, lastLsn }) => !isFence && lastLsn > last)) this.#beginAgain(held);
    else held.leftOutTo = 0;
  }

  #beginAgain(held: Held): void {
    this.note(() => ` begins again with the first message of ${held.stream}`);
    held.leftOutTo = 0;
    held.lastSequence = 0;
    held.isRead = false;
    held.isFenced = false;
  }

  /** Drops what it has, and stops at a gap. */
  #apply(held: Held, { isFence, firstLsn, records }: PlacedMessage): boolean {
    const { countsCopies, readsOverGaps, stopsAtFence } = this.#mutations;
    if (stopsAtFence === true && held.isFenced) return true;
    const last = held.lsn + held.records.length;
    if (records.length > 0 && firstLsn > last + 1) {
      if (readsOverGaps !== true) return false;
      held.records = [...held.records, ...Array.from({ length: firstLsn - last - 1 }, () => emptyRecord(0))];
    }
    const end = held.lsn + held.records.length;
    const isNew = (_: WalkRecord, index: number): boolean => firstLsn + index > end || countsCopies === true;
    const added = records.filter(isNew);
    held.records = [...held.records, ...added];
    if (added.length > 0) held.isFenced = false;
    if (isFence) held.isFenced = true;
    return true;
  }

  /** An owner that comes after may have purged what is missing. */
  async #lookAtRow(session: SimulatedSession, held: Held): Promise<void> {
    const [row] = await session.query<Row>({ text: owner.READ_BACK, values: [held.stream] });
    if (!this.life.isOver && Number(row?.['epoch']) !== held.epoch) this.drop(held);
  }

  protected override async sendFlush(session: SimulatedSession, held: Held, doubt: Doubt): Promise<void> {
    if (this.#mutations.purgesBeforeCommit === true) await this.#purge(held, doubt.toLsn);
    await super.sendFlush(session, held, doubt);
  }

  protected override async committed(held: Held, toLsn: number): Promise<void> {
    await super.committed(held, toLsn);
    if (this.world.random.below(2) === 0) await this.#purge(held, toLsn);
  }

  #purge({ stream }: Held, lsn: number): Promise<void> {
    return purge(this.#broker, this.world, this.#mutations, stream, lsn);
  }

  /** A fence behind the last message that it has read. It counts once it is read, whatever becomes of its answer. */
  async #fence(held: Held): Promise<void> {
    const { fenceExpectsNothing, fenceReplyEnds, fenceTakesLsn } = this.#mutations;
    const { stream, lastSequence } = held;
    const expected = fenceExpectsNothing === true ? ANY_SEQUENCE : lastSequence;
    const firstLsn = held.lsn + held.records.length + 1;
    const fence = fenceTakesLsn === true ? { isFence: true, firstLsn, records: [emptyRecord(0)] } : FENCE;
    this.note(() => ` fences ${stream}, expecting ${expected}`);
    const outcome = await this.#broker.publish(stream, encodeMessage(fence), expected);
    if (this.life.isOver) return;
    this.note(() => `, fence of ${stream}: ${outcome.kind}`);
    if (outcome.kind === 'published' && fenceReplyEnds === true) held.isFenced = true;
    // Only a bug leaves a stream empty that was not.
    if (outcome.kind === 'mismatch' && (await this.#broker.last(stream)) === undefined) held.lastSequence = 0;
  }

  /** Purges a retired stream to its first fence. Its tombstone goes once nothing else has been left for some time. */
  async #keepRetired(stream: string, row: CheckpointRow): Promise<void> {
    const { database, random } = this.world;
    const { dropsTombstoneEarly } = this.#mutations;
    if (dropsTombstoneEarly !== true) await purge(this.#broker, this.world, this.#mutations, stream, row.lsn, true);
    const messages = await readStream(this.#broker, random, stream, 0);
    const { clock } = database;
    const { windowHourMs, tombstoneMs } = clock.scale;
    const isDue = (row.retiredAt ?? Infinity) < clock.now() - clock.span(windowHourMs + tombstoneMs);
    const isSafe = this.#isEmptyForLong(stream, messages) || dropsTombstoneEarly === true;
    if (!isDue || !isSafe || this.life.isOver || database.tables.checkpoints.get(stream) !== row) return;
    if (!database.deleteStream(stream, true)) return;
    this.note(() => ` deletes the tombstone of ${stream}`);
  }

  /** No replica has the records any more, so none shows LSN 1 to somebody who would make the row again. */
  #isEmptyForLong(stream: string, messages: readonly PlacedMessage[]): boolean {
    const { scheduler, broker } = this.world;
    const { now } = scheduler;
    if (!messages.every(({ isFence }) => isFence)) return false;
    const since = this.#emptySince.get(stream) ?? now;
    this.#emptySince.set(stream, since);
    return since < now - 2 * broker.lagMaxMs || this.#mutations.dropsTombstoneAtOnce === true;
  }
}
