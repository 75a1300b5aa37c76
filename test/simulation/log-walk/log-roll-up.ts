/**
 * A process that flushes streams of the postgres journal that others write, in the simplest way that follows the protocol. It
 * reads a log only after the commit that took it. Only a stream that it has adopted itself it ends.
 */
import * as sql from '#product/db/log-statements.js';
import * as owner from '#product/db/statements.js';
import { decodeTexts } from '../binary-arrays.js';
import type { SimulatedSession } from '../database/session.js';
import type { Row } from '../database/values.js';
import type { ProtocolWorld } from '../protocol-node.js';
import { Life } from '../scheduler.js';
import { valuesOfFlush, type WalkRecord } from '../walk-flush.js';
import type { LogWalkMutations } from './log-mutations.js';

/** A stream that it has taken. */
interface Held {
  readonly stream: string;
  readonly epoch: number;
  readonly coveredFrom: number;
  /** Its own adoption has raised the append epoch to this. */
  readonly appendEpoch: number | undefined;
  lsn: number;
  /** What it has read above `lsn`. */
  records: readonly WalkRecord[];
  /** A read after the adoption has found nothing more. */
  isReadToEnd: boolean;
  /** A flush without a reply. */
  doubt: { readonly toLsn: number; readonly values: readonly unknown[] } | undefined;
}

const PACE_MS = 15;
const TROUBLE_ONE_IN = 15;
const HELD_MAX = 3;
const READ_MAX = 100;

/** One process. A careful one only adopts, and meets with no trouble. */
export class LogRollUp {
  readonly life: Life;
  readonly name: string;
  readonly #world: ProtocolWorld;
  readonly #mutations: LogWalkMutations;
  readonly #isCareful: boolean;
  readonly #id: string;
  readonly #held = new Map<string, Held>();
  #session: SimulatedSession | undefined;

  constructor(world: ProtocolWorld, mutations: LogWalkMutations, name: string, isCareful = false) {
    this.#world = world;
    this.#mutations = mutations;
    this.#isCareful = isCareful;
    this.#id = world.uuid();
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    world.note(() => `${name} starts`);
    this.#work().catch((error: unknown) => world.violate(error));
  }

  get isUp(): boolean {
    return !this.life.isOver;
  }

  /** kill -9 */
  crash(): void {
    this.life.end();
  }

  loseConnection(): void {
    this.#session?.destroy();
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
    if (!this.#isCareful && random.below(TROUBLE_ONE_IN) === 0) this.#fallLater();
    const held = random.pick([undefined, ...this.#held.values()]);
    if (held === undefined) {
      if (this.#held.size < HELD_MAX && (this.#isCareful || random.below(2) === 0)) await this.#takeAny(session);
      else await session.query<Row>({ text: sql.SHOW_LIFE, values: [this.#id, []] });
      return;
    }
    if (held.doubt !== undefined) return this.#readBack(session, held, held.doubt);
    const isUnread = this.#mutations.retireUnread === true && held.appendEpoch !== undefined;
    const canRetire = (held.records.length === 0 && held.isReadToEnd) || isUnread;
    if (canRetire && (this.#isCareful || random.below(4) === 0)) return this.#retire(session, held);
    if (held.records.length > 0 && random.below(2) === 0) return this.#flush(session, held);
    if (held.records.length === 0 && random.below(2) === 0) return this.#touch(session, held);
    if (!this.#isCareful && random.below(12) === 0) return this.#release(session, held);
    return this.#read(session, held);
  }

  /** The connection is lost, or the process ends, while a statement is under way. */
  #fallLater(): void {
    const { random, scheduler } = this.#world;
    const fall = random.below(4) === 0 ? (): void => this.crash() : (): void => this.loseConnection();
    scheduler.after(random.below(30), this.life, fall);
  }

  /** Signs of life are a hint only: it takes any stream, most of the time one without them. */
  async #takeAny(session: SimulatedSession): Promise<void> {
    const { random } = this.#world;
    const all = await session.query<Row>({ text: sql.SURVEY_STREAMS });
    const free = all.filter((row) => !this.#held.has(String(row['stream'])));
    if (free.length === 0) return;
    const silent = free.filter((row) => row['is_owned'] === false);
    const row = random.pick(silent.length > 0 && random.below(4) > 0 ? silent : free);
    const adopts = this.#isCareful || (row['is_written'] === false ? random.below(4) > 0 : random.below(4) === 0);
    await this.#take(session, String(row['stream']), adopts);
  }

  async #take(session: SimulatedSession, stream: string, adopts: boolean): Promise<void> {
    const { readBeforeLock } = this.#mutations;
    const run = (text: string, values: readonly unknown[] = []): Promise<Row[]> => session.query<Row>({ text, values });
    await run(owner.BEGIN_TAKING);
    await run(owner.LOCK_PRUNED_BEFORE);
    const early = readBeforeLock === true ? await run(sql.READ_LOG, [[stream], [0], READ_MAX]) : [];
    if (adopts) await run(sql.LOCK_STREAM, [stream]);
    const [found] = await run(owner.LOCK_CHECKPOINT, [stream]);
    // The survey is older: another roll-up may have ended it. Taking it anyway does no harm.
    const isOver = found?.['epoch'] === null || (found?.['retired'] === true && this.#world.random.below(4) > 0);
    const [row] = isOver ? [] : await run(adopts ? sql.ADOPT_STREAM : sql.TAKE_FLUSHES, [stream, this.#id]);
    if (row === undefined) {
      await run(owner.ROLL_BACK_TAKING);
      return;
    }
    await run(owner.COMMIT_TAKING);
    if (this.life.isOver) return;
    const lsn = Number(row['lsn']);
    const held: Held = {
      stream,
      epoch: Number(row['epoch']),
      coveredFrom: Number(row['covered_from']),
      appendEpoch: adopts ? Number(row['append_epoch']) : undefined,
      lsn,
      records: early.filter((record) => Number(record['lsn']) > lsn).map(recordOf),
      isReadToEnd: readBeforeLock === true && adopts,
      doubt: undefined,
    };
    this.#held.set(stream, held);
    this.#world.note(() => `${this.name} ${adopts ? 'adopts' : 'tails'} ${stream} at LSN ${lsn}, epoch ${held.epoch}`);
  }

  async #read(session: SimulatedSession, held: Held): Promise<void> {
    const { readBeforeLock, tailingRetires } = this.#mutations;
    if (readBeforeLock === true && held.appendEpoch !== undefined) return;
    const from = held.lsn + held.records.length;
    const rows = await session.query<Row>({ text: sql.READ_LOG, values: [[held.stream], [from], READ_MAX] });
    rows.forEach((row, index) => {
      if (Number(row['lsn']) !== from + index + 1) throw new Error(`a gap before LSN ${String(row['lsn'])}`);
    });
    held.records = [...held.records, ...rows.map(recordOf)];
    const isOwner = held.appendEpoch !== undefined || tailingRetires === true;
    held.isReadToEnd = isOwner && rows.length < READ_MAX;
  }

  async #flush(session: SimulatedSession, held: Held): Promise<void> {
    const { random } = this.#world;
    const range = held.records.slice(0, 1 + random.below(held.records.length));
    const toLsn = held.lsn + range.length;
    held.doubt = { toLsn, values: valuesOfFlush(held.stream, held, range) };
    await this.#send(session, held, held.doubt);
  }

  async #send(session: SimulatedSession, held: Held, doubt: NonNullable<Held['doubt']>): Promise<void> {
    const [row] = await session.query<Row>({ text: owner.FLUSH_WITH_REJECTED, values: doubt.values });
    if (this.life.isOver) return;
    if (row?.['fenced'] === 1) this.#committed(held, doubt.toLsn);
    else this.#drop(held);
  }

  async #readBack(session: SimulatedSession, held: Held, doubt: NonNullable<Held['doubt']>): Promise<void> {
    const [row] = await session.query<Row>({ text: owner.READ_BACK, values: [held.stream] });
    if (this.life.isOver) return;
    const isMine = row !== undefined && Number(row['epoch']) === held.epoch;
    const lsn = Number(row?.['lsn']);
    if (isMine && lsn === doubt.toLsn) this.#committed(held, lsn);
    else if (isMine && lsn === held.lsn) await this.#send(session, held, doubt);
    else this.#drop(held);
  }

  #committed(held: Held, toLsn: number): void {
    held.records = held.records.slice(toLsn - held.lsn);
    held.lsn = toLsn;
    held.doubt = undefined;
  }

  #drop({ stream }: Held): void {
    this.#world.note(() => `${this.name} drops ${stream}`);
    this.#held.delete(stream);
  }

  async #touch(session: SimulatedSession, held: Held): Promise<void> {
    const values = [held.stream, held.epoch, held.lsn];
    const [row] = await session.query<Row>({ text: sql.TOUCH_STREAM, values });
    if (row === undefined && !this.life.isOver) this.#drop(held);
  }

  async #retire(session: SimulatedSession, held: Held): Promise<void> {
    const { stream, epoch, lsn } = held;
    const appendEpoch = held.appendEpoch ?? this.#world.database.tables.streams.get(stream)?.epoch;
    const values = [stream, epoch, lsn, appendEpoch];
    const [row] = await session.query<Row>({ text: sql.RETIRE_LOG_STREAM, values });
    if (this.life.isOver) return;
    this.#world.note(() => `${this.name} ${row === undefined ? 'does not retire' : 'retires'} ${stream}`);
    this.#held.delete(stream);
  }

  async #release(session: SimulatedSession, held: Held): Promise<void> {
    this.#held.delete(held.stream);
    await session.query<Row>({ text: sql.RELEASE_STREAM, values: [held.stream, held.epoch, held.lsn] });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

/** A record has one request. */
function recordOf(row: Row): WalkRecord {
  const [token = ''] = decodeTexts(row['keys'] as Buffer);
  return { token, heard: Number(row['accepted_after']), isPlain: row['idempotency_keys'] === null };
}
