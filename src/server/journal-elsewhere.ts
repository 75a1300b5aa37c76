/** Waits at the start for the broker or the queue of the journal, and for the name of its database. Main thread. */
import type { Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { CounterError, JournalError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { checkBrokerStream, openBrokerStream, pairBroker } from '../shard-worker/journal/nats/nats-start.js';
import { openQueue, pairQueue } from '../shard-worker/journal/sqs/sqs-start.js';
import type { PairedDatabase } from '../shard-worker/journal/store-pairing.js';
import type { ShardTask } from '../shard-worker/protocol/control-messages.js';

const RETRY_MS = 500;
/** How often a waiting start is logged. */
const LOG_MS = 60_000;
/** Least time before a line with another reason. */
const LOG_OTHER_MS = 5000;

/** For shards: what they need to know of the broker or the queue. Each is undefined with another journal. */
type JournalOfShards = Pick<ShardTask, 'nats' | 'sqs'>;

/** A broker or a queue that has answered. */
export interface OpenedJournal {
  /** The limit of bodies: MAX_BODY_BYTES or, if that is not set, the size of a record of the journal if it is less. */
  readonly bodyBytesMax: number;
  /**
   * Finds out whether it belongs to the database. Waits for the database if it belongs to none. Rejects with StartError if it
   * belongs to another one.
   */
  readonly pair: (database: PairedDatabase, signal: AbortSignal) => Promise<void>;
  /** Checks its settings again. Rejects with StartError if an operator must change something. */
  readonly check: () => Promise<void>;
  /** Settings of shards; to be called after `pair`. */
  readonly ofShards: () => JournalOfShards;
}

/** What a check of a broker or a queue found. */
interface Facts {
  readonly groupBytesMax: number;
  readonly bodyBytesFit: number;
  readonly description: string;
  readonly warnings?: readonly string[];
}

type StartLogger = Pick<Logger, 'info' | 'warn'>;

/**
 * Returns a function that checks the broker or the queue; undefined if the journal needs neither. It waits while that is
 * unavailable. It rejects with StartError if an operator must change something, and with the reason of `signal` once aborted.
 */
export function journalElsewhere(
  config: Config,
): ((logger: StartLogger, signal: AbortSignal) => Promise<OpenedJournal>) | undefined {
  const { nats, natsStream, natsReplicas, sqs } = config;
  const given = config.isBodyBytesMaxGiven ? config.bodyBytesMax : undefined;
  const limit = ({ bodyBytesFit }: Facts): number => given ?? Math.min(config.bodyBytesMax, bodyBytesFit);
  const paired: { -readonly [Name in keyof JournalOfShards]: JournalOfShards[Name] } = {
    nats: undefined,
    sqs: undefined,
  };
  const ofShards = (): JournalOfShards => paired;
  if (nats !== undefined) {
    const settings = { ...nats, stream: natsStream, replicas: natsReplicas };
    return async (logger, signal) => {
      const place = { what: 'broker', where: { servers: nats.servers }, logger, signal } as const;
      const facts = await opened(() => openBrokerStream(settings, given), place);
      const { groupBytesMax } = facts;
      return {
        bodyBytesMax: limit(facts),
        pair: async (database, until) => {
          const store = await waited(() => pairBroker(settings, database), { ...place, signal: until });
          paired.nats = { ...settings, groupBytesMax, store };
        },
        check: () => checkBrokerStream(settings, limit(facts)),
        ofShards,
      };
    };
  }
  if (sqs === undefined) return undefined;
  return async (logger, signal) => {
    const place = { what: 'queue', where: { queue: sqs.queueUrl }, logger, signal } as const;
    const facts = await opened(() => openQueue(sqs, given), place);
    const { groupBytesMax } = facts;
    const warn = (sentence: string): void => {
      logger.warn({}, sentence);
    };
    return {
      bodyBytesMax: limit(facts),
      pair: async (database, until) => {
        const store = await waited(() => pairQueue(sqs, database, warn), { ...place, signal: until });
        paired.sqs = { ...sqs, groupBytesMax, store };
      },
      check: async () => {
        await openQueue(sqs, limit(facts));
      },
      ofShards,
    };
  };
}

/** What a start waits for. */
interface Place {
  readonly what: 'broker' | 'queue';
  readonly where: Readonly<Record<string, unknown>>;
  readonly logger: StartLogger;
  readonly signal: AbortSignal;
}

async function opened(open: () => Promise<Facts>, place: Place): Promise<Facts> {
  const { logger, where } = place;
  const facts = await waited(open, place);
  logger.info({ ...where, bodyBytesFit: facts.bodyBytesFit }, facts.description);
  for (const warning of facts.warnings ?? []) logger.warn({}, warning);
  return facts;
}

/** Tries until it succeeds. */
async function waited<T>(attempt: () => Promise<T>, { what, where, logger, signal }: Place): Promise<T> {
  let loggedAtMs = Number.NEGATIVE_INFINITY;
  let logged: string | undefined;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof JournalError || error instanceof CounterError)) throw error;
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
