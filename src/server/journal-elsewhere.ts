/** Waits at the start for the broker or the queue of the journal. Main thread. */
import type { Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { JournalError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { openBrokerStream } from '../shard-worker/journal/nats/nats-start.js';
import { openQueue } from '../shard-worker/journal/sqs/sqs-start.js';
import type { ShardTask } from '../shard-worker/protocol/control-messages.js';

const RETRY_MS = 500;
/** How often a waiting start is logged. */
const LOG_MS = 60_000;
/** Least time before a line with another reason. */
const LOG_OTHER_MS = 5000;

/** What a server needs to know of its broker or queue. */
export interface JournalElsewhere {
  /** For shards. Each is undefined with another journal. */
  readonly ofShards: Pick<ShardTask, 'nats' | 'sqs'>;
  /** The limit of bodies: MAX_BODY_BYTES or, if that is not set, the size of a record of the journal if it is less. */
  readonly bodyBytesMax: number;
}

/** What a check of a broker or a queue found. */
interface Facts {
  readonly groupBytesMax: number;
  readonly bodyBytesFit: number;
  readonly description: string;
  readonly warnings?: readonly string[];
}

/**
 * Returns a function that checks the broker or the queue; undefined if the journal needs neither. It waits while that is
 * unavailable. It rejects with StartError if an operator must change something, and with the reason of `signal` once aborted.
 */
export function journalElsewhere(
  config: Config,
): ((logger: Pick<Logger, 'info' | 'warn'>, signal: AbortSignal) => Promise<JournalElsewhere>) | undefined {
  const { nats, natsStream, natsReplicas, sqs } = config;
  const given = config.isBodyBytesMaxGiven ? config.bodyBytesMax : undefined;
  const limit = ({ bodyBytesFit }: Facts): number => given ?? Math.min(config.bodyBytesMax, bodyBytesFit);
  if (nats !== undefined) {
    const settings = { ...nats, stream: natsStream, replicas: natsReplicas };
    const open = (): Promise<Facts> => openBrokerStream(settings, given);
    return async (logger, signal) => {
      const facts = await opened(open, 'broker', { servers: nats.servers }, logger, signal);
      const { groupBytesMax } = facts;
      return { ofShards: { nats: { ...settings, groupBytesMax }, sqs: undefined }, bodyBytesMax: limit(facts) };
    };
  }
  if (sqs === undefined) return undefined;
  const open = (): Promise<Facts> => openQueue(sqs, given);
  return async (logger, signal) => {
    const facts = await opened(open, 'queue', { queue: sqs.queueUrl }, logger, signal);
    const { groupBytesMax } = facts;
    return { ofShards: { nats: undefined, sqs: { ...sqs, groupBytesMax } }, bodyBytesMax: limit(facts) };
  };
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
      logger.info({ ...where, bodyBytesFit: facts.bodyBytesFit }, facts.description);
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
