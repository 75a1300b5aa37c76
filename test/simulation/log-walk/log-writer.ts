/**
 * A process that writes streams of the postgres journal, one at a time, in the simplest way that follows the protocol. One that
 * serves also flushes what it has written, from memory, until somebody takes its flushes.
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
import { encodeKeys, SumArrayEncoder } from '#product/db/binary-array.js';
import * as sql from '#product/db/log-statements.js';
import * as owner from '#product/db/statements.js';
import { encodeBytes } from '../binary-arrays.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { ProtocolWorld } from '../protocol-node.js';
import { Life } from '../scheduler.js';
import { DIGEST, textOfSeconds, valuesOfFlush, type WalkRecord } from '../walk-flush.js';
import type { LogWalkMutations } from './log-mutations.js';
import type { Outcome, Proof, WalkRequest } from './walk-request.js';

/** What a writer needs of its world. */
export interface WriterWorld extends ProtocolWorld {
  /** The end of an attempt. With a proof it may be lost to a failover that the writer has not noticed. */
  settle(request: WalkRequest, outcome: Outcome, proof?: Proof): void;
  /** SIGSTOP, and SIGCONT some time later. */
  sleep(process: LogWriter): void;
}

/** A request that is not in the log yet, and how many attempts wait for it. */
interface Item {
  readonly request: WalkRequest;
  /** N as it was when the request was taken. What is in hand after it may be no older. */
  readonly heard: number;
  waiting: number;
}

/** A group as it is sent, each time the same. */
interface Group {
  readonly firstLsn: number;
  readonly heard: number;
  readonly items: readonly Item[];
  wasSent: boolean;
}

interface OwnStream {
  readonly name: string;
  readonly appendEpoch: number;
  readonly coveredFrom: number;
  nextLsn: number;
  /** The flushes; undefined: another process has them. */
  flushes: { readonly epoch: number; readonly coveredFrom: number; lsn: number } | undefined;
  /** What is not flushed yet, from the LSN after that of the flushes. */
  readonly memory: WalkRecord[];
}

const NODE = 'node';
/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 15;
const TROUBLE_ONE_IN = 15;
const HAND_MAX = 4;
const UNIQUE_VIOLATION = '23505';

/** One process. */
export class LogWriter {
  readonly life: Life;
  readonly name: string;
  readonly #world: WriterWorld;
  readonly #mutations: LogWalkMutations;
  readonly #serves: boolean;
  readonly #flusher: string | null;
  /** Of so many pieces of work one is an append, if anything is in hand. */
  readonly #appendOneIn: number;
  #own: OwnStream | undefined;
  /** The largest time of a statement that saw the row of the stream open. */
  #heard = 0;
  #hand: Item[] = [];
  #doubt: Group | undefined;
  /** Acknowledged in the present stream, by idempotency key. */
  readonly #window = new Map<string, { readonly proof: Proof; readonly stream: string }>();
  #session: SimulatedSession | undefined;
  /** A stream whose taking had no reply, {@link LogWalkMutations.goOnUnderReadEpoch}. */
  #untold: string | undefined;
  #isStopping = false;

  constructor(world: WriterWorld, mutations: LogWalkMutations, name: string, serves: boolean) {
    this.#world = world;
    this.#mutations = mutations;
    this.#serves = serves;
    this.#flusher = serves ? world.uuid() : null;
    this.#appendOneIn = world.random.pick([1, 1, 2, 12]);
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    world.note(() => `${name} starts, ${serves ? 'it serves' : 'it only writes'}`);
    this.#work().catch((error: unknown) => world.violate(error));
  }

  /** kill -9: what is in hand or in doubt has no answer. */
  crash(): void {
    this.life.end();
    for (const { request, waiting } of [...this.#hand, ...(this.#doubt?.items ?? [])]) {
      for (let attempts = waiting; attempts > 0; attempts -= 1) this.#world.settle(request, 'unknown');
    }
    this.#hand = [];
    this.#doubt = undefined;
  }

  /** SIGTERM */
  stop(): void {
    this.#isStopping = true;
  }

  loseConnection(): void {
    this.#session?.destroy();
  }

  get isUp(): boolean {
    return !this.life.isOver;
  }

  /** Takes a request in hand, or answers it. */
  accept(request: WalkRequest): void {
    const own = this.#own;
    const known = request.isPlain ? undefined : this.#window.get(request.name);
    const pending = [...this.#hand, ...(this.#doubt?.items ?? [])].find((item) => item.request === request);
    if (this.life.isOver || this.#isStopping) {
      this.#world.settle(request, 'refused');
    } else if (known !== undefined) {
      this.#world.settle(request, 'acknowledged', known.stream === own?.name ? known.proof : undefined);
    } else if (pending !== undefined) {
      pending.waiting += 1;
    } else if (!this.#takes(request, own) || this.#hand.length >= HAND_MAX) {
      this.#world.settle(request, 'refused');
    } else {
      this.#hand.push({ request, heard: this.#heard, waiting: 1 });
      this.#world.note(() => `${this.name} has ${request.name} in hand`);
    }
  }

  #takes({ isPlain }: WalkRequest, own: OwnStream | undefined): boolean {
    if (own === undefined) return this.#mutations.acceptBeforeRow === true;
    return isPlain || this.#heard >= own.coveredFrom;
  }

  async #work(): Promise<void> {
    const { random, database } = this.#world;
    while (!this.life.isOver) {
      await this.#pause(random.below(PACE_MS));
      try {
        if (this.#session?.lost !== false) this.#session = await database.connect(this.life);
        await this.#step(this.#session);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        this.#world.note(() => `${this.name}: ${error.message}`);
        this.#session?.destroy();
      }
    }
  }

  async #step(session: SimulatedSession): Promise<void> {
    const { random } = this.#world;
    if (random.below(TROUBLE_ONE_IN) === 0) this.#fallLater();
    const own = this.#own;
    if (own === undefined) {
      if (this.#isStopping) this.crash();
      else await this.#take(session, this.#untold ?? this.#world.uuid());
      return;
    }
    if (this.#doubt !== undefined) return this.#repeat(session, own, this.#doubt);
    if (this.#hand.length > 0 && random.below(this.#appendOneIn) === 0)
      return this.#append(session, own, this.#group(own));
    if (this.#isStopping && this.#hand.length === 0 && own.flushes === undefined) return this.#end(session, own);
    if (own.flushes !== undefined && own.memory.length > 0 && random.below(2) === 0) return this.#flush(session, own);
    if (this.#isStopping && this.#hand.length === 0 && own.memory.length === 0) return this.#end(session, own);
    switch (random.below(5)) {
      case 0:
      case 1:
        return this.#ask(session, own);
      case 2:
      case 3:
        if (this.#hand.length > 0 && this.#mutations.wordWithHand !== true) return;
        if (own.flushes === undefined || random.below(2) === 0) return this.#giveWord(session, own);
        if (own.memory.length === 0) return this.#touch(session, own, own.flushes);
        return;
      default:
        await session.query<Row>({ text: sql.SHOW_LIFE, values: [this.#flusher, [own.name]] });
    }
  }

  /** The connection is lost, or the process ends or sleeps, while a statement is under way. */
  #fallLater(): void {
    const { random, scheduler } = this.#world;
    const fall = random.pick([
      (): void => this.crash(),
      (): void => this.loseConnection(),
      (): void => this.#world.sleep(this),
    ]);
    scheduler.after(random.below(30), this.life, fall);
  }

  /** Begins a stream. Without a reply another one is begun. */
  async #take(session: SimulatedSession, name: string): Promise<void> {
    const { goOnUnderReadEpoch } = this.#mutations;
    const run = (text: string, values: readonly unknown[] = []): Promise<Row[]> => session.query<Row>({ text, values });
    if (goOnUnderReadEpoch === true) {
      if (this.#goOn(name)) return;
      this.#untold = name;
    }
    await run(owner.BEGIN_TAKING);
    await run(owner.LOCK_PRUNED_BEFORE);
    const [row] = await run(sql.BEGIN_STREAM, [name, NODE, 0, this.#flusher]);
    await run(owner.COMMIT_TAKING);
    if (this.life.isOver || row === undefined) return;
    this.#untold = undefined;
    this.#heard = Math.max(this.#heard, Number(row['database_time']));
    this.#begin(name, Number(row['append_epoch']), Number(row['epoch']), Number(row['covered_from']));
  }

  #begin(name: string, appendEpoch: number, epoch: number, coveredFrom: number, nextLsn = 1): void {
    const flushes = this.#serves && nextLsn === 1 ? { epoch, coveredFrom, lsn: 0 } : undefined;
    this.#own = { name, appendEpoch, coveredFrom, nextLsn, flushes, memory: [] };
    this.#world.note(() => `${this.name} writes ${name} under ${appendEpoch}, covered from ${coveredFrom}`);
  }

  /** {@link LogWalkMutations.goOnUnderReadEpoch} */
  #goOn(name: string): boolean {
    const { streams, checkpoints } = this.#world.database.tables;
    const fence = streams.get(name);
    const row = checkpoints.get(name);
    if (fence === undefined || row === undefined || fence.retiredAt !== undefined) return false;
    this.#untold = undefined;
    this.#begin(name, fence.epoch, row.epoch, Math.ceil(Math.max(row.coveredFrom, 0) / 1000));
    return true;
  }

  /** All or some of what is in hand. */
  #group(own: OwnStream): Group {
    const items = this.#hand.slice(0, 1 + this.#world.random.below(this.#hand.length));
    this.#hand = this.#hand.filter((item) => !items.includes(item));
    const oldest = Math.min(...items.map((item) => item.heard));
    const heard = this.#mutations.timeOfSending === true ? this.#heard : oldest;
    return { firstLsn: own.nextLsn, heard, items, wasSent: false };
  }

  async #repeat(session: SimulatedSession, own: OwnStream, doubt: Group): Promise<void> {
    const { groupGrows, otherRecordsAtLsn, conflictAcknowledgesAny } = this.#mutations;
    if (groupGrows === true && this.#hand.length > 0) {
      const items = [...doubt.items, ...this.#hand];
      this.#hand = [];
      return this.#append(session, own, { ...doubt, items });
    }
    if ((otherRecordsAtLsn === true || conflictAcknowledgesAny === true) && this.#hand.length > 0) {
      this.#settle(doubt.items, 'unknown');
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
    this.#world.note(() => {
      const names = items.map(({ request }) => request.name).join(' ');
      return `${this.name} appends ${names} from LSN ${firstLsn} of ${own.name}, N ${heard}`;
    });
    let row: Row | undefined;
    const sentAt = this.#world.scheduler.now;
    try {
      [row] = await session.query<Row>({ text: sql.APPEND_IDEMPOTENT, values: valuesOfAppend(own, group) });
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
    const [row] = await session.query<Row>({ text: sql.LAST_LSN, values: [own.name] });
    own.nextLsn = Number(row?.['lsn'] ?? 0) + 1;
    own.flushes = undefined;
    this.#hand.unshift(...group.items);
    this.#doubt = undefined;
  }

  #land(own: OwnStream, { firstLsn, items, heard }: Group, sentAt: number): void {
    const proof = { sentAt, at: this.#world.scheduler.now };
    this.#doubt = undefined;
    own.nextLsn = firstLsn + items.length;
    for (const { request } of items) {
      own.memory.push({ token: request.name, heard, isPlain: request.isPlain });
      if (!request.isPlain) this.#window.set(request.name, { proof, stream: own.name });
    }
    if (own.flushes === undefined) own.memory.length = 0;
    this.#settle(items, 'acknowledged', proof);
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
    const sentAt = this.#world.scheduler.now;
    let outcome: Outcome = 'refused';
    if (wasSent && zeroRowsRefuse !== true) {
      const [row] = await session.query<Row>({ text: sql.LAST_LSN, values: [own.name] });
      if (this.life.isOver) return;
      if (row === undefined && remakeRow === true) return this.#remake(session, own);
      const isReached = row !== undefined && Number(row['lsn']) >= lastLsn;
      // The database has gone back: what it had may still be counted by a roll-up that has read it.
      const isUnknown = row === undefined || (isGap && gapRefuses !== true);
      outcome = isReached ? 'acknowledged' : isUnknown ? 'unknown' : 'refused';
    }
    this.#world.note(() => `${this.name} leaves ${own.name}: LSN ${lastLsn} is ${outcome}`);
    this.#own = undefined;
    this.#doubt = undefined;
    if (this.#mutations.windowStays !== true) this.#window.clear();
    if (fencedAppendsAgain === true && outcome === 'refused') this.#hand.unshift(...group.items);
    else this.#settle(group.items, outcome, { sentAt, at: this.#world.scheduler.now });
    if (fencedAppendsAgain !== true) this.#refuseHand();
  }

  /** {@link LogWalkMutations.remakeRow} */
  async #remake(session: SimulatedSession, { name, nextLsn }: OwnStream): Promise<void> {
    await this.#take(session, name);
    if (this.#own !== undefined) this.#own.nextLsn = nextLsn;
  }

  #refuseHand(): void {
    const items = this.#hand;
    this.#hand = [];
    this.#settle(items, 'refused');
  }

  #settle(items: readonly Item[], outcome: Outcome, proof?: Proof): void {
    for (const item of items) {
      this.#world.note(() => `${item.request.name} is ${outcome}`);
      const attempts = item.waiting;
      item.waiting = 0;
      for (let left = attempts; left > 0; left -= 1) this.#world.settle(item.request, outcome, proof);
    }
  }

  /** The writer's question, which gives N. */
  async #ask(session: SimulatedSession, own: OwnStream): Promise<void> {
    const [row] = await session.query<Row>({ text: sql.ASK_STREAM, values: [own.name] });
    if (this.life.isOver) return;
    if (row !== undefined) {
      this.#heard = Math.max(this.#heard, Number(row['database_time']));
      return;
    }
    this.#world.note(() => `${this.name} finds ${own.name} retired or gone`);
    if (this.#doubt !== undefined) return;
    this.#own = undefined;
    if (this.#mutations.windowStays !== true) this.#window.clear();
    if (this.#mutations.fencedAppendsAgain !== true) this.#refuseHand();
  }

  async #giveWord(session: SimulatedSession, { name, appendEpoch }: OwnStream): Promise<void> {
    const word = this.#heard;
    this.#world.note(() => `${this.name} gives its word ${word} on ${name}`);
    await session.query<Row>({ text: sql.GIVE_WORD, values: [name, appendEpoch, word] });
  }

  async #flush(session: SimulatedSession, own: OwnStream): Promise<void> {
    const { flushes, memory, name } = own;
    if (flushes === undefined) return;
    const range = [...memory];
    const heard = this.#mutations.flushSendsTimeHeard === true ? this.#heard : undefined;
    const values = valuesOfFlush(name, flushes, range, heard);
    const isCommitted = await this.#flushUntilKnown(session, own, values, flushes.lsn + range.length);
    if (this.life.isOver || isCommitted === undefined) return;
    if (isCommitted) {
      flushes.lsn += range.length;
      memory.splice(0, range.length);
    } else {
      this.#dropFlushes(own);
    }
  }

  /** Without a reply the row tells. Undefined: the row tells that nothing has happened. */
  async #flushUntilKnown(
    session: SimulatedSession,
    { name, flushes }: OwnStream,
    values: readonly unknown[],
    toLsn: number,
  ): Promise<boolean | undefined> {
    let current: SimulatedSession | undefined = session;
    let isSent = false;
    while (!this.life.isOver && flushes !== undefined) {
      try {
        if (current?.lost) {
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
        if (!(error instanceof Error)) throw error;
        if (error instanceof pg.DatabaseError) return undefined;
        this.#world.note(() => `${this.name}: ${error.message} in a flush`);
      }
    }
    return undefined;
  }

  /** Somebody else flushes: what is in memory is in the log. */
  #dropFlushes(own: OwnStream): void {
    this.#world.note(() => `${this.name} flushes ${own.name} no more`);
    own.flushes = undefined;
    own.memory.length = 0;
  }

  async #touch(session: SimulatedSession, own: OwnStream, flushes: { epoch: number; lsn: number }): Promise<void> {
    const values = [own.name, flushes.epoch, flushes.lsn, textOfSeconds(this.#heard)];
    const [row] = await session.query<Row>({ text: owner.TOUCH_CHECKPOINT, values });
    if (row === undefined && !this.life.isOver) this.#dropFlushes(own);
  }

  /** The last sign of life: nothing is in hand, in doubt or in memory. */
  async #end(session: SimulatedSession, own: OwnStream): Promise<void> {
    this.#world.note(() => `${this.name} stops`);
    await session.query<Row>({ text: sql.END_LIFE, values: [[own.name]] });
    this.crash();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

/** Each request is a record of its own. */
function valuesOfAppend({ name, appendEpoch }: OwnStream, { firstLsn, heard, items }: Group): readonly unknown[] {
  const sums = new SumArrayEncoder();
  const names = items.map(({ request }) => Buffer.from(request.name));
  for (const bytes of names) sums.append(bytes, 0, bytes.length, 1);
  const numbers = items.map((_, index) => index + 1);
  let requests = 0;
  const requestNumbers = items.map(({ request }) => (request.isPlain ? [1, 0] : [(requests += 1), requests]));
  return [
    ...[name, appendEpoch, heard, firstLsn, items.map(() => 0), numbers, numbers, sums.keys(), sums.amounts()],
    encodeKeys(items.map(({ request }, index) => (request.isPlain ? Buffer.alloc(0) : (names[index] as Buffer)))),
    Array.from({ length: requests }, () => 1),
    encodeBytes(Array.from({ length: requests }, () => DIGEST)),
    ...[requestNumbers.map(([first]) => first), requestNumbers.map(([, last]) => last)],
  ];
}
