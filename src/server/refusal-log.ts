/**
 * Logs refused increments. Each bound, and each other reason that an operator can act on, has a line when it begins, one each
 * minute while it lasts, and one when it ends. Single requests are not logged. Main thread.
 */
import type { BoundSentences } from '../config/bound-sentences.js';
import { codeOfRefusal, isBound, REFUSALS, type Bound, type Refusal } from '../core/bounds.js';
import type { Clock } from '../core/clock.js';
import { Episode, type EpisodeLine } from '../core/episode.js';
import type { Logger } from '../core/logger.js';

/** A refusal ends after this long without one. Refused clients come again after Retry-After. */
const CALM_MS = 5_000;

/** Other refusals are caused by the client, or by a start or a stop, which have lines of their own. */
const REASONS: Partial<Record<Refusal, string>> = {
  'journal-unavailable': 'a shard is restarting, its journal cannot be written, or its files were removed',
  'outcome-unknown': 'a shard ended, or did not answer within ACK_TIMEOUT_MS',
  'internal-error': 'the server has a bug',
};

interface Watched {
  readonly index: number;
  readonly fields: { readonly code: string; readonly bound?: Bound };
  /** What the server does, and why. */
  readonly event: string;
  readonly reason: string;
  readonly episode: Episode;
  count: number;
  lastAtMs: number;
}

/** See the file's head. */
export class RefusalLog {
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #logger: Logger;
  readonly #watched: readonly Watched[];

  constructor(clock: Pick<Clock, 'monotonic'>, logger: Logger, sentences: BoundSentences) {
    this.#clock = clock;
    this.#logger = logger;
    this.#watched = REFUSALS.flatMap((refusal, index) => {
      // The advice for the client is not logged.
      const reason = isBound(refusal) ? sentences[refusal].split(';')[0] : REASONS[refusal];
      if (reason === undefined) return [];
      const fields = { code: codeOfRefusal(refusal), ...(isBound(refusal) ? { bound: refusal } : {}) };
      const event =
        fields.code.endsWith('unavailable') || isBound(refusal) ? 'refusing increments' : `answering ${refusal}`;
      return [{ index, fields, event, reason, episode: new Episode(clock), count: 0, lastAtMs: 0 }];
    });
  }

  /** Checks the numbers of refused requests, by index in `REFUSALS`. To be called once a second. */
  look(refusals: readonly number[]): void {
    const now = this.#clock.monotonic();
    for (const watched of this.#watched) {
      const count = refusals[watched.index] ?? 0;
      const more = count - watched.count;
      watched.count = count;
      if (more > 0) watched.lastAtMs = now;
      const isOver = more === 0 && (!watched.episode.isOn || now - watched.lastAtMs >= CALM_MS);
      this.#say(watched, isOver ? watched.episode.end() : watched.episode.notice(more));
    }
  }

  /** Logs the current refusals, which the end of the process ends. */
  close(): void {
    for (const watched of this.#watched) this.#say(watched, watched.episode.end(), 'Stopping while');
  }

  #say({ fields, event, reason }: Watched, line: EpisodeLine | undefined, how = 'No longer'): void {
    if (line === undefined) return;
    const { kind, seconds, since, total } = line;
    const refused = `${total} ${total === 1 ? 'request' : 'requests'}`;
    if (kind === 'begins') {
      const message = `${event.charAt(0).toUpperCase()}${event.slice(1)}: ${reason}`;
      this.#logger.warn({ ...fields, refused: since }, message);
    } else if (kind === 'lasts') {
      const message = `Still ${event} after ${seconds} s: ${reason}; ${refused} so far`;
      this.#logger.warn({ ...fields, seconds, refused: since, total }, message);
    } else {
      const message = `${how} ${event}: ${reason}; ${refused} within ${seconds} s`;
      this.#logger.info({ ...fields, seconds, total }, message);
    }
  }
}
