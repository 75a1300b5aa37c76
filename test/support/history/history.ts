/**
 * What the clients of a run asked and what they were told, in the order of the requests, and a source of requests that
 * `check-history.ts` can decide exactly.
 *
 * Request number i of a block adds 4^i to the block's key, which nobody else writes. So the base-4 digits of its sum tell
 * how often each request was counted. A block has as many digits as fit into a safe integer. Requests also add to keys
 * that all writers share.
 */
import type { Random } from '../random.js';

/** A request: where it went and when, in ms on the monotonic clock of the client. */
interface Asked {
  /** A server; a new name after a start that knows nothing of what was pending before. */
  readonly server: string;
  readonly askedAt: number;
  /** Infinity until an answer comes. */
  answeredAt: number;
}

/** POST /increment, once. `status` 0: no answer. */
export interface Increment extends Asked {
  readonly kind: 'increment';
  readonly members: readonly (readonly [key: string, amount: number])[];
  readonly idempotencyKey?: string | undefined;
  status: number;
  /** Idempotency-Replayed. */
  isReplayed?: boolean;
}

/** What an answer says of a counter; null where there is none. */
export interface Shown {
  /** Absent where a server shows only what is committed. */
  readonly sum?: bigint | null;
  readonly committed?: bigint | null;
  readonly pending?: bigint;
}

/** A read that was answered. */
export interface Read extends Asked, Shown {
  readonly kind: 'read';
  readonly key: string;
}

/** The events of one key of GET /watch. */
export interface Watch extends Asked {
  readonly kind: 'watch';
  readonly key: string;
  readonly events: readonly (Shown & { readonly at: number })[];
  /** Server and database worked all the time, so that each change had to show within 2 s. */
  readonly isTimely: boolean;
}

/** DELETE of one counter, or its line in the answer to DELETE of a prefix. */
export interface Deletion extends Asked {
  readonly kind: 'delete';
  readonly key: string;
  readonly idempotencyKey?: string | undefined;
  status: number;
  /** With status 200. */
  sum?: bigint;
}

/** POST /flush. */
export interface Flush extends Asked {
  readonly kind: 'flush';
  status: number;
}

/** A server said, in its log or metrics, that it lost acknowledged increments. */
export interface Loss {
  readonly kind: 'loss';
  readonly server: string;
  readonly at: number;
  readonly increments: number;
}

/** One entry of a history. */
export type Operation = Increment | Read | Watch | Deletion | Flush | Loss;

/** How an attempt ended. 422 speaks of the original: this attempt is not counted. */
export type Outcome = 'acknowledged' | 'refused' | 'unknown';

/** By the contract a 4xx or 503 is never counted. */
export function outcomeOf(status: number): Outcome {
  if (status >= 200 && status < 300) return 'acknowledged';
  return status === 503 || (status >= 400 && status < 500) ? 'refused' : 'unknown';
}

/** A request to send, as often as it takes. */
export interface LoadRequest {
  /** The JSON body. */
  readonly body: string;
  /** Its Idempotency-Key, for some: the request is repeated until it is answered, and must still be counted once. */
  readonly idempotencyKey: string | undefined;
  /** An attempt begins; the function returned takes its answer's status, 0 for none. */
  begin(url: string): (status: number, isReplayed?: boolean) => Outcome;
}

interface Block {
  readonly key: string;
  used: number;
}

const DIGITS_PER_BLOCK = 26;
const SHARED_KEYS = 16;
/** The newest keys of blocks, which are read. */
const RECENT_KEYS = 64;

/** The history of a run. */
export class History {
  readonly #random: Random;
  readonly #serverAt: (url: string) => string;
  readonly #recentKeys: string[] = [];
  operations: Operation[] = [];
  /** Attempts by outcome. */
  acknowledged = 0;
  refused = 0;
  unknown = 0;
  #blocks = 0;
  #requests = 0;

  /** `serverAt`: the name of the server that listens at an address now. */
  constructor(random: Random, serverAt: (url: string) => string = (url) => url) {
    this.#random = random;
    this.#serverAt = serverAt;
  }

  /** A source of requests for one sender; its name is part of its keys. */
  writer(name: string): () => LoadRequest {
    let first: Block | undefined;
    let second: Block | undefined;
    return () => {
      first = this.#roomIn(first, `${name}/a`);
      const members = [take(first)];
      if (this.#random.integer(10) < 4) {
        second = this.#roomIn(second, `${name}/b`);
        members.push(take(second));
      }
      const isIdempotent = this.#random.integer(5) === 0;
      // Shared keys without retries are never read above their sums.
      if (!isIdempotent && this.#random.integer(2) === 0) members.push([this.#hotKey(), this.#random.integer(10)]);
      if (this.#random.integer(8) === 0)
        members.push([`mixed/${this.#random.integer(SHARED_KEYS)}`, this.#random.integer(2001) - 1000]);
      this.#requests += 1;
      const idempotencyKey = isIdempotent ? `${name}/${this.#requests}` : undefined;
      return this.request(members, idempotencyKey);
    };
  }

  /** A request with these increments, each key once. */
  request(members: Increment['members'], idempotencyKey?: string): LoadRequest {
    return {
      idempotencyKey,
      body: JSON.stringify(Object.fromEntries(members)),
      begin: (url) => this.#begin(url, members, idempotencyKey),
    };
  }

  /** Some key that is written. */
  readableKey(): string {
    return (this.#random.integer(4) > 0 ? this.blockKey() : undefined) ?? this.#hotKey();
  }

  /** The key of some block that is written, or was not long ago. */
  blockKey(): string | undefined {
    return this.#recentKeys[this.#random.integer(this.#recentKeys.length)];
  }

  /** An operation begins. */
  ask(url: string): Asked {
    return { server: this.#serverAt(url), askedAt: performance.now(), answeredAt: Number.POSITIVE_INFINITY };
  }

  /** A read between two states of a database that goes back sees the older one, and explains nothing. */
  forgetReads(): void {
    this.operations = this.operations.filter(({ kind }) => kind !== 'read' && kind !== 'watch');
  }

  #begin(
    url: string,
    members: Increment['members'],
    idempotencyKey: string | undefined,
  ): (status: number, isReplayed?: boolean) => Outcome {
    const attempt: Increment = { kind: 'increment', ...this.ask(url), members, idempotencyKey, status: 0 };
    this.operations.push(attempt);
    return (status, isReplayed = false) => {
      attempt.status = status;
      if (status > 0) attempt.answeredAt = performance.now();
      if (isReplayed) attempt.isReplayed = true;
      const outcome = outcomeOf(status);
      this[outcome] += 1;
      return outcome;
    };
  }

  #hotKey(): string {
    return `hot/${this.#random.integer(SHARED_KEYS)}`;
  }

  #roomIn(block: Block | undefined, name: string): Block {
    if (block !== undefined && block.used < DIGITS_PER_BLOCK) return block;
    const key = `${name}/${this.#blocks}`;
    this.#blocks += 1;
    this.#recentKeys.push(key);
    if (this.#recentKeys.length > RECENT_KEYS) this.#recentKeys.shift();
    return { key, used: 0 };
  }
}

function take(block: Block): readonly [string, number] {
  block.used += 1;
  return [block.key, 4 ** (block.used - 1)];
}
