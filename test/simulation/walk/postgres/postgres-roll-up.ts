/**
 * A process that flushes streams of the postgres journal that others write, in the simplest way that follows the protocol. It
 * reads a log only after the commit that took it. Only a stream that it has adopted itself it ends.
 */
import * as log from '#product/db/log-statements.js';
import * as sql from '#product/db/stream-statements.js';
import { decodeTexts } from '../../binary-arrays.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Row } from '../../database/values.js';
import { type ReadStream, RollUp } from '../flusher.js';
import { positionOf, type WalkWorld } from '../process.js';
import type { WalkRecord } from '../walk-flush.js';
import type { PostgresWalkMutations } from './postgres-mutations.js';

/** A stream that it has taken. */
interface Held extends ReadStream {
  /** Its own adoption has raised the append epoch to this. */
  readonly appendEpoch: number | undefined;
  /** A read after the adoption has found nothing more. */
  isReadToEnd: boolean;
}

const PACE = {
  restMs: 15,
  troubleOneIn: 15,
  troubles: ['crash', 'loseConnection', 'loseConnection', 'loseConnection'],
} as const;
const HELD_MAX = 3;
const READ_MAX = 100;

/** One process. A careful one only adopts, and meets with no trouble. */
export class PostgresRollUp extends RollUp<WalkWorld, Held> {
  readonly #mutations: PostgresWalkMutations;
  readonly #id: string;

  constructor(world: WalkWorld, mutations: PostgresWalkMutations, name: string, isCareful = false) {
    super(world, name, isCareful, PACE);
    this.#mutations = mutations;
    this.#id = world.uuid();
    this.note(() => ' starts');
    this.begin(this.work());
  }

  protected override async step(session: SimulatedSession, held: Held | undefined): Promise<void> {
    const { random } = this.world;
    if (held === undefined) {
      if (this.held.size < HELD_MAX && (this.isCareful || random.below(2) === 0)) await this.#takeAny(session);
      else await session.query<Row>({ text: sql.SEND_HEARTBEATS, values: [this.#id, []] });
      return;
    }
    if (held.doubt !== undefined) return this.resolve(session, held, held.doubt);
    const isUnread = this.#mutations.retireUnread === true && held.appendEpoch !== undefined;
    const canRetire = (held.records.length === 0 && held.isReadToEnd) || isUnread;
    if (canRetire && (this.isCareful || random.below(4) === 0)) return this.#retire(session, held);
    if (held.records.length > 0 && random.below(2) === 0) return this.flushSome(session, held);
    if (held.records.length === 0 && random.below(2) === 0) return this.#touch(session, held);
    if (!this.isCareful && random.below(12) === 0) return this.#release(session, held);
    return this.#read(session, held);
  }

  /** Heartbeats are a hint only: it takes any stream, most of the time one without them. */
  async #takeAny(session: SimulatedSession): Promise<void> {
    const { random } = this.world;
    const all = await session.query<Row>({ text: sql.SURVEY_STREAMS, values: ['postgres', null] });
    const free = all.filter((row) => !this.held.has(String(row['stream'])));
    if (free.length === 0) return;
    const silent = free.filter((row) => row['is_owned'] === false);
    const row = random.pick(silent.length > 0 && random.below(4) > 0 ? silent : free);
    const adopts = this.isCareful || (row['is_written'] === false ? random.below(4) > 0 : random.below(4) === 0);
    await this.#take(session, String(row['stream']), adopts);
  }

  async #take(session: SimulatedSession, stream: string, adopts: boolean): Promise<void> {
    const { readBeforeLock } = this.#mutations;
    let early: readonly Row[] = [];
    const row = await this.take(
      session,
      stream,
      async (run, found) => {
        // The survey is older: another roll-up may have ended it. Taking it anyway does no harm.
        const isOver = found?.['epoch'] === null || (found?.['retired'] === true && this.world.random.below(4) > 0);
        return isOver ? [] : run(adopts ? sql.ADOPT_STREAM : sql.TAKE_FLUSHES, [stream, this.#id]);
      },
      async (run) => {
        if (readBeforeLock === true) early = await run(log.READ_LOG, [[stream], [0], READ_MAX]);
        if (adopts) await run(sql.LOCK_STREAM, [stream]);
      },
    );
    if (row === undefined) return;
    const position = positionOf(row);
    const { lsn } = position;
    const held: Held = {
      stream,
      ...position,
      appendEpoch: adopts ? Number(row['append_epoch']) : undefined,
      records: early.filter((record) => Number(record['lsn']) > lsn).map(recordOf),
      isReadToEnd: readBeforeLock === true && adopts,
      doubt: undefined,
    };
    this.held.set(stream, held);
    this.note(() => ` ${adopts ? 'adopts' : 'tails'} ${stream} at LSN ${lsn}, epoch ${held.epoch}`);
  }

  async #read(session: SimulatedSession, held: Held): Promise<void> {
    const { readBeforeLock, tailingRetires } = this.#mutations;
    if (readBeforeLock === true && held.appendEpoch !== undefined) return;
    const from = held.lsn + held.records.length;
    const rows = await session.query<Row>({ text: log.READ_LOG, values: [[held.stream], [from], READ_MAX] });
    // Another owner has flushed and pruned what is missing, or a failover has taken it back.
    if (rows.some((row, index) => Number(row['lsn']) !== from + index + 1)) {
      this.note(() => ` finds a gap behind LSN ${from} of ${held.stream}`);
      session.destroy();
      return;
    }
    held.records = [...held.records, ...rows.map(recordOf)];
    const isOwner = held.appendEpoch !== undefined || tailingRetires === true;
    held.isReadToEnd = isOwner && rows.length < READ_MAX;
  }

  async #touch(session: SimulatedSession, held: Held): Promise<void> {
    const values = [held.stream, held.epoch, held.lsn];
    const [row] = await session.query<Row>({ text: sql.TOUCH_LOG_STREAM, values });
    if (row === undefined && !this.life.isOver) this.drop(held);
  }

  async #retire(session: SimulatedSession, held: Held): Promise<void> {
    const appendEpoch = held.appendEpoch ?? this.world.database.tables.streams.get(held.stream)?.epoch;
    await this.retire(session, held, sql.RETIRE_LOG_STREAM, appendEpoch);
  }

  async #release(session: SimulatedSession, held: Held): Promise<void> {
    this.held.delete(held.stream);
    await session.query<Row>({ text: sql.RELEASE_STREAM, values: [held.stream, held.epoch, held.lsn] });
  }
}

/** A record has one request. */
function recordOf(row: Row): WalkRecord {
  const [token = ''] = decodeTexts(row['keys'] as Buffer);
  return { token, heard: Number(row['accepted_after']), isPlain: row['idempotency_keys'] === null };
}
