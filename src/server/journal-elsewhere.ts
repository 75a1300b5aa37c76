/**
 * Waits, at a start, for the broker or the queue of a journal that is outside of this machine and of the database. Main thread.
 */
import type { Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { JournalError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { openBrokerStream } from '../shard-worker/journal/nats/broker-stream.js';
import { openQueue } from '../shard-worker/journal/sqs/queue-start.js';
import type { ShardTask } from '../shard-worker/protocol/control-messages.js';

const RETRY_MS = 500;
/** How often the log says that the start still waits. */
const LOG_MS = 60_000;
/** How often at most it says so for another reason. */
const LOG_OTHER_MS = 5000;

/** What shards need to know of a journal elsewhere. Each is undefined with another journal. */
export type JournalElsewhere = Pick<ShardTask, 'nats' | 'sqs'>;

/** What a look at a broker or a queue has found. */
interface Facts {
  readonly groupBytesMax: number;
  readonly description: string;
  readonly warnings?: readonly string[];
}

/**
 * What shards need to know of the broker or the queue. Waits for as long as it is unavailable. Rejects with StartError where an
 * operator must change something, and with the reason of `signal` once that is aborted.
 */
export async function openJournalElsewhere(
  config: Config,
  logger: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): Promise<JournalElsewhere> {
  const { nats, natsStream, natsReplicas, sqs, bodyBytesMax } = config;
  if (nats !== undefined) {
    const settings = { ...nats, stream: natsStream, replicas: natsReplicas };
    const open = (): Promise<Facts> => openBrokerStream(settings, bodyBytesMax);
    const { groupBytesMax } = await opened(open, 'broker', { servers: nats.servers }, logger, signal);
    return { nats: { ...settings, groupBytesMax }, sqs: undefined };
  }
  if (sqs === undefined) return { nats: undefined, sqs: undefined };
  const open = (): Promise<Facts> => openQueue(sqs, bodyBytesMax);
  const { groupBytesMax } = await opened(open, 'queue', { queue: sqs.queueUrl }, logger, signal);
  return { nats: undefined, sqs: { ...sqs, groupBytesMax } };
}

async function opened(
  open: () => Promise<Facts>,
  what: 'broker' | 'queue',
  where: Readonly<Record<string, unknown>>,
  logger: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): Promise<Facts> {
  let loggedAtMs = Number.NEGATIVE_INFINITY;
  let logged: string | undefined;
  for (;;) {
    try {
      const facts = await open();
      logger.info(where, facts.description);
      for (const warning of facts.warnings ?? []) logger.warn({}, warning);
      return facts;
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      signal.throwIfAborted();
      if (performance.now() - loggedAtMs >= (error.message === logged ? LOG_MS : LOG_OTHER_MS)) {
        loggedAtMs = performance.now();
        logged = error.message;
        logger.warn({ err: error, ...where }, `The start waits for the ${what} of the journal`);
      }
    }
    await pause(RETRY_MS);
    signal.throwIfAborted();
  }
}
