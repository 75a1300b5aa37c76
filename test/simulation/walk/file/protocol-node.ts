/**
 * A node that follows the protocol of streams and checkpoints in the simplest way, with a directory in memory that survives its
 * processes. It has none of the product's parts: with it, a walk searches the statements and the simulated database alone.
 */
import * as sql from '#product/db/statements.js';
import type { SimulatedSession } from '../../database/session.js';
import type { Tables } from '../../database/tables.js';
import type { Row } from '../../database/values.js';
import { type Position, positionOf, WalkProcess, type WalkWorld } from '../process.js';
import type { WalkWriter } from '../walk.js';
import { textOfSeconds, valuesOfFlush, type WalkRecord } from '../walk-flush.js';
import type { WalkRequest } from '../walk-request.js';

/** A stream with its journal and its mark. Only `taken` is lost with the process. */
interface NodeStream {
  readonly name: string;
  /** The record of LSN n is at n − 1: a request, and N in seconds. */
  readonly records: WalkRecord[];
  mark: 'unregistered' | 'open' | 'closed';
  /** The stream under which idempotent requests are accepted until this one is registered. */
  readonly cover: NodeStream | undefined;
  taken: Position | undefined;
}

/** What survives the processes of a node. */
export class Directory {
  streams: NodeStream[] = [];
  /** The largest time of the database that is noted. */
  heard = 0;

  /** Whether a record above the checkpoint of its stream has the request. */
  isPending(request: string, checkpoints: Tables['checkpoints']): boolean {
    return this.streams.some(({ name, records }) =>
      records.slice(checkpoints.get(name)?.lsn ?? 0).some(({ token }) => token === request),
    );
  }
}

/** How long a process rests between two pieces of work, in ms. */
const PACE_MS = 20;
/** One of so many pieces of work meets with trouble. */
const TROUBLE_ONE_IN = 12;

/** One process. */
export class ProtocolNode extends WalkProcess implements WalkWriter {
  readonly directory: Directory;
  readonly #own: NodeStream;
  #heard: number;
  #hasDatabase: boolean;
  #isStopping = false;

  /** Without the database it begins with a new stream, unless there is none at all. */
  constructor(world: WalkWorld, directory: Directory, hasDatabase: boolean, name: string) {
    super(world, name, ['crash', 'loseConnection']);
    this.directory = directory;
    this.#hasDatabase = hasDatabase;
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
    this.note(() => ` starts ${hasDatabase ? 'with' : 'without'} the database, stream ${this.#own.name}`);
    this.begin(this.#work());
  }

  /** The database answers from now on. */
  findDatabase(): void {
    this.#hasDatabase = true;
  }

  override stop(): void {
    this.#isStopping = true;
  }

  get isIdle(): boolean {
    return this.directory.streams.every(({ records, taken }) => taken?.lsn === records.length);
  }

  /** Takes a request durably into the journal, or refuses it. */
  accept(request: WalkRequest): void {
    const isTaken = request.isPlain ? this.#acceptPlain(request.name) : this.#acceptIdempotent(request.name);
    this.world.settle(request, isTaken ? 'acknowledged' : 'refused');
  }

  #acceptIdempotent(token: string): boolean {
    const { records, taken, cover } = this.#own;
    const isCovered = taken === undefined ? this.#own.mark === 'unregistered' && cover?.mark === 'open' : true;
    if (this.life.isOver || this.#isStopping || !isCovered) return false;
    if (taken !== undefined && this.#heard < taken.coveredFrom) return false;
    const isPending = records.slice(taken?.lsn ?? 0).some((record) => record.token === token);
    if (!isPending) this.#append(token, false);
    return true;
  }

  #acceptPlain(name: string): boolean {
    if (this.life.isOver || this.#isStopping || (this.#own.taken ?? this.#own.cover) === undefined) return false;
    this.#append(name, true);
    return true;
  }

  #append(token: string, isPlain: boolean): void {
    const { records, name } = this.#own;
    this.#note();
    records.push({ token, heard: this.#heard, isPlain });
    this.note(() => `: ${token} is LSN ${records.length} of ${name}, N ${this.#heard}`);
  }

  #work(): Promise<void> {
    return this.repeat(
      () => this.world.random.below(PACE_MS),
      () => (this.#hasDatabase ? this.withDatabase((session) => this.#step(session)) : Promise.resolve()),
    );
  }

  /** It takes its streams again with the next connection. */
  protected override expect(error: unknown): void {
    super.expect(error);
    for (const stream of this.directory.streams) stream.taken = undefined;
  }

  /** One piece of work: first what is unregistered, then any other. */
  async #step(session: SimulatedSession): Promise<void> {
    const { random } = this.world;
    const { streams } = this.directory;
    const first = streams.find(({ mark, taken }) => mark === 'unregistered' && taken === undefined);
    const stream = first ?? random.pick(streams);
    this.fallOnceIn(TROUBLE_ONE_IN);
    if (stream.taken === undefined) await this.#take(session, stream);
    else if (stream.taken.lsn < stream.records.length) await this.#flush(session, stream, stream.taken);
    else if (stream !== this.#own) await this.#retire(session, stream, stream.taken);
    else if (this.#isStopping && streams.length === 1) await this.#close(session, stream, stream.taken);
    else if (random.below(4) === 0) await this.#touch(session, stream, stream.taken);
  }

  async #take(session: SimulatedSession, stream: NodeStream): Promise<void> {
    const { name, records } = stream;
    const row = await this.take(session, name, async (run, found) => {
      this.#hear(found?.['database_time']);
      await run(sql.READ_CLAIMS, [name]);
      const claims = [[this.world.uuid()], [Math.max(records.length, Number(found?.['lsn'] ?? 0))]];
      return found?.['epoch'] === null
        ? run(sql.MAKE_CHECKPOINT, [name, ...claims, 'node', 0, 'file', this.#lsnOfMissingRow(stream)])
        : run(sql.TAKE_CHECKPOINT, [name, ...claims]);
    });
    if (row === undefined) return;
    this.#note();
    stream.mark = 'open';
    stream.taken = positionOf(row);
    this.note(() => ` has taken ${name}: ${JSON.stringify(stream.taken)}`);
  }

  /** A row that was there is missing: an operator, who knows everything, says what was counted. */
  #lsnOfMissingRow({ mark, name }: NodeStream): number {
    return mark === 'unregistered' ? 0 : (this.world.database.highWater.get(name) ?? 0);
  }

  async #flush(session: SimulatedSession, stream: NodeStream, taken: Position): Promise<void> {
    const { records, name } = stream;
    const to = records.length;
    const values = valuesOfFlush(name, taken, records.slice(taken.lsn));
    const [result] = await session.query<Row>({ text: sql.FLUSH_WITH_REJECTED, values });
    this.#hear(result?.['database_time']);
    if (result?.['fenced'] === 1) taken.lsn = to;
    else stream.taken = undefined;
  }

  async #touch(session: SimulatedSession, stream: NodeStream, taken: Position): Promise<void> {
    this.#note();
    const values = [stream.name, taken.epoch, taken.lsn, textOfSeconds(this.#heard)];
    const [row] = await session.query<Row>({ text: sql.TOUCH_CHECKPOINT, values });
    if (row === undefined) stream.taken = undefined;
    else this.#hear(row['database_time']);
  }

  async #close(session: SimulatedSession, stream: NodeStream, taken: Position): Promise<void> {
    stream.mark = 'closed';
    await session.query<Row>({ text: sql.CLOSE_STREAM, values: [stream.name, taken.epoch, taken.lsn] });
    this.crash();
  }

  /** A stream that is not the process's own ends once nothing is left in it. */
  async #retire(session: SimulatedSession, stream: NodeStream, taken: Position): Promise<void> {
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
}
