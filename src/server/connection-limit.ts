/**
 * MAX_CONNECTIONS: keeps HTTP connections from taking the descriptors that journal and database need. Main thread.
 *
 * ```text
 * accepting ──MAX_CONNECTIONS reached, or no descriptor left──► full ──below it──► accepting
 * ```
 *
 * While full, no socket listens, so the system refuses new connections and closes waiting ones. Open connections are served.
 * uWebSockets.js 20.30 cannot count connections, so the limit counts the open descriptors of the process, several times a
 * second near the limit.
 *
 * A burst between two counts could take every descriptor. So placeholders hold the reserve while the server accepts. The burst
 * stops there, and closing the placeholders frees the reserve.
 */
import { closeSync, openSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { systemClock } from '../core/clock.js';
import { Episode } from '../core/episode.js';
import { reasonOf, systemErrorCode } from '../core/errors.js';
import type { Logger } from '../core/logger.js';

const CHECK_MS = 1_000;
/** Least time between two counts near the limit. */
const CHECK_NEAR_MS = 50;
/** Near the limit, the time between two counts is this many times the duration of a count. */
const COUNT_COST_FACTOR = 20;
/** Most descriptors kept in reserve. */
const PLACEHOLDERS_MAX = 1_000;
/** The episode ends after this long below the limit. */
const CALM_MS = 5_000;

/** The collaborators and values of the limit. */
export interface ConnectionLimitOptions {
  readonly connectionsMax: number;
  /** See `ownDescriptors`. */
  readonly ownDescriptors: number;
  /** See `descriptorLimit`. */
  readonly descriptorLimit: number;
  /** Accepts new connections on every HTTP server, or refuses them. */
  readonly setAccepting: (accepting: boolean) => void;
  readonly logger: Logger;
}

/** The limit of HTTP connections of the process. */
export class ConnectionLimit {
  readonly #options: ConnectionLimitOptions;
  /** MAX_CONNECTIONS, or less if the limit of descriptors leaves less. */
  readonly #connectionsMax: number;
  /** The name of the limit in the log. */
  readonly #name: string;
  readonly #placeholders: number[] = [];
  /** At the last count. */
  #connections = 0;
  #state: 'accepting' | 'full' | 'closed' = 'accepting';
  #timer: NodeJS.Timeout | undefined;
  /** The last count failed, as logged. */
  #isUncounted = false;
  readonly #reached = new Episode(systemClock);
  #lastFullMs = 0;

  constructor(options: ConnectionLimitOptions) {
    this.#options = options;
    const { connectionsMax, descriptorLimit, ownDescriptors } = options;
    this.#connectionsMax = Math.max(1, Math.min(connectionsMax, descriptorLimit - ownDescriptors));
    this.#name =
      this.#connectionsMax === connectionsMax
        ? `MAX_CONNECTIONS (${connectionsMax})`
        : `The limit of open files (${descriptorLimit}, which leaves ${this.#connectionsMax} connections)`;
  }

  /** Starts to count. To be called before the first connection can be accepted. */
  start(): void {
    this.#takePlaceholders();
    this.#schedule(CHECK_NEAR_MS);
  }

  /** Connections at the last count, estimated from open descriptors. */
  get connections(): number {
    return this.#connections;
  }

  close(): void {
    this.#state = 'closed';
    clearTimeout(this.#timer);
    this.#releasePlaceholders();
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => {
      void this.#check();
    }, ms);
    this.#timer.unref();
  }

  /** Counts, and accepts or refuses new connections. Rejects only for a bug. */
  async #check(): Promise<void> {
    const startedAtMs = performance.now();
    let open: number;
    try {
      open = await openDescriptors();
    } catch (error) {
      if (!this.#isClosed()) this.#acceptUncounted(error);
      return;
    }
    if (this.#isClosed()) return;
    this.#isUncounted = false;
    const connectionsMax = this.#connectionsMax;
    const nowMs = performance.now();
    const connections = open - this.#options.ownDescriptors - this.#placeholders.length;
    this.#connections = Math.max(0, connections);
    if (connections >= connectionsMax) this.#refuse(connections, nowMs);
    else this.#accept(connections, nowMs);
    const isNear = this.#state === 'accepting' && connections >= connectionsMax / 2;
    const nearMs = Math.max(CHECK_NEAR_MS, COUNT_COST_FACTOR * (nowMs - startedAtMs));
    this.#schedule(isNear ? Math.min(CHECK_MS, nearMs) : CHECK_MS);
  }

  /** A method, because the state changes during an await. */
  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #refuse(connections: number, nowMs: number): void {
    this.#lastFullMs = nowMs;
    if (this.#state === 'accepting') {
      this.#state = 'full';
      this.#releasePlaceholders();
    }
    // At each count, for HTTP threads that have started since.
    this.#options.setAccepting(false);
    const line = this.#reached.notice();
    if (line === undefined) return;
    const event = line.kind === 'begins' ? 'is reached' : `has been reached for ${line.seconds} s`;
    // Without a free descriptor, connections cannot be counted.
    const fields = Number.isFinite(connections) ? { connections } : {};
    this.#options.logger.warn(fields, `${this.#name} ${event}; new connections are closed until others end`);
  }

  #accept(connections: number, nowMs: number): void {
    if (this.#state === 'full') {
      this.#state = 'accepting';
      this.#takePlaceholders();
      this.#options.setAccepting(true);
    } else if (this.#reached.isOn && nowMs - this.#lastFullMs >= CALM_MS) {
      this.#options.logger.info(
        { connections: Math.max(0, connections), seconds: this.#reached.end()?.seconds },
        `${this.#name} is no longer reached; new connections are accepted`,
      );
    }
  }

  /** Accepts connections, because their number is unknown, and counts again later. */
  #acceptUncounted(error: unknown): void {
    if (!this.#isUncounted) {
      this.#isUncounted = true;
      const what = 'Cannot count open descriptors; MAX_CONNECTIONS has no effect until that succeeds';
      this.#options.logger.warn({ reason: reasonOf(error) }, what);
    }
    if (this.#state === 'full') {
      this.#state = 'accepting';
      this.#options.setAccepting(true);
    }
    this.#schedule(CHECK_MS);
  }

  #takePlaceholders(): void {
    const { descriptorLimit, ownDescriptors } = this.#options;
    const reserve = Math.min(PLACEHOLDERS_MAX, descriptorLimit - this.#connectionsMax - ownDescriptors);
    try {
      while (this.#placeholders.length < reserve) this.#placeholders.push(openSync('/dev/null', 'r'));
    } catch (error) {
      // A burst took the descriptors; the next count sees it.
      if (!isExhausted(error)) throw error;
    }
  }

  #releasePlaceholders(): void {
    for (const descriptor of this.#placeholders.splice(0)) closeSync(descriptor);
  }
}

/** The number of open descriptors of this process; Infinity if none is left to count them with. */
async function openDescriptors(): Promise<number> {
  try {
    const names = await readdir(process.platform === 'linux' ? '/proc/self/fd' : '/dev/fd');
    // One is the directory itself.
    return names.length - 1;
  } catch (error) {
    if (isExhausted(error)) return Number.POSITIVE_INFINITY;
    throw error;
  }
}

function isExhausted(error: unknown): boolean {
  const code = systemErrorCode(error);
  return code === 'EMFILE' || code === 'ENFILE';
}
