/**
 * A process that flushes streams of the sqs journal, retires those that have ended, and opens retired ones again that go on, in the
 * simplest way that follows the protocol. It cannot choose what it receives.
 *
 * ```text
 * received → its stream's row read, made or opened again → in memory → flushed → deleted
 *          → not above the last LSN: kept until that is committed, and deleted
 *          → names an LSN above the last: left
 *          → no row, and not LSN 1: put aside, and deleted
 *
 * flush → applied
 *       → not applied, or no reply: memory dropped, and the row read again
 *
 * close record flushed, or no record for 15 days: retired → window and 15 days: tombstone deleted
 * ```
 */
import * as streams from '#product/db/stream-statements.js';
import * as owner from '#product/db/statements.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Row } from '../../database/values.js';
import { BATCH_MAX, type Queue } from '../../simulated-queue.js';
import { Flusher, type HeldStream } from '../flusher.js';
import { expectTrouble, positionOf } from '../process.js';
import { DIGEST, valuesOfFlush } from '../walk-flush.js';
import type { SqsWalkMutations } from './sqs-mutations.js';
import { byStream, type ReceivedRecord, type SqsRecord, withoutGaps } from './sqs-record.js';
import type { SqsWorld } from './sqs-writer.js';

/** A message that it holds. */
interface HeldMessage {
  readonly lsn: number;
  readonly receipt: string;
}

/** A stream of which it has received something. Its LSN is what is committed, as far as it knows. */
interface Held extends HeldStream {
  /** What it has received above `lsn`, in order. */
  records: readonly SqsRecord[];
  messages: readonly HeldMessage[];
  /** The LSN of a close record that it has received; its message is deleted once the row is retired. */
  closedAt: number | undefined;
}

const PACE = { restMs: 8, troubleOneIn: 40, troubles: ['crash', 'loseConnection', 'loseConnection', 'sleep'] } as const;
/** How long a message stays in flight, and how often that is extended, in ms. 15 and 5 s of the rule. */
const VISIBILITY_MS = 60;
const EXTEND_MS = 20;
/** How long the queue waits for a message, in ms. */
const WAITS_MS = [0, 10, 50] as const;

/** One process. A careful one meets with no trouble. */
export class SqsConsumer extends Flusher<SqsWorld, Held> {
  readonly #mutations: SqsWalkMutations;
  readonly #expiryMs: number;
  readonly #queue: Queue;
  /** Receipts of messages whose rows it is about to read. */
  #reading: readonly string[] = [];

  /** Streams without a record for `expiryMs` are retired. */
  constructor(world: SqsWorld, mutations: SqsWalkMutations, name: string, expiryMs: number, isCareful = false) {
    super(world, name, isCareful, PACE);
    this.#mutations = mutations;
    this.#expiryMs = mutations.retiresEarly === true ? expiryMs / 10 : expiryMs;
    this.#queue = world.queue.connect(this.life);
    this.note(() => ' starts');
    this.begin(this.work(), this.#extend());
  }

  protected override async step(session: SimulatedSession, held: Held | undefined): Promise<void> {
    const { random } = this.world;
    if (held === undefined || random.below(4) === 0) {
      if (random.below(8) === 0) await this.#keepRows(session);
      else await this.#receive(session);
      return;
    }
    if (!this.isCareful && random.below(30) === 0) {
      this.drop(held);
      return;
    }
    if (held.records.length > 0 && random.below(4) > 0) await this.#flushSome(session, held);
    else await this.#deleteUpTo(held, held.lsn);
    if (!this.holds(held) || held.records.length > 0) return;
    if (this.#mutations.touchesAtEnd === true) await this.touchWithTime(session, held.stream, held);
    if (held.closedAt === held.lsn) await this.#end(session, held);
    if (held.messages.length === 0 && !this.life.isOver) this.held.delete(held.stream);
  }

  async #receive(session: SimulatedSession): Promise<void> {
    const { random } = this.world;
    const messagesMax = random.pick([1, 3, BATCH_MAX]);
    const waitMs = this.held.size > 0 ? 0 : random.pick(WAITS_MS);
    const messages = await this.#queue.receive({ messagesMax, waitMs, visibilityMs: VISIBILITY_MS });
    try {
      this.#reading = messages.map(({ receipt }) => receipt);
      await this.#apply(session, byStream(messages));
    } finally {
      this.#reading = [];
    }
  }

  async #apply(session: SimulatedSession, messages: ReadonlyMap<string, readonly ReceivedRecord[]>): Promise<void> {
    for (const [stream, received] of messages) {
      if (this.life.isOver) return;
      this.note(() => ` receives ${textOf(received)} of ${stream}`);
      const held = this.held.get(stream) ?? (await this.#take(session, stream, received));
      if (held === undefined || this.life.isOver) continue;
      const left = received.findIndex((one) => !this.#add(held, one));
      if (left >= 0) await this.#release(received.slice(left).map(({ receipt }) => receipt));
    }
  }

  /** Drops what it has, and stops at a record whose predecessor it has not. */
  #add(held: Held, { record, receipt }: ReceivedRecord): boolean {
    const { countsCopies, ignoresPredecessor, deletesDropped } = this.#mutations;
    const { lsn, follows } = record;
    const last = held.records.at(-1)?.lsn ?? held.lsn;
    if (lsn > last && follows > last && ignoresPredecessor !== true) {
      this.note(() => ` leaves LSN ${lsn} of ${held.stream}, it follows ${follows}`);
      return false;
    }
    if (lsn > last) held.records = [...held.records, record];
    else if (countsCopies === true) held.records = [...held.records, { ...record, lsn: last + 1 }];
    else if (deletesDropped === true) this.#queue.delete([receipt]).catch(expectTrouble);
    if (record.isClose) held.closedAt = lsn;
    held.messages = [...held.messages, { lsn, receipt }];
    return true;
  }

  /** They may be received at once; without an answer, when their visibility ends. The last goes first: a group keeps its order. */
  async #release(receipts: readonly string[]): Promise<void> {
    if (receipts.length === 0 || this.world.random.below(3) === 0) return;
    await this.#queue.changeVisibility(receipts.toReversed(), 0);
  }

  /** Reads the row, makes it for a stream that begins with LSN 1, or opens it again for one that goes on. */
  async #take(
    session: SimulatedSession,
    stream: string,
    received: readonly ReceivedRecord[],
  ): Promise<Held | undefined> {
    const { neverReopens, ignoresRetiredRow } = this.#mutations;
    const [row] = await session.query<Row>({ text: owner.READ_BACK, values: [stream] });
    if (this.life.isOver) return undefined;
    if (row === undefined) return this.#makeOrOpen(session, stream, received);
    if (row['retired'] !== true || ignoresRetiredRow === true) return this.#hold(stream, row, 'reads');
    const lsn = Number(row['lsn']);
    const next = received.find(({ record }) => record.lsn > lsn)?.record;
    // One whose predecessor is missing opens nothing.
    if (next !== undefined && next.follows > lsn) return undefined;
    if (next !== undefined && neverReopens !== true) return this.#makeOrOpen(session, stream, received);
    await this.#queue.delete(received.map(({ receipt }) => receipt));
    return undefined;
  }

  async #makeOrOpen(
    session: SimulatedSession,
    stream: string,
    received: readonly ReceivedRecord[],
  ): Promise<Held | undefined> {
    const { anyRecordMakesRow } = this.#mutations;
    const first = received[0]?.record.lsn ?? 0;
    let isMissing = false;
    let isMade = false;
    const row = await this.take(session, stream, async (run, found) => {
      isMissing = found?.['epoch'] === null;
      isMade = isMissing && (first === 1 || anyRecordMakesRow === true);
      const lsn = Number(found?.['lsn'] ?? 0);
      const values = this.rowOf(stream, 'sqs', first - 1);
      if (isMade) return run(owner.MAKE_CHECKPOINT, values);
      const goesOn = found?.['retired'] === true && received.some(({ record }) => record.lsn > lsn);
      return goesOn ? run(streams.TAKE_FLUSHES, [stream, null]) : [];
    });
    if (this.life.isOver) return undefined;
    if (row !== undefined) return this.#hold(stream, row, isMade ? 'makes' : 'opens');
    if (isMissing && !isMade && this.world.isGone(stream)) await this.#putAside(stream, received);
    return undefined;
  }

  #hold(stream: string, row: Row, how: string): Held {
    const held = { stream, ...positionOf(row), records: [], messages: [], closedAt: undefined };
    this.held.set(stream, held);
    this.note(() => ` ${how} ${stream} at LSN ${held.lsn}, epoch ${held.epoch}`);
    return held;
  }

  /** Nobody can tell what of such a stream is counted. */
  async #putAside(stream: string, received: readonly ReceivedRecord[]): Promise<void> {
    const { database } = this.world;
    if (database.isDead) return;
    this.note(() => ` puts ${textOf(received)} of ${stream} aside: it has no row`);
    database.putAside(
      received
        .map(({ record }) => record)
        .filter(({ token }) => token !== '')
        .map(({ token, isPlain, lsn, heard }) => ({
          ...{ stream, lsn, key: token, amount: 1n, token: isPlain ? '' : token, digest: DIGEST },
          acceptedAfter: 1000 * heard,
        })),
    );
    await this.#queue.delete(received.map(({ receipt }) => receipt));
  }

  async #flushSome(session: SimulatedSession, held: Held): Promise<void> {
    const { random } = this.world;
    const { deletesBeforeCommit, countsUncovered } = this.#mutations;
    const records = held.records.slice(0, 1 + random.below(held.records.length));
    const toLsn = records.at(-1)?.lsn ?? held.lsn;
    const position = countsUncovered === true ? { ...held, coveredFrom: 0 } : held;
    const values = valuesOfFlush(held.stream, position, withoutGaps(records, held.lsn));
    if (deletesBeforeCommit === true) await this.#deleteUpTo(held, toLsn);
    let isApplied: boolean;
    try {
      isApplied = await this.flush(session, values);
    } catch (error) {
      if (!this.life.isOver) this.#forget(held, 'no reply');
      throw error;
    }
    if (this.life.isOver) return;
    if (isApplied) this.#committed(held, toLsn);
    else await this.#missed(session, held);
  }

  #committed(held: Held, lsn: number): void {
    this.note(() => ` flushes ${held.stream} to ${lsn}`);
    held.records = held.records.filter((record) => record.lsn > lsn);
    held.lsn = lsn;
  }

  /** The row was not where it was: another consumer has flushed, or somebody has retired it. */
  async #missed(session: SimulatedSession, held: Held): Promise<void> {
    const { missIsOurs, flushesOnTop } = this.#mutations;
    const records = held.records;
    this.#forget(held, 'its flush applied to nothing');
    const [row] = await session.query<Row>({ text: owner.READ_BACK, values: [held.stream] });
    if (this.life.isOver || row === undefined || row['retired'] === true) return;
    const position = positionOf(row);
    if (missIsOurs === true && position.lsn > held.lsn) position.lsn = Math.max(position.lsn, records.at(-1)?.lsn ?? 0);
    if (flushesOnTop === true) {
      let lsn = position.lsn;
      held.records = records.map((record) => ({ ...record, lsn: (lsn += 1) }));
    }
    Object.assign(held, position);
    if (flushesOnTop !== true) held.messages = held.messages.filter(({ lsn }) => lsn <= position.lsn);
    this.held.set(held.stream, held);
  }

  /** What it has in memory is received again, when its visibility ends. */
  #forget(held: Held, why: string): void {
    this.note(() => ` forgets ${held.stream}: ${why}`);
    const { flushesOnTop } = this.#mutations;
    this.held.delete(held.stream);
    if (flushesOnTop !== true) held.records = [];
  }

  protected override drop(held: Held): void {
    super.drop(held);
    this.#release(held.messages.map(({ receipt }) => receipt)).catch(expectTrouble);
  }

  /** Some of the messages whose records are committed. */
  async #deleteUpTo(held: Held, lsn: number): Promise<void> {
    const isKept = (message: HeldMessage): boolean =>
      message.lsn === held.closedAt && this.#mutations.deletesCloseFirst !== true;
    const deletable = held.messages.filter((one) => one.lsn <= lsn && !isKept(one)).slice(0, BATCH_MAX);
    if (deletable.length === 0) return;
    const results = await this.#queue.delete(deletable.map(({ receipt }) => receipt));
    this.note(() => ` deletes LSN ${deletable.map((one) => one.lsn).join(' ')} of ${held.stream}`);
    // One that is not deleted is received again; its old handle is of no use.
    if (results.length > 0) held.messages = held.messages.filter((message) => !deletable.includes(message));
  }

  /** Extends the visibility of what it has in memory, and of what it waits with for the row. */
  async #extend(): Promise<void> {
    while (!this.life.isOver) {
      await this.pause(EXTEND_MS);
      if (this.#mutations.neverExtends === true) return;
      const held = [...this.held.values()].flatMap(({ messages, records }) => {
        const last = records.at(-1)?.lsn ?? 0;
        return messages.filter(({ lsn }) => lsn <= last).map(({ receipt }) => receipt);
      });
      const receipts = [...new Set([...this.#reading, ...held])];
      for (let from = 0; from < receipts.length && !this.life.isOver; from += BATCH_MAX) {
        await this.#queue.changeVisibility(receipts.slice(from, from + BATCH_MAX), VISIBILITY_MS).catch(expectTrouble);
      }
    }
  }

  /** The stream is flushed to its close record. Without an answer that is received again. */
  async #end(session: SimulatedSession, held: Held): Promise<void> {
    if (this.#mutations.deletesCloseFirst === true) await this.#deleteUpTo(held, held.lsn);
    if (this.life.isOver) return;
    await this.retireRow(session, held.stream, held);
    if (this.life.isOver) return;
    held.closedAt = undefined;
    await this.#deleteUpTo(held, held.lsn);
  }

  /** Retires what has had no record for 15 days, and deletes tombstones. */
  async #keepRows(session: SimulatedSession): Promise<void> {
    const { database } = this.world;
    const { clock, tables } = database;
    const { windowHourMs, tombstoneMs } = clock.scale;
    const expired = clock.now() - clock.span(this.#expiryMs);
    const isEarly = this.#mutations.dropsTombstoneEarly === true;
    const due = clock.now() - (isEarly ? 0 : clock.span(windowHourMs + tombstoneMs));
    for (const [stream, row] of [...tables.checkpoints]) {
      if (this.life.isOver) return;
      if (row.retiredAt === undefined && row.heardAt < expired) {
        if (this.#mutations.retiresEarly !== true) this.world.expires(stream, row.lsn);
        await this.retireRow(session, stream, row);
      } else if (row.retiredAt !== undefined && row.retiredAt < due && database.deleteStream(stream, true)) {
        this.note(() => ` deletes the tombstone of ${stream}`);
      }
    }
  }
}

function textOf(received: readonly ReceivedRecord[]): string {
  return received.map(({ record: { lsn, token } }) => (token === '' ? `${lsn}` : `${lsn} (${token})`)).join(', ');
}
