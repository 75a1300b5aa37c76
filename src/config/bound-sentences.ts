/**
 * The sentences for operators and clients when a bound refuses increments: the setting, its value, and when to retry. Any
 * thread.
 */
import { WINDOW_BYTES_MAX, type Bound } from '../core/bounds.js';
import type { Config } from './config.js';
import { sizeText } from './setting-text.js';

/** The sentence of each bound. */
export type BoundSentences = Readonly<Record<Bound, string>>;

/** Memory of all unfinished bodies of one HTTP thread. Room for at least one body, whose buffer doubles. */
export function gatheredBytesMax({ bodyBytesMax, pendingBytesMax, httpThreads }: Config): number {
  return Math.max(2 * bodyBytesMax, Math.floor(pendingBytesMax / 4 / httpThreads));
}

/** The sentences for this configuration. To be made once, so that a refusal only looks its sentence up. */
export function boundSentences(config: Config): BoundSentences {
  const pendingBytesMax = sizeText(config.pendingBytesMax);
  return {
    'pending-keys': `MAX_PENDING_KEYS (${grouped(config.pendingKeysMax)}) is reached; retry after the next flush.`,
    'pending-bytes': `MAX_PENDING_BYTES (${pendingBytesMax}) is reached; retry after the next flush.`,
    'journal-bytes': `JOURNAL_MAX_BYTES (${sizeText(config.journalBytesMax)}) is reached in a shard; retry after its next flush.`,
    'window-bytes': `Requests of ${sizeText(WINDOW_BYTES_MAX)} wait for a shard, which is the limit; retry when it has answered.`,
    'idempotency-rows':
      `IDEMPOTENCY_MAX_ROWS (${grouped(config.idempotencyRowsMax)}) is reached; retry after older idempotency keys are ` +
      `forgotten, IDEMPOTENCY_WINDOW_HOURS (${grouped(config.idempotencyWindowHours)}) after their use.`,
    'body-bytes':
      `Unfinished bodies take ${sizeText(gatheredBytesMax(config))}, the most that MAX_PENDING_BYTES ` +
      `(${pendingBytesMax}) allows them; retry later, or send a shorter body in one piece.`,
    'ack-timeout': `A shard did not take the request within ACK_TIMEOUT_MS (${grouped(config.ackTimeoutMs)}); retry later.`,
  };
}

/** With commas between thousands. The formatter of the runtime takes 30 ms to load. */
function grouped(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',');
}
