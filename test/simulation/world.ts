/**
 * What the processes of a history share: time, chance, disk, database and the knowledge of clients. It also watches, from
 * outside of the product, the invariants that hold at every step.
 */
import {
  amountAt,
  idempotencyKeyEnd,
  incrementEnd,
  isIdempotent,
  keyBytesAt,
  keyStart,
  readUint64,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
} from '#product/shard-worker/protocol/record-layout.js';
import type { BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import { decodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { isFence } from '#product/shard-worker/journal/nats/nats-message.js';
import { Mulberry32 } from '../support/mulberry32.js';
import { Expectations, Violation, type ClientRequest, type Part } from './expectations.js';
import type { Mutations } from './mutations.js';
import { isPoison } from './database/values.js';
import type { TimeScale } from './database/database-clock.js';
import type { FlushEffect } from './database/flush-effect.js';
import type { UncoveredRow } from './database/tables.js';
import { PostgresModel } from './postgres-model.js';
import { QueuedRecords, recordsOf } from './queued-records.js';
import { Scheduler } from './scheduler.js';
import { SimulatedBroker, type BrokerKind } from './simulated-broker.js';
import { isStranger } from './strangers.js';
import { SimulatedQueue, type QueueKind, type QueueMessage } from './simulated-queue.js';
import { Storage } from './storage.js';

/** Acknowledged and not yet durable, as `everysec` allows. */
interface AtRisk {
  readonly storage: Storage;
  readonly stream: string;
  readonly lsn: number;
  readonly at: number;
  /** When the thread that wrote it ended. */
  endedAt: number | undefined;
  readonly parts: readonly Part[];
}

/** A record that the broker has lost. */
interface LostRecord {
  readonly stream: string;
  readonly lsn: number;
  readonly parts: readonly Part[];
}

/** Events of a history that weaken the guarantees, for the checks. */
export interface Circumstances {
  /** `everysec` was used. */
  deferredSync: boolean;
  /** A sync of the file journal failed since the power was last lost. */
  syncFailed: boolean;
  /** One has failed at any time, on any disk. */
  syncEverFailed: boolean;
  /** Records were committed from memory after a failed sync, and no disk took them. */
  fromMemory: boolean;
  /** Another process may own a stream of this node. */
  copied: boolean;
  /** The database went back in time, and the journal need not reach back so far. */
  tooLate: boolean;
  /** The database went back in time, or somebody has changed its rows. */
  databaseChanged: boolean;
  /** An operator moves records to another stream. */
  isRebinding: boolean;
  /** The broker has lost what it acknowledged. */
  brokerChanged: boolean;
  /** Whoever flushes what the broker has lost has it in memory. */
  memoryHasIt: boolean;
}

/** Everything outside of the processes. */
export class World {
  readonly scheduler = new Scheduler();
  readonly random: Mulberry32;
  readonly expectations = new Expectations();
  readonly database: PostgresModel;
  readonly storage: Storage;
  readonly mutations: Mutations;
  readonly circumstances: Circumstances = {
    deferredSync: false,
    syncFailed: false,
    syncEverFailed: false,
    fromMemory: false,
    copied: false,
    tooLate: false,
    databaseChanged: false,
    isRebinding: false,
    brokerChanged: false,
    memoryHasIt: false,
  };
  /** The journal of all processes is in the database, in {@link broker} or in {@link queue}. */
  isShared = false;
  /** Faults have come to their end. */
  isHealthy = false;
  /** Undefined: no journal is in a broker. */
  broker: SimulatedBroker | undefined;
  /** Undefined: no journal is in a queue. */
  queue: SimulatedQueue | undefined;
  /** Called with a stream of the queue of which nothing was heard for 15 days. */
  onExpired: (stream: string) => void = () => undefined;
  /** What was sent to the queue. */
  readonly queued = new QueuedRecords((entries) => this.#requestsOf(entries));
  /** One line for each event, if a trace is wanted. */
  readonly seed: number;
  readonly trace: string[] | undefined;
  /** When a whole stream was last deleted. */
  streamGoneAt = 0;
  /** Streams of which a flushed record was never deleted from the queue. */
  readonly #committedAndExpired = new Set<string>();
  readonly #acknowledgedLsn = new Map<string, number>();
  #atRisk: AtRisk[] = [];
  /** Those whose increments were committed when they were lost, and those that may be missing. */
  #lostCommitted: readonly LostRecord[] = [];
  readonly #lost: LostRecord[] = [];
  /** Streams that another server than their writer has flushed. */
  readonly #taken = new Set<string>();
  /** Streams of which a server says that the broker has lost records. */
  readonly #saidLost = new Set<string>();
  /** Streams whose unsynced records only memory and the database take. */
  readonly #stranded = new Set<string>();
  #violation: unknown;
  #streams = 0;

  constructor(seed: number, mutations: Mutations, trace: string[] | undefined, scale?: TimeScale) {
    this.seed = seed;
    this.random = new Mulberry32(seed);
    this.mutations = mutations;
    this.trace = trace;
    const databaseWatch = {
      sent: (stream: string, toLsn: number) => this.#flushSent(stream, toLsn),
      committed: (effect: FlushEffect | undefined) => this.#committed(effect),
      expired: (stream: string) => this.#expired(stream),
    };
    this.database = new PostgresModel(this.scheduler, this.random, databaseWatch, mutations, this.uuid(), scale);
    const storageWatch = {
      segmentGoes: (stream: string, lastLsn: number) => this.#segmentGoes(stream, lastLsn),
      streamGoes: (stream: string, lastLsn: number) => {
        this.streamGoneAt = this.scheduler.now;
        this.#segmentGoes(stream, lastLsn);
      },
    };
    this.storage = new Storage(this.random, storageWatch, new Mulberry32(seed ^ 0xe71c).below(2) === 0);
  }

  /** The journal of all processes is in a broker. */
  addBroker(kind: BrokerKind): SimulatedBroker {
    this.isShared = true;
    const watch = {
      purged: (stream: string, messages: readonly BrokerMessage[]) => this.#purged(stream, messages),
      lost: (stream: string, messages: readonly BrokerMessage[]) => {
        if (!isStranger(stream, this)) this.#lostInBroker(stream, messages);
      },
    };
    this.broker = new SimulatedBroker(this.scheduler, this.random, kind, watch);
    return this.broker;
  }

  /** The journal of all processes is in a queue. */
  addQueue(kind: QueueKind): SimulatedQueue {
    this.isShared = true;
    this.queue = new SimulatedQueue(this.scheduler, this.random, kind);
    this.queue.onDeleted = (message) => this.#deleted(message);
    this.queue.onExpired = (message) => this.#lostInQueue(message);
    return this.queue;
  }

  /** True with a probability of one in `times`. */
  oneIn(times: number): boolean {
    return this.random.below(times) === 0;
  }

  uuid(): string {
    this.#streams += 1;
    const digits = this.random.next().toString(16).padStart(8, '0');
    return `${digits}-0000-4000-8000-${this.#streams.toString(16).padStart(12, '0')}`;
  }

  note(what: () => string): void {
    this.trace?.push(`${this.scheduler.now.toFixed(1).padStart(9)} ${what()}`);
  }

  /** Stores a violation that was found where the product would catch an exception. */
  violate(error: unknown): void {
    this.#violation ??= error;
  }

  /** Called after each event. */
  throwViolation(): void {
    if (this.#violation !== undefined) throw this.#violation as Error;
  }

  /** A shard told an HTTP thread that this batch is in the journal. */
  acknowledged(storage: Storage, stream: string, batch: ArrayBufferLike): void {
    const view = new DataView(batch);
    // Nothing of a batch is journaled if all its idempotency keys are duplicates.
    if (view.getUint32(RECORD_OFFSET.bytes, true) === RECORD_HEADER_BYTES) return;
    const lsn = readUint64(view, RECORD_OFFSET.lsn);
    this.#acknowledgedLsn.set(stream, lsn);
    if (storage.durableLsn(stream) >= lsn) return;
    if (!this.circumstances.deferredSync) {
      this.violate(new Violation(`LSN ${lsn} of ${stream} was acknowledged before it was synced`));
    }
    this.#forgetSynced();
    this.#atRisk.push({ storage, stream, lsn, at: this.scheduler.now, endedAt: undefined, parts: this.partsOf(batch) });
  }

  /** The thread of this stream has ended: it adds nothing more that a loss of power could take. */
  threadEnded(stream: string): void {
    this.#forgetSynced();
    for (const risk of this.#atRisk) if (risk.stream === stream) risk.endedAt ??= this.scheduler.now;
  }

  /** The disk refuses the records of a failed sync, or takes them again. */
  strand(stream: string, isStranded: boolean): void {
    if (isStranded) this.#stranded.add(stream);
    else this.#stranded.delete(stream);
  }

  /** The product says that it has lost `lost` acknowledged increments of the stream above an LSN. */
  lost(stream: string, afterLsn: number, lost: number): void {
    if (!this.circumstances.deferredSync && !this.circumstances.copied) {
      this.violate(new Violation(`${lost} increments of ${stream} above LSN ${afterLsn} are lost`));
    }
    let known = 0;
    for (const { parts } of this.#takeRisks((risk) => risk.stream === stream && risk.lsn > afterLsn)) {
      known += parts.length;
      for (const { counter, digit } of parts) counter.requests[digit]?.putAtRisk();
    }
    this.#acknowledgedLsn.set(stream, Math.min(this.#acknowledgedLsn.get(stream) ?? 0, afterLsn));
    if (known === lost || this.circumstances.copied) return;
    this.violate(new Violation(`${lost} increments of ${stream} above LSN ${afterLsn} are lost, and not ${known}`));
  }

  /** A process has ended without a word: what it held in memory after a failed sync may be gone. */
  processEnded(storage: Storage): void {
    if (!this.circumstances.syncEverFailed) return;
    const isGone = (risk: AtRisk): boolean => risk.storage === storage && storage.readableLsn(risk.stream) < risk.lsn;
    for (const { stream, lsn, parts } of this.#takeRisks(isGone)) {
      this.#acknowledgedLsn.set(stream, Math.min(this.#acknowledgedLsn.get(stream) ?? 0, lsn - 1));
      for (const { counter, digit } of parts) counter.requests[digit]?.putAtRisk();
    }
  }

  #takeRisks(which: (risk: AtRisk) => boolean): readonly AtRisk[] {
    this.#forgetSynced();
    const taken = this.#atRisk.filter(which);
    this.#atRisk = this.#atRisk.filter((risk) => !which(risk));
    return taken;
  }

  /**
   * Synced records are no longer at risk, although their stream may be finished and deleted before the power is lost.
   */
  #forgetSynced(): void {
    this.#atRisk = this.#atRisk.filter((risk) => risk.storage.durableLsn(risk.stream) < risk.lsn);
  }

  #lostInBroker(stream: string, messages: readonly BrokerMessage[]): void {
    this.circumstances.brokerChanged = true;
    if (messages.length === 0) return;
    const records = messages
      .filter(({ data }) => !isFence(data))
      .flatMap(({ data }) => decodeMessage(data).records)
      .map(({ lsn, entries }) => ({ stream, lsn, parts: this.#partsIn(entries) }));
    this.note(() => `the broker has lost ${messages.length} messages of ${stream}, to LSN ${records.at(-1)?.lsn ?? 0}`);
    this.#lostCommitted = [...this.#lostCommitted, ...records];
    this.checkLost();
  }

  /** What the broker has lost, and is not committed, may be missing: after a loss, and after a failover of the database. */
  checkLost(): void {
    const { checkpoints } = this.database.tables;
    // A tombstone that is gone was committed to its end, but a failover may have taken the row.
    const { databaseChanged } = this.circumstances;
    const withoutRow = (stream: string): number => (databaseChanged ? 0 : (this.database.highWater.get(stream) ?? 0));
    const isCommitted = ({ stream, lsn }: LostRecord): boolean =>
      lsn <= (checkpoints.get(stream)?.lsn ?? withoutRow(stream));
    const missing = this.#lostCommitted.filter((record) => !isCommitted(record));
    this.#lostCommitted = this.#lostCommitted.filter(isCommitted);
    this.#lost.push(...missing);
    this.#excuse(missing);
  }

  /** Another server flushes a stream that its writer had in memory. */
  taken(stream: string): void {
    this.#taken.add(stream);
    this.#excuse(this.#lost);
  }

  #excuse(records: readonly LostRecord[]): void {
    for (const { stream, parts } of records)
      if (!this.circumstances.memoryHasIt || this.#taken.has(stream))
        for (const { counter, digit } of parts) counter.requests[digit]?.mayBeLost();
  }

  /** A server says that the broker has lost increments of a stream, of which all up to an LSN are counted. */
  saidLost(stream: string, afterLsn: number, lost: number): void {
    const records = this.#lost.filter((record) => record.stream === stream && record.lsn > afterLsn);
    const isMissing = ({ parts }: LostRecord): boolean => parts.length > 0;
    this.#saidLost.add(stream);
    if (lost > 0 && records.some(isMissing)) return;
    // A connection was silent until the row was removed, and then made it anew.
    if ((this.database.highWater.get(stream) ?? 0) > afterLsn && !this.circumstances.databaseChanged) return;
    this.violate(
      new Violation(`${lost} increments of ${stream} above LSN ${afterLsn} are said to be lost, and are not`),
    );
  }

  /** A server stops before it can know, since the database does not answer. */
  saidMayBeLost(stream: string): void {
    this.#saidLost.add(stream);
    if (
      this.#lost.some((record) => record.stream === stream) ||
      this.#lostCommitted.some((record) => record.stream === stream)
    )
      return;
    this.violate(
      new Violation(`Increments of ${stream} are said to be lost perhaps, and the broker has lost nothing of it`),
    );
  }

  /** Whether a stream has ended without increments that were in the broker up to an LSN. Whoever finds more of it opens it again. */
  lacksLost(stream: string, throughLsn: number): boolean {
    const row = this.database.tables.checkpoints.get(stream);
    if (row?.retiredAt === undefined || this.#isInBroker(stream, row.lsn + 1)) return false;
    const isMissing = ({ lsn, parts }: LostRecord): boolean => lsn > row.lsn && lsn <= throughLsn && parts.length > 0;
    return this.#lost.some((record) => record.stream === stream && isMissing(record));
  }

  /** A server ends that has written these streams, and has known that they lack increments. */
  checkSaidLost(streams: readonly string[], name: string): void {
    const silent = streams.find((stream) => !this.#saidLost.has(stream));
    if (silent !== undefined) this.violate(new Violation(`${name} does not say that increments of ${silent} are lost`));
  }

  /** The power was lost: acknowledged records that `everysec` had not synced may be lost. */
  powerLost(storage: Storage): void {
    const here = this.#atRisk.filter((risk) => risk.storage === storage);
    this.#atRisk = this.#atRisk.filter((risk) => risk.storage !== storage);
    for (const { stream, lsn, at, endedAt = this.scheduler.now, parts } of here) {
      const committed = this.database.tables.checkpoints.get(stream)?.lsn ?? 0;
      if (storage.durableLsn(stream) >= lsn || (committed >= lsn && !this.circumstances.copied)) continue;
      this.#acknowledgedLsn.set(stream, Math.min(this.#acknowledgedLsn.get(stream) ?? 0, lsn - 1));
      if (at < endedAt - 1000 && !this.circumstances.syncFailed) {
        this.violate(new Violation(`LSN ${lsn} of ${stream} was at risk for ${endedAt - at} ms`));
      }
      for (const { counter, digit } of parts) counter.requests[digit]?.putAtRisk();
    }
    this.circumstances.syncFailed = false;
  }

  /** The database's total of a key, including rows set aside. */
  sumOf(key: string): bigint {
    const { counters, rejected } = this.database.tables;
    return (counters.get(key) ?? 0n) + (rejected.get(key) ?? 0n);
  }

  /** Fails unless the database has counted every request as it was answered; `isComplete`: none that was acknowledged is missing. */
  checkSums(when: string, isComplete: boolean): void {
    const { counters, rejected } = this.database.tables;
    const wronglySetAside = [...rejected.keys()].find((key) => !isPoison(key));
    if (wronglySetAside !== undefined) this.violate(new Violation(`${wronglySetAside} is set aside ${when}`));
    const keys = [...this.expectations.counters.keys(), ...counters.keys()];
    this.expectations.check(keys, (key) => this.sumOf(key), when, isComplete);
  }

  /** The increments of a record. */
  partsOf(batch: ArrayBufferLike): Part[] {
    const end = new DataView(batch).getUint32(RECORD_OFFSET.bytes, true);
    return this.#partsIn(new Uint8Array(batch, RECORD_HEADER_BYTES, end - RECORD_HEADER_BYTES));
  }

  #requestsOf(entries: Uint8Array): readonly ClientRequest[] {
    return this.#partsIn(entries).flatMap(({ counter, digit }) => counter.requests[digit] ?? []);
  }

  #partsIn(entries: Uint8Array): Part[] {
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    const parts: Part[] = [];
    for (let at = 0; at < entries.length;) {
      if (isIdempotent(view, at)) {
        at = idempotencyKeyEnd(view, at);
        continue;
      }
      const key = Buffer.from(entries.subarray(keyStart(at), keyStart(at) + keyBytesAt(view, at))).toString();
      const counter = this.expectations.counters.get(key);
      if (counter === undefined) throw new Violation(`A batch holds ${key}, which was never sent`);
      parts.push({ counter, digit: counter.digitOf(amountAt(view, at)) });
      at = incrementEnd(view, at);
    }
    return parts;
  }

  #flushSent(stream: string, toLsn: number): void {
    if (this.isShared) {
      this.#logFlushSent(stream, toLsn);
      return;
    }
    if (this.circumstances.copied || this.storage.durableLsn(stream) >= toLsn) return;
    if (this.#stranded.has(stream)) {
      this.circumstances.fromMemory = true;
      return;
    }
    this.violate(new Violation(`A flush of ${stream} covers LSN ${toLsn}, which is not synced`));
  }

  /** What is flushed is in the log, or was before a failover. */
  #logFlushSent(stream: string, toLsn: number): void {
    const { log, checkpoints } = this.database.tables;
    const last =
      this.queue !== undefined
        ? this.queued.lastLsn(stream)
        : this.broker === undefined
          ? (log.get(stream)?.at(-1)?.lsn ?? 0)
          : this.#lastLsnInBroker(stream);
    const end = Math.max(last, checkpoints.get(stream)?.lsn ?? 0);
    // A tombstone may be gone.
    const { databaseChanged, brokerChanged } = this.circumstances;
    if (toLsn <= end || databaseChanged || brokerChanged || !checkpoints.has(stream)) return;
    this.violate(new Violation(`A flush of ${stream} covers LSN ${toLsn}, which is not in the log`));
  }

  #lastLsnInBroker(stream: string): number {
    return Math.max(0, ...(this.broker?.messages(stream) ?? []).map(lastLsnOf));
  }

  #isInBroker(stream: string, lsn: number): boolean {
    const messages = this.broker?.messages(stream) ?? [];
    return messages.some(
      ({ data }) => !isFence(data) && decodeMessage(data).records.some((record) => record.lsn === lsn),
    );
  }

  /** A cluster before 2.11 has stored the record after its stream had ended. */
  #isBehindFence(stream: string, lsn: number): boolean {
    const messages = this.broker?.messages(stream) ?? [];
    const at = messages.findIndex((message) => lastLsnOf(message) >= lsn);
    return messages.slice(0, Math.max(0, at)).some(({ data }) => isFence(data));
  }

  #purged(stream: string, messages: readonly BrokerMessage[]): void {
    const last = Math.max(0, ...messages.map(lastLsnOf));
    const committed = this.database.highWater.get(stream) ?? 0;
    this.note(() => `the broker purges ${messages.length} messages of ${stream}, to LSN ${last}`);
    if (last > committed) this.violate(new Violation(`LSN ${last} of ${stream} is purged, committed is ${committed}`));
  }

  #committed(effect: FlushEffect | undefined): void {
    if (effect === undefined) return;
    const { stream = 'another node' } = effect;
    const owner = this.database.tables.checkpoints.get(stream)?.epoch;
    if (effect.stream !== undefined && owner !== effect.epoch) {
      this.violate(
        new Violation(`A flush of epoch ${effect.epoch} commits on ${stream}, whose epoch is ${owner ?? 0}`),
      );
    }
    this.note(() => `database: ${stream} ${effect.from} → ${effect.to}: ${effect.sums.map(String).join(' ')}`);
    this.expectations.check(
      effect.sums.map(([key]) => key),
      (key) => this.sumOf(key),
      `commit of ${stream} ${effect.from} → ${effect.to}`,
      false,
    );
    for (const row of effect.uncovered) this.#setAside(row, effect.stream === undefined);
  }

  /**
   * An idempotent request is put aside only after a stream was retired under its owner, was copied, or the database went back:
   * clients retry within the window.
   */
  #setAside({ stream, lsn, key, amount, token }: UncoveredRow, isWithoutRow: boolean): void {
    this.note(() => `database: ${key} of ${token}, LSN ${lsn} of ${stream}, is put aside`);
    const counter = this.expectations.counters.get(key);
    const request = counter?.requests[counter.digitOf(Number(amount))];
    if (request === undefined || (request.idempotencyKey ?? '') !== token) {
      this.violate(new Violation(`${key} is put aside for ${token}, which does not add to it`));
      return;
    }
    request.putAside();
    const { copied, databaseChanged, brokerChanged } = this.circumstances;
    if (copied || databaseChanged || brokerChanged || this.#isBehindFence(stream, lsn)) return;
    if (this.queue === undefined ? this.database.expirations > 0 : this.#mayBeAside(stream, lsn, isWithoutRow)) return;
    this.violate(new Violation(`${token}, LSN ${lsn} of ${stream}, is put aside without need`));
  }

  /**
   * The database went back, the queue has dropped what was before it, or the stream was retired under its writer. No writer sends
   * anything to a stream whose row is gone.
   */
  #mayBeAside(stream: string, lsn: number, isWithoutRow: boolean): boolean {
    // Without the lock on groups another consumer may hold what the row is made from, or make it just now.
    if (isWithoutRow && this.queue?.hasGroupLock === false) {
      this.queued.putAtRisk(stream, lsn - 1, lsn);
      return true;
    }
    if (this.circumstances.databaseChanged || this.queued.broken.has(stream)) return true;
    return !isWithoutRow && (this.database.retiredStreams.has(stream) || this.queued.blocked.has(stream));
  }

  /** A server says that a stream lacks records. Where groups are locked nobody sees what another one holds. */
  lacks(stream: string): void {
    this.queued.blocked.add(stream);
    const isExpected = this.circumstances.databaseChanged || this.queued.broken.has(stream);
    if (this.queue?.hasGroupLock !== true || isExpected) return;
    this.violate(new Violation(`A server says that ${stream} lacks records`));
  }

  /** What goes is committed, or was kept where an operator finds it. */
  #deleted(message: QueueMessage): void {
    const { group: stream } = message;
    const { firstLsn, lastLsn } = recordsOf(message);
    this.note(() => `the queue deletes LSN ${lastLsn} of ${stream}`);
    const { checkpoints } = this.database.tables;
    if (lastLsn <= (this.database.highWater.get(stream) ?? 0)) return;
    const isKept = this.#isKept(message);
    const isGone = this.circumstances.databaseChanged || this.queued.broken.has(stream);
    // Otherwise nobody sends anything to a stream whose row is gone, not even a record without increments.
    if (isGone && (isKept || !checkpoints.has(stream))) return;
    if (isKept && this.queue?.hasGroupLock === false) {
      // Its row was made meanwhile by a consumer that held the first message all the while.
      this.queued.putAtRisk(stream, firstLsn - 1, lastLsn);
      return;
    }
    this.violate(new Violation(`LSN ${lastLsn} of ${stream} is deleted from the queue, and not committed`));
  }

  /** Whether an operator finds all of a message. */
  #isKept(message: QueueMessage): boolean {
    const { uncovered } = this.database.tables;
    const isAside = (lsn: number): boolean => uncovered.some((row) => row.stream === message.group && row.lsn === lsn);
    return recordsOf(message).records.every(({ lsn, entries }) => entries.length === 0 || isAside(lsn));
  }

  /** The queue keeps nothing for longer than its retention. */
  #lostInQueue(message: QueueMessage): void {
    const { group: stream } = message;
    const { firstLsn, lastLsn, previousLsn } = recordsOf(message);
    const row = this.database.tables.checkpoints.get(stream);
    if (row !== undefined && lastLsn <= row.lsn) {
      this.#committedAndExpired.add(stream);
      return;
    }
    const { broken } = this.queued;
    if (row !== undefined && previousLsn > row.lsn && !broken.has(stream) && !this.#isKept(message))
      this.violate(
        new Violation(`LSN ${lastLsn} of ${stream} has waited for ${previousLsn}, which is not in the queue`),
      );
    this.note(() => `LSN ${lastLsn} of ${stream} expires in the queue`);
    this.queued.putAtRisk(stream, firstLsn - 1, lastLsn);
  }

  /** A stream whose last record is flushed does not wait 15 days for its end, unless the queue has expired that record. */
  #expired(stream: string): void {
    const { queue, queued, database } = this;
    this.note(() => `the pruner retires ${stream}`);
    this.onExpired(stream);
    if (queue === undefined || (database.tables.checkpoints.get(stream)?.lsn ?? 0) < queued.closeLsn(stream)) return;
    if (this.circumstances.databaseChanged || queue.messages.some(({ group }) => group === stream)) return;
    if (this.#committedAndExpired.has(stream)) return;
    this.violate(new Violation(`${stream} has ended, and is retired after 15 days`));
  }

  #segmentGoes(stream: string, lastLsn: number): void {
    this.#forgetSynced();
    if (this.circumstances.isRebinding) return;
    const committed = this.database.highWater.get(stream) ?? 0;
    if (Math.min(lastLsn, this.#acknowledgedLsn.get(stream) ?? 0) <= committed) return;
    this.violate(new Violation(`A segment of ${stream} with LSN ${lastLsn} is deleted, committed is ${committed}`));
  }
}

const lastLsns = new WeakMap<BrokerMessage, number>();

/** 0 for a fence. */
function lastLsnOf(message: BrokerMessage): number {
  let lsn = lastLsns.get(message);
  if (lsn === undefined) {
    lsn = isFence(message.data) ? 0 : decodeMessage(message.data).lastLsn;
    lastLsns.set(message, lsn);
  }
  return lsn;
}
