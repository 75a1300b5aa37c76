/**
 * The part of JetStream that the journal uses: one stream with a subject for each stream of increments, and publishes that expect
 * the last sequence of their subject. It behaves as nats-server 2.9.10 does, with the faults of its network and its clusters.
 *
 * ```text
 * sent → arrived → stored, or refused → answered        each takes a while
 *
 * lost:       it never arrives, or its answer does not: unknown after the client's timeout
 * late:       the same, and it arrives after other publishes
 * in process: it is answered as a mismatch, and arrives later
 * ```
 *
 * Sequences are those of the whole stream: each subject has only some of them.
 *
 * It can lose what it has acknowledged: it restarts with an earlier state, or with none, and gives later messages the sequences of
 * those that are lost. What was on its way is lost, too: only a loss of power at all of its servers takes what was acknowledged.
 */
import type { Broker, BrokerMessage, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import type { JournalStore } from '#product/shard-worker/protocol/control-messages.js';
import type { Mulberry32 } from '../support/mulberry32.js';
import { Life, type Scheduler } from './scheduler.js';

/** What kind of server it is. */
export interface BrokerKind {
  /** A cluster before 2.11: of two publishes with one expectation both may be stored, and one publish may be stored twice. */
  readonly isOldCluster: boolean;
  /** A read may be answered by a replica that is behind. */
  readonly hasReplicas: boolean;
  /** Most by which a replica is behind, in ms. 60 if not given. */
  readonly lagMaxMs?: number | undefined;
}

/** It does not answer, or says that it cannot. */
export class BrokerUnavailable extends Error {
  override readonly name = 'BrokerUnavailable';
}

/** An expectation that every stream meets. For bugs only: the product always expects a sequence. */
export const ANY_SEQUENCE = -1;

/** The client's time limit for an answer, in ms. */
const TIMEOUT_MS = 60;
/** Most by which a late publish is late, and a copy, in ms. */
const LATE_MAX_MS = 1500;
const COPY_MAX_MS = 200;
/** Most by which a replica is behind, in ms. */
const LAG_MAX_MS = 60;
/** How long after a message an old cluster may store another one with the same expectation, in ms. */
const RACE_MS = 100;
/** One of so many publishes meets with a fault, and one of so many questions. */
const FAULT_ONE_IN = 12;
const UNANSWERED_ONE_IN = 50;

interface Publish {
  readonly stream: string;
  readonly data: Uint8Array;
  readonly expectedSequence: number;
  /** The database of the writer. */
  readonly database: string | undefined;
  /** Of a fence. */
  readonly endLsn: number | undefined;
  readonly answer: (outcome: PublishOutcome) => void;
}

/** Called with the messages that a purge removes, and with those that are lost. */
export interface BrokerWatch {
  purged(stream: string, messages: readonly BrokerMessage[]): void;
  lost(stream: string, messages: readonly BrokerMessage[]): void;
}

interface Stored extends BrokerMessage {
  readonly storedAt: number;
  removedAt: number;
}

/** What the broker had on its disk at some time. */
export interface BrokerState {
  readonly subjects: ReadonlyMap<string, readonly Stored[]>;
  readonly sequence: number;
}

/** A store that is new. */
export const EMPTY_STATE: BrokerState = { subjects: new Map(), sequence: 0 };

/** What it belongs to. */
export const STORE: JournalStore = {
  id: '5708e000-0000-4000-8000-000000000001',
  databaseId: 'da7aba5e-0000-4000-8000-000000000001',
  isAdopted: false,
};

/** The server, or the cluster. */
export class SimulatedBroker {
  /** It does not answer. */
  isGone = false;
  /** It has reached a limit of its stream, and discards new messages. */
  isFull = false;
  /** So many of the following publishes are stored, and not answered. */
  loseNext = 0;
  /** Multiplies the time that everything takes. */
  slowness = 1;
  /** Publishes that may still be stored. */
  underWay = 0;
  /** Most by which a replica is behind, in ms. */
  readonly lagMaxMs: number;
  readonly #scheduler: Scheduler;
  readonly #random: Mulberry32;
  readonly #kind: BrokerKind;
  readonly #watch: BrokerWatch | undefined;
  readonly #network = new Life(throwOn);
  readonly #subjects = new Map<string, Stored[]>();
  #sequence = 0;
  #isHealthy = false;
  /** How often it has restarted, and until when the last restart takes. */
  #run = 0;
  #isUpAt = 0;
  /** Of messages that were lost, by stream. */
  readonly #lostSequences = new Map<string, readonly number[]>();

  constructor(scheduler: Scheduler, random: Mulberry32, kind: BrokerKind, watch?: BrokerWatch) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#kind = kind;
    this.lagMaxMs = kind.lagMaxMs ?? LAG_MAX_MS;
    this.#watch = watch;
  }

  /** A client's connection, which ends with its life. */
  connect(life: Life): Broker {
    return {
      store: STORE,
      address: 'simulated',
      connect: () => Promise.resolve(),
      publish: (stream, data, expectedSequence, endLsn) =>
        this.#publish(life, { stream, data, expectedSequence, endLsn, database: STORE.databaseId }),
      last: (stream) => this.#ask(life, () => this.#seen(stream).at(-1)),
      read: (stream, from, max) =>
        this.#ask(life, () =>
          this.#seen(stream)
            .filter(({ sequence }) => sequence >= from)
            .slice(0, max),
        ),
      purge: (stream, beforeSequence) => this.#ask(life, () => this.#purge(stream, beforeSequence)),
      streams: () => this.#ask(life, () => this.#counts()),
      close: () => Promise.resolve(),
    };
  }

  /** The time after which a client does not wait for an answer any longer. */
  timeout(life: Life): Promise<void> {
    return new Promise((resolve) => this.#scheduler.after(TIMEOUT_MS, life, resolve));
  }

  /** What a stream holds at this moment. */
  messages(stream: string): readonly Stored[] {
    return this.#at(stream, this.#scheduler.now);
  }

  /** The streams that hold anything. */
  get names(): readonly string[] {
    return [...this.#counts().keys()];
  }

  /** It may have lost messages. */
  get hasRestarted(): boolean {
    return this.#run > 0;
  }

  /** It cannot be reached. */
  get isDown(): boolean {
    return this.isGone || this.#isRestarting;
  }

  get #isRestarting(): boolean {
    return this.#scheduler.now < this.#isUpAt;
  }

  /** What it has now. */
  snapshot(): BrokerState {
    const present = [...this.#subjects.keys()].map((stream) => [stream, [...this.messages(stream)]] as const);
    return { subjects: new Map(present), sequence: this.#sequence };
  }

  /**
   * Restarts, which takes a while, and has forgotten what came after `state`. From then on subjects that nobody here knows take some
   * of the sequences that are free again, so that a message often gets the sequence that a lost one of its subject had.
   */
  restart(state: BrokerState, ms: number): void {
    const before = new Map([...this.#subjects.keys()].map((stream) => [stream, this.messages(stream)]));
    this.#subjects.clear();
    for (const [stream, messages] of state.subjects)
      this.#subjects.set(
        stream,
        messages.map((message) => ({ ...message, removedAt: Number.POSITIVE_INFINITY })),
      );
    this.#sequence = state.sequence;
    this.#run += 1;
    this.#isUpAt = this.#scheduler.now + ms;
    for (const [stream, messages] of before) {
      const kept = new Set(state.subjects.get(stream)?.map(({ sequence }) => sequence));
      const lost = messages.filter(({ sequence }) => !kept.has(sequence));
      const sequences = this.#lostSequences.get(stream) ?? [];
      this.#lostSequences.set(stream, [...sequences, ...lost.map(({ sequence }) => sequence)]);
      this.#watch?.lost(stream, lost);
    }
  }

  /** From here on nothing is lost, late, behind or stored twice. */
  heal(): void {
    this.isGone = false;
    this.isFull = false;
    this.loseNext = 0;
    this.slowness = 1;
    this.#isHealthy = true;
  }

  #publish(life: Life, request: Omit<Publish, 'answer'>): Promise<PublishOutcome> {
    return new Promise((resolve) => {
      const timeout = this.#scheduler.after(TIMEOUT_MS, life, () =>
        resolve({ kind: 'unknown', error: new BrokerUnavailable('timeout') }),
      );
      const answer = (outcome: PublishOutcome): void => {
        this.#scheduler.after(this.#latency(), life, () => {
          timeout.cancel();
          resolve(outcome);
        });
      };
      this.#send({ ...request, answer });
    });
  }

  #send(publish: Publish): void {
    const { data } = publish;
    const silent = { ...publish, data: new Uint8Array(data), answer: () => undefined };
    if (this.loseNext > 0) {
      this.loseNext -= 1;
      this.#arrive(silent, this.#latency());
      return;
    }
    if (this.#isRestarting) {
      if (this.#random.below(2) === 0)
        publish.answer({ kind: 'refused', error: new BrokerUnavailable('not connected') });
      return;
    }
    if (!this.isDown && !this.#hasFault()) {
      this.#arrive({ ...publish, data: new Uint8Array(data) }, this.#latency());
      return;
    }
    switch (this.#random.below(5)) {
      case 0:
        // It never arrives.
        return;
      case 1:
        this.#arrive(silent, this.#latency());
        return;
      case 2:
        this.#arrive(silent, this.#random.below(LATE_MAX_MS));
        return;
      case 3:
        if (!this.isDown) publish.answer({ kind: 'mismatch' });
        this.#arrive(silent, this.#random.below(this.#random.pick([20, LATE_MAX_MS])));
        return;
      default:
        // Nobody responds: the message was not taken.
        publish.answer({ kind: 'refused', error: new BrokerUnavailable('no responders') });
    }
  }

  #hasFault(oneIn = FAULT_ONE_IN): boolean {
    return !this.#isHealthy && this.#random.below(oneIn) === 0;
  }

  #arrive(publish: Publish, delayMs: number): void {
    this.underWay += 1;
    const run = this.#run;
    this.#scheduler.after(delayMs, this.#network, () => {
      this.underWay -= 1;
      if (!this.isDown && run === this.#run) publish.answer(this.#take(publish));
    });
  }

  #take({ stream, data, expectedSequence, database, endLsn }: Publish): PublishOutcome {
    const last = this.messages(stream).at(-1)?.sequence ?? 0;
    const fits = expectedSequence === ANY_SEQUENCE || expectedSequence === last;
    if (!fits && !this.#races(stream, expectedSequence)) return { kind: 'mismatch' };
    if (this.isFull) return { kind: 'refused', error: new BrokerUnavailable('maximum bytes exceeded') };
    const sequence = this.store(stream, data, database, endLsn);
    if (this.#kind.isOldCluster && this.#hasFault()) this.#copyLater(stream, data, database, endLsn);
    return { kind: 'published', sequence };
  }

  /** Another publish with the same expectation was stored just now. */
  #races(stream: string, expectedSequence: number): boolean {
    if (!this.#kind.isOldCluster || this.#isHealthy) return false;
    const stored = this.#subjects.get(stream) ?? [];
    const [before, last] = [stored.at(-2)?.sequence ?? 0, stored.at(-1)];
    const isRecent = last !== undefined && last.storedAt >= this.#scheduler.now - RACE_MS;
    return isRecent && expectedSequence === before && this.#random.below(2) === 0;
  }

  /** Stores a message, of a writer in that database. Returns its sequence. */
  store(stream: string, data: Uint8Array, database: string | undefined, endLsn?: number): number {
    this.#sequence = this.#nextSequence(stream);
    const message: Stored = {
      sequence: this.#sequence,
      data,
      database,
      endLsn,
      storedAt: this.#scheduler.now,
      removedAt: Number.POSITIVE_INFINITY,
    };
    const stored = this.#subjects.get(stream);
    if (stored === undefined) this.#subjects.set(stream, [message]);
    else stored.push(message);
    return this.#sequence;
  }

  #nextSequence(stream: string): number {
    const next = this.#sequence + 1;
    const last = this.#lostSequences.get(stream)?.at(-1) ?? 0;
    return last > next && this.#random.below(4) > 0 ? last : next;
  }

  /** The cluster proposes a message again. */
  #copyLater(stream: string, data: Uint8Array, database: string | undefined, endLsn: number | undefined): void {
    this.underWay += 1;
    const run = this.#run;
    this.#scheduler.after(this.#random.below(COPY_MAX_MS), this.#network, () => {
      this.underWay -= 1;
      if (run === this.#run) this.store(stream, data, database, endLsn);
    });
  }

  #purge(stream: string, beforeSequence: number): void {
    const { now } = this.#scheduler;
    const stored = this.#subjects.get(stream) ?? [];
    this.#watch?.purged(
      stream,
      this.messages(stream).filter(({ sequence }) => sequence < beforeSequence),
    );
    for (const message of stored) {
      if (message.sequence < beforeSequence) message.removedAt = Math.min(message.removedAt, now);
    }
    this.#subjects.set(
      stream,
      stored.filter(({ removedAt }) => removedAt > now - this.lagMaxMs),
    );
  }

  /** What a reader sees. */
  #seen(stream: string): readonly BrokerMessage[] {
    const isBehind = this.#kind.hasReplicas && !this.#isHealthy && this.#random.below(4) === 0;
    return this.#at(stream, this.#scheduler.now - (isBehind ? this.#random.below(this.lagMaxMs) : 0));
  }

  #at(stream: string, time: number): readonly Stored[] {
    const stored = this.#subjects.get(stream) ?? [];
    return stored.filter(({ storedAt, removedAt }) => storedAt <= time && removedAt > time);
  }

  #counts(): ReadonlyMap<string, number> {
    const counts = [...this.#subjects.keys()].map((stream) => [stream, this.messages(stream).length] as const);
    return new Map(counts.filter(([, messages]) => messages > 0));
  }

  /** A question, or a command whose repetition does no harm. Without an answer it may have had its effect, too. */
  #ask<T>(life: Life, act: () => T): Promise<T> {
    const isLost = this.isDown || this.#hasFault(UNANSWERED_ONE_IN);
    const run = this.#run;
    return new Promise((resolve, reject) => {
      const fail = (): void => reject(new BrokerUnavailable('the broker does not answer'));
      if (isLost) this.#scheduler.after(TIMEOUT_MS, life, fail);
      if (isLost && (this.#random.below(2) === 0 || this.#isRestarting)) return;
      this.#scheduler.after(this.#latency(), this.#network, () => {
        if (run !== this.#run) {
          if (!isLost) this.#scheduler.after(TIMEOUT_MS, life, fail);
          return;
        }
        const result = act();
        if (!isLost) this.#scheduler.after(this.#latency(), life, () => resolve(result));
      });
    });
  }

  #latency(): number {
    return (this.#random.below(20) / 10) * this.slowness;
  }
}

function throwOn(error: unknown): never {
  throw error;
}
