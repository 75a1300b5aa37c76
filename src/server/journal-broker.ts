/**
 * Waits for the broker of the nats journal at a start. Main thread.
 */
import type { Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { JournalError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { openBrokerStream } from '../shard-worker/journal/nats/broker-stream.js';
import type { ShardTask } from '../shard-worker/protocol/control-messages.js';

const RETRY_MS = 500;
/** How often the log says that the start still waits. */
const LOG_MS = 60_000;

/**
 * What shards need to know of the broker; undefined with another journal. Waits for as long as the broker is unavailable. Rejects
 * with StartError where an operator must change something, and with the reason of `signal` once that is aborted.
 */
export async function openJournalBroker(
  config: Config,
  logger: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): Promise<ShardTask['nats']> {
  const { nats, natsStream, natsReplicas, bodyBytesMax } = config;
  if (nats === undefined) return undefined;
  const settings = { ...nats, stream: natsStream, replicas: natsReplicas };
  for (let loggedAtMs = Number.NEGATIVE_INFINITY; ;) {
    try {
      const { groupBytesMax, description, warnings } = await openBrokerStream(settings, bodyBytesMax);
      logger.info({ servers: nats.servers }, description);
      for (const warning of warnings) logger.warn({}, warning);
      return { ...settings, groupBytesMax };
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      signal.throwIfAborted();
      if (performance.now() - loggedAtMs >= LOG_MS) {
        loggedAtMs = performance.now();
        logger.warn({ err: error, servers: nats.servers }, 'The start waits for the broker of the journal');
      }
    }
    await pause(RETRY_MS);
    signal.throwIfAborted();
  }
}
