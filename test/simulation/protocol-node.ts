/**
 * A node that follows the protocol of streams and checkpoints in the simplest way, with a directory in memory that survives its
 * processes. It has none of the product's parts: with it, a walk searches the statements and the simulated database alone.
 */
import * as sql from '#product/db/statements.js';
import type { SimulatedSession } from './database/session.js';
import type { Row } from './database/values.js';
import type { PostgresModel } from './postgres-model.js';
import { Life } from './scheduler.js';
import { textOfSeconds, valuesOfFlush, type WalkRecord } from './walk-flush.js';
import type { World } from './world.js';

interface Taken {
  readonly epoch: number;
  lsn: number;
  readonly coveredFrom: number;
}

/** A stream with its journal and its mark. Only `taken` is lost with the process. */
interface NodeStream {
  readonly name: string;
  /** The record of LSN n is at n − 1: a request, and N in seconds. */
  readonly records: WalkRecord[];
  mark: 'unregistered' | 'open' | 'closed';
  /** The stream under which idempotent requests are accepted until this one is registered. */
  readonly cover: NodeStream | undefined;
  taken: Taken | undefined;
}

/** What survives the processes of a node. */
export class Directory {
  streams: NodeStream[] = [];
  /** The largest time of the database that is noted. */
  heard = 0;
}

/** What a node needs of its world. */
export type ProtocolWorld = Pick<World, 'scheduler' | 'random' | 'database' | 'note' | 'violate' | 'uuid'>;

const NODE = 'node';
/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 20;
/** One of so many pieces of work meets with trouble. */
const TROUBLE_ONE_IN = 12;

/** One process. */
export class ProtocolNode {
  readonly life: Life;
  readonly name: string;
  readonly #world: ProtocolWorld;
  readonly directory: Directory;
  readonly #own: NodeStream;
  #heard: number;
  #hasDatabase: boolean;
  #session: SimulatedSession | undefined;
  #isStopping = false;

  /** Without the database it begins with a new stream, unless there is none at all. */
  constructor(world: ProtocolWorld, directory: Directory, hasDatabase: boolean, name: string) {
    this.#world = world;
    this.directory = directory;
    this.#hasDatabase = hasDatabase;
    this.name = name;
    this.life = new Life((error) => world.violate(error));
    this.#heard = directory.heard;
    for (const stream of directory.streams) stream.taken = undefined;
    const last = directory.streams.at(-1);
    if (last !== undefined && hasDatabase) {
      this.#own = last;
    } else {
      const cover = last?.mark === 'open' ? last : last?.mark === 'unregistered' ? last.cover : undefined;
      this.#own = { name: world.uuid(), records: [], mark: 'unregistered', cover, taken: undefined };
      directory.streams.push(this.#own);
    }
    world.note(() => `${name} starts ${hasDatabase ? 'with' : 'without'} the database, stream ${this.#own.name}`);
    this.#work().catch((error: unknown) => world.violate(error));
  }

  /** The database answers from now on. */
  findDatabase(): void {
    this.#hasDatabase = true;
  }

  /** The connection is lost. */
  loseConnection(): void {
    this.#session?.destroy();
  }

  /** kill -9 */
  crash(): void {
    this.life.end();
  }

  /** SIGTERM */
  stop(): void {
    this.#isStopping = true;
  }

  get isIdle(): boolean {
    return this.directory.streams.every(({ records, taken }) => taken?.lsn === records.length);
  }

  /** Takes a request durably into the journal. False: it is refused. */
  accept(token: string): boolean {
    const { records, taken, cover } = this.#own;
    const isCovered = taken === undefined ? this.#own.mark === 'unregistered' && cover?.mark === 'open' : true;
    if (this.life.isOver || this.#isStopping || !isCovered) return false;
    if (taken !== undefined && this.#heard < taken.coveredFrom) return false;
    const isPending = records.slice(taken?.lsn ?? 0).some((record) => record.token === token);
    if (isPending) return true;
    this.#append(token, false);
    return true;
  }

  /** Takes a request without an idempotency key, which is sent once. False: it is refused. */
  acceptPlain(name: string): boolean {
    if (this.life.isOver || this.#isStopping || (this.#own.taken ?? this.#own.cover) === undefined) return false;
    this.#append(name, true);
    return true;
  }

  #append(token: string, isPlain: boolean): void {
    const { records, name } = this.#own;
    this.#note();
    records.push({ token, heard: this.#heard, isPlain });
    this.#world.note(() => `${this.name}: ${token} is LSN ${records.length} of ${name}, N ${this.#heard}`);
  }

  async #work(): Promise<void> {
    const { random, database } = this.#world;
    while (!this.life.isOver) {
      await this.#pause(random.below(PACE_MS));
      if (!this.#hasDatabase) continue;
      try {
        if (this.#session?.lost !== false) this.#session = await database.connect(this.life);
        await this.#step(this.#session);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        this.#world.note(() => `${this.name}: ${error.message}`);
        this.#session?.destroy();
        for (const stream of this.directory.streams) stream.taken = undefined;
      }
    }
  }

  /** One piece of work: first what is unregistered, then any other. */
  async #step(session: SimulatedSession): Promise<void> {
    const { random } = this.#world;
    const { streams } = this.directory;
    const first = streams.find(({ mark, taken }) => mark === 'unregistered' && taken === undefined);
    const stream = first ?? random.pick(streams);
    if (random.below(TROUBLE_ONE_IN) === 0) this.#fallLater();
    if (stream.taken === undefined) await this.#take(session, stream);
    else if (stream.taken.lsn < stream.records.length) await this.#flush(session, stream, stream.taken);
    else if (stream !== this.#own) await this.#retire(session, stream, stream.taken);
    else if (this.#isStopping && streams.length === 1) await this.#close(session, stream, stream.taken);
    else if (random.below(4) === 0) await this.#touch(session, stream, stream.taken);
  }

  /** The connection is lost, or the process ends, while a statement is under way. */
  #fallLater(): void {
    const { random, scheduler } = this.#world;
    const fall = random.below(2) === 0 ? (): void => this.crash() : (): void => this.loseConnection();
    scheduler.after(random.below(30), this.life, fall);
  }

  async #take(session: SimulatedSession, stream: NodeStream): Promise<void> {
    const { name, records } = stream;
    const run = (text: string, values: readonly unknown[] = []): Promise<Row[]> => session.query<Row>({ text, values });
    await run(sql.BEGIN_TAKING);
    await run(sql.LOCK_PRUNED_BEFORE);
    const [found] = await run(sql.LOCK_CHECKPOINT, [name]);
    this.#hear(found?.['database_time']);
    await run(sql.READ_CLAIMS, [name]);
    const claims = [[this.#world.uuid()], [Math.max(records.length, Number(found?.['lsn'] ?? 0))]];
    const [row] =
      found?.['epoch'] === null
        ? await run(sql.MAKE_CHECKPOINT, [name, ...claims, NODE, 0, 'file', this.#lsnOfMissingRow(stream)])
        : await run(sql.TAKE_CHECKPOINT, [name, ...claims]);
    if (row === undefined) {
      await run(sql.ROLL_BACK_TAKING);
      return;
    }
    await run(sql.COMMIT_TAKING);
    if (this.life.isOver) return;
    this.#note();
    stream.mark = 'open';
    stream.taken = {
      epoch: Number(row['epoch']),
      lsn: Number(row['lsn']),
      coveredFrom: Number(row['covered_from']),
    };
    this.#world.note(() => `${this.name} has taken ${name}: ${JSON.stringify(stream.taken)}`);
  }

  /** A row that was there is missing: an operator, who knows everything, says what was counted. */
  #lsnOfMissingRow({ mark, name }: NodeStream): number {
    return mark === 'unregistered' ? 0 : (this.#world.database.highWater.get(name) ?? 0);
  }

  async #flush(session: SimulatedSession, stream: NodeStream, taken: Taken): Promise<void> {
    const { records, name } = stream;
    const to = records.length;
    const values = valuesOfFlush(name, taken, records.slice(taken.lsn));
    const [result] = await session.query<Row>({ text: sql.FLUSH_WITH_REJECTED, values });
    this.#hear(result?.['database_time']);
    if (result?.['fenced'] === 1) taken.lsn = to;
    else stream.taken = undefined;
  }

  async #touch(session: SimulatedSession, stream: NodeStream, taken: Taken): Promise<void> {
    this.#note();
    const values = [stream.name, taken.epoch, taken.lsn, textOfSeconds(this.#heard)];
    const [row] = await session.query<Row>({ text: sql.TOUCH_CHECKPOINT, values });
    if (row === undefined) stream.taken = undefined;
    else this.#hear(row['database_time']);
  }

  async #close(session: SimulatedSession, stream: NodeStream, taken: Taken): Promise<void> {
    stream.mark = 'closed';
    await session.query<Row>({ text: sql.CLOSE_STREAM, values: [stream.name, taken.epoch, taken.lsn] });
    this.crash();
  }

  /** A stream that is not the process's own ends once nothing is left in it. */
  async #retire(session: SimulatedSession, stream: NodeStream, taken: Taken): Promise<void> {
    stream.mark = 'closed';
    const values = [stream.name, taken.epoch, taken.lsn];
    const [row] = await session.query<Row>({ text: sql.RETIRE_STREAM, values });
    stream.taken = undefined;
    if (row === undefined || this.life.isOver) return;
    this.directory.streams = this.directory.streams.filter((other) => other !== stream);
  }

  #hear(seconds: unknown): void {
    this.#heard = Math.max(this.#heard, Number(seconds ?? 0));
  }

  #note(): void {
    this.directory.heard = Math.max(this.directory.heard, this.#heard);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.life, resolve));
  }
}

/** What nodes have acknowledged, and where it is. */
export function isKept(database: PostgresModel, directories: readonly Directory[], token: string): boolean {
  const { counters, uncovered } = database.tables;
  const isPending = ({ name, records }: NodeStream): boolean =>
    records.slice(database.tables.checkpoints.get(name)?.lsn ?? 0).some((record) => record.token === token);
  return (
    counters.get(token) === 1n ||
    uncovered.some((row) => row.token === token) ||
    directories.some(({ streams }) => streams.some(isPending))
  );
}
