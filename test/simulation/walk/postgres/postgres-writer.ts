/**
 * A process that writes streams of the postgres journal. One that serves also flushes what it has written, from memory, until
 * somebody takes its flushes.
 *
 * ```text
 * no stream → taking (no reply: no stream) → writing → fenced, or its rows are gone: no stream
 *
 * in hand → group sent → reply, or a duplicate: acknowledged
 *                      → no reply: in doubt → the same group again
 *                      → nothing appended: refused if it was never sent before; otherwise the last LSN decides
 * ```
 */
import pg from 'pg';
import { encodeKeys } from '#product/db/binary-array.js';
import * as log from '#product/db/log-statements.js';
import * as sql from '#product/db/stream-statements.js';
import * as owner from '#product/db/statements.js';
import { encodeBytes } from '../../binary-arrays.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Row } from '../../database/values.js';
import type { Position, Trouble, WalkWorld } from '../process.js';
import { DIGEST, onesOf, textOfSeconds } from '../walk-flush.js';
import type { Outcome, WalkRequest } from '../walk-request.js';
import { type Item, type ServedStream, Writer } from '../writer.js';
import type { PostgresWalkMutations } from './postgres-mutations.js';

/** A group as it is sent, each time the same. */
interface Group {
  readonly firstLsn: number;
  readonly heard: number;
  readonly items: readonly Item[];
  wasSent: boolean;
}

interface OwnStream extends ServedStream {
  readonly appendEpoch: number;
  readonly coveredFrom: number;
  nextLsn: number;
}

/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 15;
const TROUBLE_ONE_IN = 15;
const TROUBLES: readonly Trouble[] = ['crash', 'loseConnection', 'sleep'];
const UNIQUE_VIOLATION = '23505';

/** One process. */
export class PostgresWriter extends Writer<WalkWorld, OwnStream> {
  readonly #mutations: PostgresWalkMutations;
  readonly #serves: boolean;
  readonly #flusher: string | null;
  /** Of so many pieces of work one is an append, if anything is in hand. */
  readonly #appendOneIn: number;
  #doubt: Group | undefined;
  /** A stream whose taking had no reply, {@link PostgresWalkMutations.goOnUnderReadEpoch}. */
  #untold: string | undefined;

  constructor(world: WalkWorld, mutations: PostgresWalkMutations, name: string, serves: boolean) {
    super(world, name, TROUBLES, { window: mutations.windowStays, hand: mutations.fencedAppendsAgain });
    this.#mutations = mutations;
    this.#serves = serves;
    this.#flusher = serves ? world.uuid() : null;
    this.#appendOneIn = world.random.pick([1, 1, 2, 12]);
    this.note(() => ` starts, ${serves ? 'it serves' : 'it only writes'}`);
    this.begin(
      this.repeatWithDatabase(
        () => world.random.below(PACE_MS),
        (session) => this.#step(session),
      ),
    );
  }

  override crash(): void {
    super.crash();
    this.#doubt = undefined;
  }

  protected override get sent(): readonly Item[] {
    return this.#doubt?.items ?? [];
  }

  protected override takes({ isPlain }: WalkRequest, own: OwnStream | undefined): boolean {
    if (own === undefined) return this.#mutations.acceptBeforeRow === true;
    return isPlain || this.heard >= own.coveredFrom;
  }

  async #step(session: SimulatedSession): Promise<void> {
    const { random } = this.world;
    this.fallOnceIn(TROUBLE_ONE_IN);
    const own = this.own;
    if (own === undefined) {
      if (this.isStopping) this.crash();
      else await this.#begin(session, this.#untold ?? this.world.uuid());
      return;
    }
    if (this.#doubt !== undefined) return this.#repeat(session, own, this.#doubt);
    if (this.hand.length > 0 && random.below(this.#appendOneIn) === 0)
      return this.#append(session, own, this.#group(own));
    if (this.isStopping && this.hand.length === 0 && own.flushes === undefined) return this.#end(session, own);
    if (own.flushes !== undefined && own.memory.length > 0 && random.below(2) === 0) return this.#flush(session, own);
    if (this.isStopping && this.hand.length === 0 && own.memory.length === 0) return this.#end(session, own);
    switch (random.below(5)) {
      case 0:
      case 1:
        return this.#ask(session, own);
      case 2:
      case 3:
        if (this.hand.length > 0 && this.#mutations.wordWithHand !== true) return;
        if (own.flushes === undefined || random.below(2) === 0) return this.#advanceAcceptedThrough(session, own);
        if (own.memory.length === 0) return this.#touch(session, own, own.flushes);
        return;
      default:
        await session.query<Row>({ text: sql.SEND_HEARTBEATS, values: [this.#flusher, [own.name]] });
    }
  }

  /** Begins a stream. Without a reply another one is begun. */
  async #begin(session: SimulatedSession, name: string): Promise<void> {
    const { goOnUnderReadEpoch } = this.#mutations;
    const run = (text: string, values: readonly unknown[] = []): Promise<Row[]> => session.query<Row>({ text, values });
    if (goOnUnderReadEpoch === true) {
      if (this.#goOn(name)) return;
      this.#untold = name;
    }
    await run(owner.BEGIN_TAKING);
    await run(owner.LOCK_PRUNED_BEFORE);
    const [row] = await run(sql.BEGIN_STREAM, [name, 'node', 0, this.#flusher]);
    await run(owner.COMMIT_TAKING);
    if (this.life.isOver || row === undefined) return;
    this.#untold = undefined;
    this.hear(row['database_time']);
    this.#write(name, Number(row['append_epoch']), Number(row['epoch']), Number(row['covered_from']));
  }

  #write(name: string, appendEpoch: number, epoch: number, coveredFrom: number): void {
    const flushes = this.#serves ? { epoch, coveredFrom, lsn: 0 } : undefined;
    this.own = { name, appendEpoch, coveredFrom, nextLsn: 1, flushes, memory: [] };
    this.note(() => ` writes ${name} under ${appendEpoch}, covered from ${coveredFrom}`);
  }

  /** {@link PostgresWalkMutations.goOnUnderReadEpoch} */
  #goOn(name: string): boolean {
    const { streams, checkpoints } = this.world.database.tables;
    const fence = streams.get(name);
    const row = checkpoints.get(name);
    if (fence === undefined || row === undefined || fence.retiredAt !== undefined) return false;
    this.#untold = undefined;
    this.#write(name, fence.epoch, row.epoch, Math.ceil(Math.max(row.coveredFrom, 0) / 1000));
    return true;
  }

  /** All or some of what is in hand. */
  #group(own: OwnStream): Group {
    const items = this.hand.slice(0, 1 + this.world.random.below(this.hand.length));
    this.hand = this.hand.filter((item) => !items.includes(item));
    const oldest = Math.min(...items.map((item) => item.heard));
    const heard = this.#mutations.timeOfSending === true ? this.heard : oldest;
    return { firstLsn: own.nextLsn, heard, items, wasSent: false };
  }

  async #repeat(session: SimulatedSession, own: OwnStream, doubt: Group): Promise<void> {
    const { groupGrows, otherRecordsAtLsn, conflictAcknowledgesAny } = this.#mutations;
    if (groupGrows === true && this.hand.length > 0) {
      const items = [...doubt.items, ...this.hand];
      this.hand = [];
      return this.#append(session, own, { ...doubt, items });
    }
    if ((otherRecordsAtLsn === true || conflictAcknowledgesAny === true) && this.hand.length > 0) {
      this.settle(doubt.items, 'unknown');
      this.#doubt = undefined;
      return this.#append(session, own, this.#group(own));
    }
    return this.#append(session, own, doubt);
  }

  async #append(session: SimulatedSession, own: OwnStream, group: Group): Promise<void> {
    const { wasSent } = group;
    group.wasSent = true;
    this.#doubt = group;
    const { heard, firstLsn, items } = group;
    this.note(() => {
      const names = items.map(({ request }) => request.name).join(' ');
      return ` appends ${names} from LSN ${firstLsn} of ${own.name}, N ${heard}`;
    });
    let row: Row | undefined;
    const sentAt = this.world.scheduler.now;
    try {
      [row] = await session.query<Row>({ text: log.APPEND_IDEMPOTENT, values: valuesOfAppend(own, group) });
    } catch (error) {
      if (!(error instanceof pg.DatabaseError) || error.code !== UNIQUE_VIOLATION) throw error;
      await this.#conflict(session, own, group, sentAt);
      return;
    }
    if (this.life.isOver) return;
    if (row?.['appended'] === group.items.length) this.#land(own, group, sentAt);
    else await this.#endOfStream(session, own, group, wasSent, row?.['fenced'] === 1);
  }

  /** A record with this LSN is there: that of this group. */
  async #conflict(session: SimulatedSession, own: OwnStream, group: Group, sentAt: number): Promise<void> {
    if (this.#mutations.otherRecordsAtLsn !== true) {
      this.#land(own, group, sentAt);
      return;
    }
    const [row] = await session.query<Row>({ text: log.LAST_LSN, values: [own.name] });
    own.nextLsn = Number(row?.['lsn'] ?? 0) + 1;
    own.flushes = undefined;
    this.hand.unshift(...group.items);
    this.#doubt = undefined;
  }

  #land(own: OwnStream, { firstLsn, items, heard }: Group, sentAt: number): void {
    const proof = { sentAt, at: this.world.scheduler.now };
    this.#doubt = undefined;
    own.nextLsn = firstLsn + items.length;
    for (const { request } of items) {
      own.memory.push({ token: request.name, heard, isPlain: request.isPlain });
    }
    if (own.flushes === undefined) own.memory.length = 0;
    this.acknowledge(own.name, items, proof);
  }

  /** Nothing was appended: another process owns the stream, or the database has lost the records before. */
  async #endOfStream(
    session: SimulatedSession,
    own: OwnStream,
    group: Group,
    wasSent: boolean,
    isGap: boolean,
  ): Promise<void> {
    const { zeroRowsRefuse, gapRefuses, fencedAppendsAgain, remakeRow } = this.#mutations;
    const lastLsn = group.firstLsn + group.items.length - 1;
    const sentAt = this.world.scheduler.now;
    let outcome: Outcome = 'refused';
    if (wasSent && zeroRowsRefuse !== true) {
      const [row] = await session.query<Row>({ text: log.LAST_LSN, values: [own.name] });
      if (this.life.isOver) return;
      if (row === undefined && remakeRow === true) return this.#remake(session, own);
      const isReached = row !== undefined && Number(row['lsn']) >= lastLsn;
      // The database has gone back: what it had may still be counted by a roll-up that has read it.
      const isUnknown = row === undefined || (isGap && gapRefuses !== true);
      outcome = isReached ? 'acknowledged' : isUnknown ? 'unknown' : 'refused';
    }
    this.#doubt = undefined;
    this.leave(own, `LSN ${lastLsn} is ${outcome}`);
    if (fencedAppendsAgain === true && outcome === 'refused') this.hand.unshift(...group.items);
    else this.settle(group.items, outcome, { sentAt, at: this.world.scheduler.now });
  }

  /** {@link PostgresWalkMutations.remakeRow} */
  async #remake(session: SimulatedSession, { name, nextLsn }: OwnStream): Promise<void> {
    await this.#begin(session, name);
    if (this.own !== undefined) this.own.nextLsn = nextLsn;
  }

  /** The writer's question, which gives N. */
  async #ask(session: SimulatedSession, own: OwnStream): Promise<void> {
    const [row] = await session.query<Row>({ text: sql.ASK_STREAM, values: [own.name] });
    if (this.life.isOver) return;
    if (row?.['open'] === true) {
      this.hear(row['database_time']);
      return;
    }
    if (this.#doubt === undefined) this.leave(own, 'it is retired or gone');
  }

  async #advanceAcceptedThrough(session: SimulatedSession, { name, appendEpoch }: OwnStream): Promise<void> {
    const word = this.heard;
    this.note(() => ` gives its word ${word} on ${name}`);
    await session.query<Row>({ text: sql.ADVANCE_ACCEPTED_THROUGH, values: [name, appendEpoch, word] });
  }

  async #flush(session: SimulatedSession, own: OwnStream): Promise<void> {
    await this.flushMemory(session, own, this.#mutations.flushSendsTimeHeard === true ? this.heard : undefined);
  }

  async #touch(session: SimulatedSession, own: OwnStream, flushes: Position): Promise<void> {
    const values = [own.name, flushes.epoch, flushes.lsn, textOfSeconds(this.heard)];
    const [row] = await session.query<Row>({ text: owner.TOUCH_CHECKPOINT, values });
    if (row === undefined && !this.life.isOver) this.dropFlushes(own);
  }

  /** The last heartbeat: nothing is in hand, in doubt or in memory. */
  async #end(session: SimulatedSession, own: OwnStream): Promise<void> {
    this.note(() => ` stops`);
    await session.query<Row>({ text: sql.END_HEARTBEATS, values: [[own.name]] });
    this.crash();
  }
}

/** Each request is a record of its own. */
function valuesOfAppend({ name, appendEpoch }: OwnStream, { firstLsn, heard, items }: Group): readonly unknown[] {
  const names = items.map(({ request }) => Buffer.from(request.name));
  const numbers = items.map((_, index) => index + 1);
  let requests = 0;
  const requestNumbers = items.map(({ request }) => (request.isPlain ? [1, 0] : [(requests += 1), requests]));
  return [
    ...[name, appendEpoch, heard, firstLsn, items.map(() => 0), numbers, numbers, ...onesOf(names)],
    encodeKeys(items.map(({ request }, index) => (request.isPlain ? Buffer.alloc(0) : (names[index] as Buffer)))),
    Array.from({ length: requests }, () => 1),
    encodeBytes(Array.from({ length: requests }, () => DIGEST)),
    ...[requestNumbers.map(([first]) => first), requestNumbers.map(([, last]) => last)],
  ];
}
