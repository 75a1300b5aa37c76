/**
 * Waits for a journal's disk. Shard thread.
 */
import type { Clock } from '../../../core/clock.js';
import { isJournalUnavailable } from './owned-stream.js';

const BACKOFF_MS = 250;
const BACKOFF_MAX_MS = 5000;

/** Tries again until something else than the disk decides; `failed` is told of each attempt that the disk refused. */
export async function retryWhileJournalUnavailable(
  attempt: () => Promise<void>,
  failed: (error: unknown) => void,
  clock: Clock,
): Promise<void> {
  for (let backoffMs = BACKOFF_MS; ; backoffMs = Math.min(2 * backoffMs, BACKOFF_MAX_MS)) {
    try {
      await attempt();
      return;
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      failed(error);
      await new Promise<void>((resolve) => clock.schedule(backoffMs, resolve));
    }
  }
}
