/**
 * Group commit: takes all batches that wait on the ports as one group, journals it with one sync, applies and acknowledges it.
 * Shard thread.
 *
 * ```text
 * idle ──a batch arrives──► drain all ports ──► append (one sync) ──► apply ──► answer ──► drain again, until empty
 * ```
 *
 * While the journal syncs one group, the next gathers on the ports. So latency is at most two syncs at any load. The technique
 * is from DeWitt et al., "Implementation techniques for main memory database systems", 1984.
 */
import type { Refusal } from '../../core/bounds.js';
import { JournalError } from '../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../core/checkpoint.js';
import {
  incrementEnd,
  keyBytesAt,
  keyHashAt,
  keyStart,
  readUint64,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
} from '../protocol/record-layout.js';
import { IDEMPOTENT_OUTCOME, type BatchAnswer, type BatchMessage } from '../protocol/batches.js';
import type { HttpServerPort } from '../protocol/batch-ports.js';
import type { RecordBytes } from '../journal/journal.js';
import {
  admitRequests,
  failedOutcomes,
  knownOutcomes,
  settledOutcomes,
  type IdempotencyMemory,
} from './idempotency/idempotency-admission.js';

/** Most bytes of one group, unless the journal's limit is lower. Further batches wait for the next. */
const GROUP_BYTES_MAX = 16 * 1024 * 1024;

/** The shard as group commit sees it. */
export interface GroupTarget extends IdempotencyMemory {
  /** Waits until the journal may take a first record. Undefined if there is nothing to wait for. */
  open(): Promise<void> | undefined;
  /** Whether a record that carries `heardTime` can take idempotent requests now. */
  coversIdempotent(heardTime: DatabaseTime): boolean;
  /** Whether a batch was opened before the current stream began. `generation`: see `STAT.generation`. */
  isStale(generation: number): boolean;
  /** Most bytes of a group; infinite: any number. */
  readonly groupBytesMax: number;
  /** The largest time of the database that the shard has heard. */
  readonly heardTime: DatabaseTime;
  /**
   * Returns the last LSN, as a promise if the journal is over a network. `heardTime`: heard when the oldest batch of the group
   * came. A record must not carry a later time than its idempotent requests.
   */
  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Lsn | Promise<Lsn>;
  /** Adds the journaled records to the sums; `lastLsn` is that of the last one. */
  apply(group: readonly RecordBytes[], lastLsn: Lsn): void;
  /** Counts idempotent requests that are answered as replays. */
  noticeReplays(requests: number): void;
  /** The group has an outcome. If it is not durable, its idempotency keys are forgotten. */
  endGroup(durable: boolean): void;
  /** Whether the key is pending, so that adding to it needs no new key. */
  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean;
  /** The journal has failed, or this code has a bug. The shard must end. */
  failed(error: unknown): void;
}

/** Of a plain batch: the refusal, or undefined. Of a batch of idempotent requests: the outcome of each. */
type Admission = Refusal | undefined | Uint8Array;

interface Waiting {
  readonly port: number;
  readonly message: BatchMessage;
  /** See {@link GroupTarget.heardTime}. */
  readonly heardTime: DatabaseTime;
}

/** The loop between ports and journal. */
export class GroupCommit {
  readonly #ports: readonly HttpServerPort[];
  readonly #target: GroupTarget;
  #waiting: Waiting[] = [];
  #busy = false;
  #closed = false;
  #idle: (() => void)[] = [];

  constructor(ports: readonly HttpServerPort[], target: GroupTarget) {
    this.#ports = ports;
    this.#target = target;
  }

  /** Starts to listen on the ports. */
  start(): void {
    for (const [index, port] of this.#ports.entries()) {
      port.listen((message) => {
        this.#wait(index, message);
        this.#commitAll();
      });
    }
  }

  /** Commits the batches that wait on the ports, then closes them. */
  async close(): Promise<void> {
    this.#commitAll();
    while (this.#busy) await new Promise<void>((resolve) => this.#idle.push(resolve));
    this.#closed = true;
    for (const port of this.#ports) port.close();
  }

  #commitAll(): void {
    if (this.#busy || this.#closed) return;
    this.#busy = true;
    const under = this.#step();
    if (under === undefined) this.#becomeIdle();
    else {
      under.then(
        () => {
          this.#becomeIdle();
          this.#commitAll();
        },
        (error: unknown) => {
          this.#becomeIdle();
          this.#target.failed(error);
        },
      );
    }
  }

  #becomeIdle(): void {
    this.#busy = false;
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }

  /**
   * Commits groups until nothing waits. Undefined if it finished synchronously. `isOpened`: the first group has waited for the
   * journal already.
   */
  #step(isOpened = false): Promise<void> | undefined {
    let hasWaited = isOpened;
    for (;;) {
      this.#drainPorts();
      if (this.#waiting.length === 0) return undefined;
      const opening = hasWaited ? undefined : this.#target.open();
      if (opening !== undefined) return opening.then(() => this.#step(true));
      hasWaited = false;
      const taken = this.#takeGroup();
      const records: RecordBytes[] = [];
      // The first batch is the oldest, because heard times never go back.
      const heardTime = taken[0]?.heardTime ?? 0;
      const refusals = taken.map((waiting) => this.#admit(waiting, records, heardTime));
      const pending = this.#commit(taken, refusals, records, heardTime);
      if (pending !== undefined) return pending;
    }
  }

  /** Takes every message that has arrived. */
  #drainPorts(): void {
    for (const [index, port] of this.#ports.entries()) {
      for (;;) {
        const message = port.receive();
        if (message === undefined) break;
        this.#wait(index, message);
      }
    }
  }

  #wait(port: number, message: BatchMessage): void {
    this.#waiting.push({ port, message, heardTime: this.#target.heardTime });
  }

  #takeGroup(): Waiting[] {
    const bytesMax = Math.min(GROUP_BYTES_MAX, this.#target.groupBytesMax);
    let bytes = 0;
    let count = 0;
    for (const { message } of this.#waiting) {
      bytes += recordBytes(message.memory);
      if (count > 0 && bytes > bytesMax) break;
      count += 1;
    }
    if (count === this.#waiting.length) {
      const all = this.#waiting;
      this.#waiting = [];
      return all;
    }
    return this.#waiting.splice(0, count);
  }

  /**
   * Adds to `records` what the journal must keep of the batch. Returns what is known of its outcome. `heardTime`: of the oldest
   * batch of the group; all its records carry it.
   */
  #admit(waiting: Waiting, records: RecordBytes[], heardTime: DatabaseTime): Admission {
    const { kind, memory } = waiting.message;
    const record = new Uint8Array(memory, 0, recordBytes(memory));
    if (kind === 'onlyKnownKeys') return knownOutcomes(record, this.#target, 'overloaded');
    const isStale = this.#target.isStale(generationOf(record));
    if (kind === 'idempotent') {
      if (isStale) return knownOutcomes(record, this.#target, 'journal-unavailable');
      if (!this.#target.coversIdempotent(heardTime)) return knownOutcomes(record, this.#target, 'starting');
      const { record: admitted, outcomes } = admitRequests(record, this.#target);
      if (admitted !== undefined) records.push(admitted);
      return outcomes;
    }
    if (isStale) return 'journal-unavailable';
    if (kind === 'onlyPendingKeys' && !this.#holdsAll(record)) return 'pending-keys';
    records.push(record);
    return undefined;
  }

  #holdsAll(record: RecordBytes): boolean {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    for (let at = RECORD_HEADER_BYTES; at < record.length; at = incrementEnd(view, at)) {
      if (!this.#target.holds(keyHashAt(view, at), record, keyStart(at), keyBytesAt(view, at))) return false;
    }
    return true;
  }

  #commit(
    taken: readonly Waiting[],
    refusals: readonly Admission[],
    records: readonly RecordBytes[],
    heardTime: DatabaseTime,
  ): Promise<void> | undefined {
    let lsn: Lsn | Promise<Lsn>;
    try {
      if (records.length === 0) {
        this.#succeed(taken, refusals);
        return undefined;
      }
      lsn = this.#target.append(records, heardTime);
    } catch (error) {
      this.#refuse(taken, refusals, error);
      return undefined;
    }
    if (typeof lsn === 'number') {
      this.#target.apply(records, lsn);
      this.#succeed(taken, refusals);
      return undefined;
    }
    return lsn.then(
      (last) => {
        this.#target.apply(records, last);
        this.#succeed(taken, refusals);
      },
      (error: unknown) => {
        this.#refuse(taken, refusals, error);
      },
    );
  }

  /** The journal did not take the group. The answer is "not counted" only if the journal is sure that it kept nothing. */
  #refuse(taken: readonly Waiting[], refusals: readonly Admission[], error: unknown): void {
    const nothingKept = error instanceof JournalError && error.nothingKept;
    const why: Refusal = !nothingKept
      ? 'outcome-unknown'
      : error.code === 'journal-full'
        ? 'journal-bytes'
        : 'journal-unavailable';
    this.#target.endGroup(false);
    this.#answer(
      taken,
      refusals.map((refusal) => (refusal instanceof Uint8Array ? failedOutcomes(refusal, why) : (refusal ?? why))),
    );
    if (!nothingKept) this.#target.failed(error);
  }

  #succeed(taken: readonly Waiting[], refusals: readonly Admission[]): void {
    this.#target.endGroup(true);
    this.#answer(
      taken,
      refusals.map((refusal) => (refusal instanceof Uint8Array ? settledOutcomes(refusal) : refusal)),
    );
  }

  #countReplays(outcomes: Uint8Array): void {
    let replays = 0;
    for (const outcome of outcomes) if (outcome === IDEMPOTENT_OUTCOME.replayed) replays += 1;
    if (replays > 0) this.#target.noticeReplays(replays);
  }

  /** Answers each port in the order of its batches. Consecutive equal outcomes are one message. */
  #answer(taken: readonly Waiting[], admissions: readonly Admission[]): void {
    for (const [index, port] of this.#ports.entries()) {
      let run = 0;
      let runRefusal: Refusal | undefined;
      for (const [position, waiting] of taken.entries()) {
        if (waiting.port !== index) continue;
        const admission = admissions[position];
        const isOutcomes = admission instanceof Uint8Array;
        if (run > 0 && (isOutcomes || admission !== runRefusal)) {
          post(port, run, runRefusal);
          run = 0;
        }
        if (isOutcomes) {
          this.#countReplays(admission);
          port.post({ outcomes: admission });
          continue;
        }
        runRefusal = admission;
        run += 1;
      }
      if (run > 0) post(port, run, runRefusal);
    }
  }
}

/** A batch carries the stream generation where its record will have its LSN. */
function generationOf(record: RecordBytes): number {
  return readUint64(new DataView(record.buffer, record.byteOffset, record.byteLength), RECORD_OFFSET.lsn);
}

function recordBytes(memory: ArrayBufferLike): number {
  return new DataView(memory).getUint32(RECORD_OFFSET.bytes, true);
}

function post(port: HttpServerPort, count: number, refusal: Refusal | undefined): void {
  const answer: BatchAnswer = refusal === undefined ? count : { refused: count, refusal };
  port.post(answer);
}
