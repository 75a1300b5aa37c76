/**
 * The part of Amazon SQS that a journal uses: one FIFO queue whose message groups are the streams. It behaves as AWS documents it,
 * with the faults of its network. Times are shorter than those of AWS.
 *
 * ```text
 * sent → arrived → stored, swallowed as a duplicate, or refused → answered        each takes a while
 * stored → in flight → deleted
 *                    → its visibility ends: it is delivered again
 *        → expired
 *
 * lost:    the request never arrives, or its answer does not: unknown after the client's timeout
 * late:    the same, and it arrives after its sender gave up
 * doubled: it arrives twice, since something on the way repeats it
 * refused: throttled; it was not taken, and never will be
 * ```
 */
import type { Mulberry32 } from '../support/mulberry32.js';
import { Life, type Scheduler } from './scheduler.js';

/** How a send ended, as far as its sender can know. */
export type SendOutcome =
  /** The message is stored, or one with its deduplication id was. */
  | { readonly kind: 'sent' }
  /** It is not stored, and this request never will be. */
  | { readonly kind: 'refused'; readonly error: Error }
  /** No answer came: it is stored, or will be, or not. */
  | { readonly kind: 'unknown'; readonly error: Error };

/** A message as it is sent. */
export interface QueueMessage {
  readonly group: string;
  readonly deduplicationId: string;
  readonly body: string;
}

/** A message as it is delivered. Each delivery has a receipt handle of its own. */
export interface ReceivedMessage {
  readonly group: string;
  readonly body: string;
  readonly receipt: string;
}

/** What a consumer asks for. */
export interface ReceiveOptions {
  /** At most {@link BATCH_MAX}. */
  readonly messagesMax: number;
  /** How long the queue waits for a first message; 0: it answers at once. */
  readonly waitMs: number;
  readonly visibilityMs: number;
}

/** A queue, as a client sees it. A call other than `send` rejects with {@link QueueUnavailable}; it may have had its effect. */
export interface Queue {
  send(message: QueueMessage): Promise<SendOutcome>;
  receive(options: ReceiveOptions): Promise<readonly ReceivedMessage[]>;
  /** By receipt, whether the queue reports success. A success with an old handle may have deleted nothing. */
  delete(receipts: readonly string[]): Promise<readonly boolean[]>;
  /** The messages are in flight for so long from now on; 0: no longer. */
  changeVisibility(receipts: readonly string[], visibilityMs: number): Promise<readonly boolean[]>;
}

/** What kind of queue it is. */
export interface QueueKind {
  /**
   * While a message of a group is in flight, no later one of that group is delivered. AWS documents it; without it the queue is worse
   * than any.
   */
  readonly hasGroupLock: boolean;
  /** Five minutes at AWS. */
  readonly deduplicationMs: number;
  /** 14 days, as the journal wants it. */
  readonly retentionMs: number;
  /** For bugs only: where the client's library repeats a request, a refusal of one of them is the answer. */
  readonly hidesRepeats?: boolean;
}

/** It does not answer, or says that it cannot. */
export class QueueUnavailable extends Error {
  override readonly name = 'QueueUnavailable';
}

/** Most messages of a batch. */
export const BATCH_MAX = 10;
/** Most bytes of a body. */
export const BODY_BYTES_MAX = 262_144;

/** The client's time limit for an answer, in ms. */
const TIMEOUT_MS = 40;
/** Most by which a late request is late, in ms. */
const LATE_MAX_MS = 400;
/** How often the queue looks for messages while a consumer waits, in ms. */
const POLL_MS = 4;
/** One of so many sends meets with a fault, and one of so many other requests. */
const FAULT_ONE_IN = 10;
const UNANSWERED_ONE_IN = 30;

interface Stored extends QueueMessage {
  readonly sequence: number;
  readonly sentAt: number;
  /** In flight until then. */
  hiddenUntil: number;
  deliveries: number;
}

/** The queue. */
export class SimulatedQueue {
  /** It does not answer. */
  isGone = false;
  /** It refuses sends. */
  isThrottled = false;
  /** So many of the following sends are stored, and not answered. */
  loseNext = 0;
  /** Multiplies the time that everything takes. */
  slowness = 1;
  /** Sends that may still be stored. */
  underWay = 0;
  /** Called with a message that was never deleted. */
  onExpired: (message: QueueMessage) => void = () => undefined;
  /** Called with a message that a client has deleted. */
  onDeleted: (message: QueueMessage) => void = () => undefined;
  readonly #scheduler: Scheduler;
  readonly #random: Mulberry32;
  readonly #kind: QueueKind;
  readonly #network = new Life(throwOn);
  /** In order. */
  #stored: Stored[] = [];
  /** When a deduplication id was first stored. */
  readonly #known = new Map<string, number>();
  #sequence = 0;
  #isHealthy = false;
  #keepsAll = false;

  constructor(scheduler: Scheduler, random: Mulberry32, kind: QueueKind) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#kind = kind;
  }

  get hasGroupLock(): boolean {
    return this.#kind.hasGroupLock;
  }

  /** A client's connection, which ends with its life. */
  connect(life: Life): Queue {
    return {
      send: (message) => this.#send(life, message),
      receive: (options) => this.#receive(life, options),
      delete: (receipts) => this.#ask(life, () => receipts.map((receipt) => this.#delete(receipt))),
      changeVisibility: (receipts, visibilityMs) =>
        this.#ask(life, () => receipts.map((receipt) => this.#changeVisibility(receipt, visibilityMs))),
    };
  }

  /** Settles when a client gives up waiting for an answer. */
  timeout(life: Life): Promise<void> {
    return new Promise((resolve) => this.#scheduler.after(TIMEOUT_MS, life, () => resolve()));
  }

  /** What the queue holds, in flight or not, in order. */
  get messages(): readonly QueueMessage[] {
    this.#expire();
    return this.#stored;
  }

  /** From here on nothing is lost, late, doubled or refused, and nothing expires unless `goesOnToExpire`. */
  heal(goesOnToExpire = false): void {
    this.isGone = false;
    this.isThrottled = false;
    this.loseNext = 0;
    this.slowness = 1;
    this.#isHealthy = true;
    this.#keepsAll = !goesOnToExpire;
  }

  #send(life: Life, message: QueueMessage): Promise<SendOutcome> {
    return new Promise((resolve) => {
      const timeout = this.#scheduler.after(TIMEOUT_MS, life, () =>
        resolve({ kind: 'unknown', error: new QueueUnavailable('timeout') }),
      );
      const answer = (outcome: SendOutcome): void => {
        this.#scheduler.after(this.#latency(), life, () => {
          timeout.cancel();
          resolve(outcome);
        });
      };
      this.#pass(message, answer);
    });
  }

  /** Through the network. */
  #pass(message: QueueMessage, answer: (outcome: SendOutcome) => void): void {
    const silent = (): void => undefined;
    if (this.loseNext > 0) {
      this.loseNext -= 1;
      this.#arrive(message, silent, this.#latency());
      return;
    }
    if (!this.isGone && !this.#hasFault(FAULT_ONE_IN)) {
      this.#arrive(message, answer, this.#latency());
      return;
    }
    switch (this.#random.below(5)) {
      case 0:
        // It never arrives.
        return;
      case 1:
        this.#arrive(message, silent, this.#latency());
        return;
      case 2:
        this.#arrive(message, silent, this.#random.below(LATE_MAX_MS));
        return;
      case 3:
        this.#repeat(message, answer);
        return;
      default:
        if (!this.isGone) answer(refused('throttled'));
    }
  }

  /** Two requests for one send. The refusal of one says nothing of the other. */
  #repeat(message: QueueMessage, answer: (outcome: SendOutcome) => void): void {
    const silent = (): void => undefined;
    if (this.#random.below(2) === 0) {
      this.#arrive(message, (outcome) => outcome.kind === 'sent' && answer(outcome), this.#latency());
      this.#arrive(message, silent, this.#random.below(LATE_MAX_MS));
      return;
    }
    this.#arrive(message, silent, this.#latency());
    if (this.#kind.hidesRepeats === true && !this.isGone) answer(refused('throttled'));
  }

  #hasFault(oneIn: number): boolean {
    return !this.#isHealthy && this.#random.below(oneIn) === 0;
  }

  #arrive(message: QueueMessage, answer: (outcome: SendOutcome) => void, delayMs: number): void {
    this.underWay += 1;
    this.#scheduler.after(delayMs, this.#network, () => {
      this.underWay -= 1;
      if (!this.isGone) answer(this.#take(message));
    });
  }

  #take(message: QueueMessage): SendOutcome {
    const { now } = this.#scheduler;
    const { deduplicationId, body } = message;
    if (Buffer.byteLength(body) > BODY_BYTES_MAX) return refused('the message is too long');
    if (this.isThrottled) return refused('throttled');
    const knownAt = this.#known.get(deduplicationId);
    if (knownAt !== undefined && now < knownAt + this.#kind.deduplicationMs) return { kind: 'sent' };
    this.#known.set(deduplicationId, now);
    this.#sequence += 1;
    this.#stored.push({ ...message, sequence: this.#sequence, sentAt: now, hiddenUntil: 0, deliveries: 0 });
    return { kind: 'sent' };
  }

  #receive(life: Life, options: ReceiveOptions): Promise<readonly ReceivedMessage[]> {
    const isLost = this.isGone || this.#hasFault(UNANSWERED_ONE_IN);
    return new Promise((resolve, reject) => {
      if (isLost) this.#failLater(life, options.waitMs, reject);
      if (isLost && this.#random.below(2) === 0) return;
      const answer = (messages: readonly ReceivedMessage[]): void => {
        if (!isLost) this.#scheduler.after(this.#latency(), life, () => resolve(messages));
      };
      this.#poll(options, this.#scheduler.now + options.waitMs, answer);
    });
  }

  #poll(options: ReceiveOptions, until: number, answer: (messages: readonly ReceivedMessage[]) => void): void {
    this.#scheduler.after(Math.max(this.#latency(), 0.1), this.#network, () => {
      const messages = this.isGone ? [] : this.#deliver(options);
      const { now } = this.#scheduler;
      if (messages.length > 0 || now >= until) answer(messages);
      else this.#scheduler.after(POLL_MS, this.#network, () => this.#poll(options, until, answer));
    });
  }

  /** Messages of a group are delivered in order; the queue may deliver fewer than it could. */
  #deliver({ messagesMax, visibilityMs }: ReceiveOptions): ReceivedMessage[] {
    this.#expire();
    const { now } = this.#scheduler;
    const most = Math.min(messagesMax, BATCH_MAX);
    const max = this.#isHealthy ? most : 1 + this.#random.below(most);
    const blocked = new Set<string>();
    const delivered: ReceivedMessage[] = [];
    for (const message of this.#stored) {
      const { group, body, sequence } = message;
      if (delivered.length === max) break;
      if (message.hiddenUntil > now) {
        if (this.#kind.hasGroupLock) blocked.add(group);
        continue;
      }
      if (blocked.has(group)) continue;
      if (this.#hasFault(8)) {
        blocked.add(group);
        continue;
      }
      message.hiddenUntil = now + visibilityMs;
      message.deliveries += 1;
      delivered.push({ group, body, receipt: `${sequence}:${message.deliveries}` });
    }
    return delivered;
  }

  #delete(receipt: string): boolean {
    const found = this.#find(receipt);
    if (found === undefined) return true;
    if (found.isCurrent) {
      this.#remove(found.message);
      return true;
    }
    // An old handle: an error, or a success with or without an effect.
    if (this.#isHealthy) return false;
    const effect = this.#random.below(3);
    if (effect === 0) this.#remove(found.message);
    return effect < 2;
  }

  #changeVisibility(receipt: string, visibilityMs: number): boolean {
    const found = this.#find(receipt);
    if (found?.isCurrent !== true) return false;
    found.message.hiddenUntil = this.#scheduler.now + visibilityMs;
    return true;
  }

  #find(receipt: string): { readonly message: Stored; readonly isCurrent: boolean } | undefined {
    this.#expire();
    const [sequence, delivery] = receipt.split(':').map(Number);
    const message = this.#stored.find((stored) => stored.sequence === sequence);
    if (message === undefined) return undefined;
    return { message, isCurrent: message.deliveries === delivery && message.hiddenUntil > this.#scheduler.now };
  }

  #remove(message: Stored): void {
    this.onDeleted(message);
    this.#stored = this.#stored.filter((stored) => stored !== message);
  }

  #expire(): void {
    const before = this.#scheduler.now - this.#kind.retentionMs;
    if (this.#keepsAll) return;
    if ((this.#stored[0]?.sentAt ?? Number.POSITIVE_INFINITY) > before) return;
    const expired = this.#stored.filter(({ sentAt }) => sentAt <= before);
    this.#stored = this.#stored.filter(({ sentAt }) => sentAt > before);
    for (const message of expired) this.onExpired(message);
  }

  /** Without an answer it may have had its effect, too. */
  #ask<T>(life: Life, act: () => T): Promise<T> {
    const isLost = this.isGone || this.#hasFault(UNANSWERED_ONE_IN);
    return new Promise((resolve, reject) => {
      if (isLost) this.#failLater(life, 0, reject);
      if (isLost && this.#random.below(2) === 0) return;
      const lateMs = isLost && this.#random.below(2) === 0 ? this.#random.below(LATE_MAX_MS) : 0;
      this.#scheduler.after(lateMs + this.#latency(), this.#network, () => {
        const result = act();
        if (!isLost) this.#scheduler.after(this.#latency(), life, () => resolve(result));
      });
    });
  }

  #failLater(life: Life, waitMs: number, reject: (error: Error) => void): void {
    this.#scheduler.after(waitMs + TIMEOUT_MS, life, () => reject(new QueueUnavailable('the queue does not answer')));
  }

  #latency(): number {
    return (this.#random.below(20) / 10) * this.slowness;
  }
}

function refused(reason: string): SendOutcome {
  return { kind: 'refused', error: new QueueUnavailable(reason) };
}

function throwOn(error: unknown): never {
  throw error;
}
