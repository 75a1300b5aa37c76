/**
 * Logs that a shared journal refuses increments or cannot be read: at the start, once a minute, and at the end. Shard thread.
 */
import { Episode } from '../../../core/episode.js';
import type { ShardDeps } from '../shard-context.js';

/** Whether the journal of one shard can be used. */
export class JournalAvailability {
  readonly #deps: Pick<ShardDeps, 'log'>;
  /** The system that keeps the records. */
  readonly #place: string;
  readonly #unavailable: Episode;
  #isRefusing = false;
  #refusedGroups = 0;

  constructor(deps: Pick<ShardDeps, 'log' | 'clock'>, place: string) {
    this.#deps = deps;
    this.#place = place;
    this.#unavailable = new Episode(deps.clock);
  }

  /** The last append or request failed. */
  get isRefusing(): boolean {
    return this.#isRefusing;
  }

  noticeRefusedGroup(): void {
    this.#refusedGroups += 1;
  }

  /** Nothing can be appended. */
  refuse(error: unknown): void {
    this.#isRefusing = true;
    const line = this.#unavailable.notice(this.#refusedGroups);
    this.#refusedGroups = 0;
    if (line === undefined) return;
    const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
    const facts = { err: error, refusedGroups: line.since };
    const what = `Journal in ${this.#place} ${event}; refusing increments until it takes them again`;
    this.#deps.log('warn', facts, what);
  }

  /** A record was appended, or nothing refuses one. */
  accept(): void {
    this.#isRefusing = false;
    const line = this.#unavailable.end();
    if (line !== undefined) {
      const facts = { seconds: line.seconds, refusedGroups: line.total + this.#refusedGroups };
      this.#deps.log('info', facts, `The journal in ${this.#place} takes records again; taking increments`);
    }
    this.#refusedGroups = 0;
  }

  /** A thread that does not write cannot read. */
  noticeUnreadable(error: unknown): void {
    const line = this.#unavailable.notice();
    if (line === undefined) return;
    const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
    const what = `Journal in ${this.#place} ${event}; not reading records until it answers again`;
    this.#deps.log('warn', { err: error }, what);
  }

  /** A thread that does not write has read. */
  noticeReadable(): void {
    const line = this.#unavailable.end();
    if (line === undefined) return;
    this.#deps.log('info', { seconds: line.seconds }, `The journal in ${this.#place} answers again`);
  }
}
