/**
 * How the server is, in words.
 */
import { bytes, counted, duration } from './text.js';

/** @typedef {import('../documents.js').DashboardDocument} DashboardDocument */
/** @typedef {{ level: 'ok' | 'warn' | 'bad', title: string, detail: string }} Health */
/** @typedef {{ atMs: number, now: Readonly<Record<string, number>> }} Sample */

/** How far back growth is measured, in ms. */
const GROWTH_MS = 15_000;

/** What has to fit while PostgreSQL takes nothing. */
const FILLING = /** @type {const} */ (['pendingKeys', 'pendingBytes', 'journalBytes']);

/** How fast the bounds fill up. */
export class Growth {
  /** @type {Sample[]} */
  #samples = [];

  /**
   * @param {number} atMs
   * @param {DashboardDocument['bounds']} bounds
   */
  add(atMs, bounds) {
    const now = Object.fromEntries(bounds.map((bound) => [bound.name, bound.now]));
    this.#samples = [...this.#samples.filter((sample) => sample.atMs > atMs - GROWTH_MS), { atMs, now }];
  }

  /**
   * Seconds until the first bound is reached at the rate of late; infinite where nothing grows.
   * @param {DashboardDocument['bounds']} bounds
   */
  secondsLeft(bounds) {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.atMs - first.atMs < 2_000) return Number.POSITIVE_INFINITY;
    const seconds = (last.atMs - first.atMs) / 1000;
    const times = FILLING.map((name) => {
      const most = bounds.find((bound) => bound.name === name)?.most ?? Number.POSITIVE_INFINITY;
      const grows = ((last.now[name] ?? 0) - (first.now[name] ?? 0)) / seconds;
      return grows <= 0 ? Number.POSITIVE_INFINITY : Math.max(0, most - (last.now[name] ?? 0)) / grows;
    });
    return Math.min(...times);
  }
}

/**
 * @param {DashboardDocument} document
 * @param {number} secondsLeft of {@link Growth}
 * @returns {Health}
 */
export function healthOf(document, secondsLeft) {
  const { health, balance, bounds, server } = document;
  if (health.state === 'refusing') return refusing(document);
  if (health.databaseUnavailableSeconds !== null) {
    const place = server.journal === 'memory' ? 'memory' : 'the journal';
    const waiting = `${counted(balance.pending, 'increment waits', 'increments wait')} in ${place}`;
    const journal = bounds.find(({ name }) => name === 'journalBytes');
    const left = journal?.most == null ? undefined : Math.max(0, journal.most - journal.now);
    const room = Number.isFinite(secondsLeft)
      ? `room for ${duration(secondsLeft)} at this rate`
      : left === undefined
        ? 'none arrive now'
        : `room for ${bytes(left)} more`;
    return {
      level: 'warn',
      title: `PostgreSQL unavailable for ${duration(health.databaseUnavailableSeconds)}`,
      detail: `${waiting}, ${room}.`,
    };
  }
  if (health.state === 'degraded') return { level: 'warn', title: 'Degraded', detail: health.reason ?? '' };
  if (balance.lost > 0) {
    const detail = `${counted(balance.lost, 'acknowledged increment is', 'acknowledged increments are')} lost; the log says why.`;
    return { level: 'bad', title: 'Increments are lost', detail };
  }
  if (health.reason !== null) return { level: 'warn', title: 'Counting', detail: health.reason };
  return { level: 'ok', title: 'Counting', detail: 'Every acknowledged increment is in the journal or in PostgreSQL.' };
}

/**
 * @param {DashboardDocument} document
 * @returns {Health}
 */
function refusing({ health }) {
  const away = health.databaseUnavailableSeconds;
  const database = away === null ? '' : ` PostgreSQL has been unavailable for ${duration(away)}.`;
  const detail = `${health.reason ?? ''}${database}`;
  switch (health.code) {
    case 'starting':
      return {
        level: 'warn',
        title: 'Starting',
        detail:
          health.databaseReason === null
            ? 'It takes increments in a moment.'
            : `It waits for PostgreSQL: ${health.databaseReason}.`,
      };
    case 'draining':
      return { level: 'warn', title: 'Shutting down', detail: 'Requests in flight are answered, and all is flushed.' };
    case 'journal-unavailable':
      return { level: 'bad', title: 'Journal unavailable', detail: `New increments are refused. ${detail}` };
    default:
      return { level: 'bad', title: 'New increments are refused', detail };
  }
}
