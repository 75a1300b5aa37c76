/** Settings of the processes of a history with a journal that others can reach, so small that a short one reaches every limit. */
import type { Role } from '#product/shard-worker/thread/streams/shared-streams.js';
import { Mulberry32 } from '../support/mulberry32.js';
import { DEFAULT_SCALE, type TimeScale } from './database/database-clock.js';
import type { BrokerKind } from './simulated-broker.js';
import { WINDOW_HOURS } from './random-history.js';
import type { NodeSettings } from './simulated-node.js';
import type { QueueKind } from './simulated-queue.js';

/** Signs of life count for this long, in ms of the database's clock. */
const ALIVE_MS = 6000;

/** A restart of a broker takes longer. */
const CONFIRM_AFTER_MS = 50;

/** Windows so short that several pass in a history. A tombstone stays for longer than a process is stopped. */
const SHORT_WINDOWS: TimeScale = { ...DEFAULT_SCALE, rate: 20, windowHourMs: 500, marginMs: 450, tombstoneMs: 6000 };

const OUTAGE_MAX_MS = 4000;
const SLEEP_MAX_MS = 5000;

/**
 * 14 days, for which a queue keeps messages, 15 days, the longest outage that a journal in a queue promises to survive, and a time
 * after which a stream is retired and its row is gone.
 */
const QUEUE_DAYS = { retentionMs: 1700, tombstoneMs: 1850, outageMaxMs: 1500, sleepMaxMs: 9000 } as const;

/** Servers of one history, by role. */
const TOPOLOGIES: readonly (readonly Role[])[] = [
  ['serve'],
  ['serve', 'serve'],
  ['serve', 'serve'],
  ['serve', 'serve', 'serve'],
  ['ingest', 'roll-up'],
  ['ingest', 'roll-up', 'roll-up'],
  ['ingest', 'ingest', 'roll-up'],
  ['serve', 'ingest'],
  ['serve', 'roll-up'],
];

/** The same with a journal in a queue, which has no `serve`. */
const QUEUE_TOPOLOGIES: typeof TOPOLOGIES = [
  ['ingest', 'roll-up'],
  ['ingest', 'roll-up', 'roll-up'],
  ['ingest', 'roll-up', 'roll-up'],
  ['ingest', 'ingest', 'roll-up'],
  ['ingest', 'ingest', 'roll-up', 'roll-up'],
];

/** Where the broker loses messages, somebody must lack them: who flushes what it has accepted itself has it in memory. */
const LOSS_TOPOLOGIES: typeof TOPOLOGIES = [
  ['ingest', 'roll-up'],
  ['ingest', 'roll-up', 'roll-up'],
  ['ingest', 'ingest', 'roll-up'],
  ['ingest', 'serve'],
  ['serve', 'serve'],
];

/** Servers that flush what they take. */
const MEMORY_TOPOLOGIES: typeof TOPOLOGIES = [['serve'], ['serve', 'serve']];

/** What a history with a shared journal is like. */
export interface SharedPlan {
  readonly scale: TimeScale;
  readonly onWindows: boolean;
  readonly roles: readonly Role[];
  readonly settings: NodeSettings;
  /** What kind of broker has the journal; undefined: none. */
  readonly broker: BrokerKind | undefined;
  /** What kind of queue has it; undefined: none. */
  readonly queue: QueueKind | undefined;
  /** The broker loses what it has acknowledged. */
  readonly losesTail: boolean;
  /** No other fault comes, so that whoever flushes what the broker has lost still has it in memory: nothing may be missing. */
  readonly memoryHasIt: boolean;
  /** How long a sign of life counts, in ms of the world. */
  readonly aliveMs: number;
  /** Undefined, or the history dwells on writers that go on while others take them over, which happens after so many ms. */
  readonly takeoverMs: number | undefined;
  /** The longest time for which the database, or the way to it, is gone. */
  readonly outageMaxMs: number;
  /** For how long processes sleep at most. */
  readonly sleepMaxMs: number;
}

/** Whether the broker of a history loses what it has acknowledged. Not drawn: other histories stay what they were. */
function losesTail(seed: number): boolean {
  return seed % 7 === 4;
}

/** Where the journal is that the servers of a history share. */
export type SharedJournal = 'postgres' | 'nats' | 'sqs';

/** Chooses it. */
export function sharedPlan(seed: number, journal: SharedJournal): SharedPlan {
  const random = new Mulberry32(seed ^ 0x10a5);
  const isLossy = journal === 'nats' && losesTail(seed);
  const memoryHasIt = isLossy && seed % 2 === 1;
  const onWindows = random.below(3) === 0;
  const scale = onWindows ? SHORT_WINDOWS : DEFAULT_SCALE;
  const aliveMs = ALIVE_MS / scale.rate;
  const settings: NodeSettings = {
    syncPolicy: 'always',
    segmentBytes: 8192,
    journalBytesMax: random.below(6) === 0 ? 4096 : 1 << 30,
    keepSeconds: 0,
    flushIntervalMs: random.pick([10, 50, 100, 300]),
    flushKeysMax: random.pick([1, 3, 1000]),
    pendingKeysMax: random.below(4) === 0 ? 4 : 1000,
    windowBytesMax: random.below(4) === 0 ? 100 : 1 << 20,
    ackTimeoutMs: onWindows ? 100 : random.pick([50, 300, 700]),
    touchMs: 1000,
    touchTimeMs: 1000,
    shared: {
      role: 'serve',
      intervals: {
        roundMs: random.pick([20, 100]),
        retryMs: 30,
        heartbeatMs: aliveMs / 3,
        askMs: random.pick([50, 300]),
        wordMs: random.pick([50, 300]),
        readMs: random.pick([10, 50]),
        touchMs: random.pick([50, 300]),
        rowWaitMs: (5 * aliveMs) / 2,
      },
      waits: { contactMs: (2 * aliveMs) / 3, freeMaxMs: aliveMs / 2, gapMs: 3 * aliveMs },
    },
  };
  const plan: SharedPlan = {
    scale,
    onWindows,
    roles: random.pick(memoryHasIt ? MEMORY_TOPOLOGIES : isLossy ? LOSS_TOPOLOGIES : TOPOLOGIES),
    settings,
    broker: undefined,
    queue: undefined,
    losesTail: isLossy,
    memoryHasIt,
    aliveMs,
    takeoverMs: undefined,
    outageMaxMs: OUTAGE_MAX_MS,
    sleepMaxMs: SLEEP_MAX_MS,
  };
  if (journal === 'sqs') return withQueue(plan, random);
  return journal === 'nats' ? withBroker(plan, aliveMs, random) : plan;
}

/**
 * Times have the order that they have in production: the client's, the five minutes of deduplication, the hour, half a day, two
 * days, 14 days and 15. Only in one history in six are they so short that they pass.
 */
function withQueue(plan: SharedPlan, random: Mulberry32): SharedPlan {
  const { onWindows, scale } = plan;
  const { shared, ...settings } = plan.settings;
  const isShort = onWindows && random.below(2) === 0;
  const visibilityMs = random.pick([100, 150]);
  const times = onWindows
    ? { unansweredMaxMs: 250, beatMs: 350, silentMaxMs: 700 }
    : { unansweredMaxMs: 1000, beatMs: 1200, silentMaxMs: 2400 };
  const client = { visibilityMs, waitMs: random.pick([10, 50]) };
  const sqs = { groupBytesMax: random.pick([150, 1000, 1 << 17]), client, times };
  const waits = {
    holdMs: visibilityMs / 3,
    idleMs: random.pick([50, 300]),
    blockedMs: 50,
    missingMs: 2 * visibilityMs,
  };
  const ownScale = isShort ? { ...scale, gapMs: 400, hourMs: 300, tombstoneMs: QUEUE_DAYS.tombstoneMs } : scale;
  return {
    ...plan,
    scale: { ...ownScale, queueExpiryMs: ownScale.tombstoneMs },
    roles: random.pick(QUEUE_TOPOLOGIES),
    settings: {
      ...settings,
      ...(shared !== undefined && { shared: { ...shared, sqs: { ...sqs, waits } } }),
    },
    queue: {
      hasGroupLock: random.below(4) > 0,
      deduplicationMs: onWindows ? 160 : 800,
      retentionMs: isShort ? QUEUE_DAYS.retentionMs : Number.POSITIVE_INFINITY,
    },
    outageMaxMs: isShort ? QUEUE_DAYS.outageMaxMs : OUTAGE_MAX_MS,
    sleepMaxMs: isShort ? QUEUE_DAYS.sleepMaxMs : SLEEP_MAX_MS,
  };
}

function withBroker(plan: SharedPlan, aliveMs: number, random: Mulberry32): SharedPlan {
  const { shared, ...settings } = plan.settings;
  const nats = {
    groupBytesMax: random.pick([150, 1000, 1 << 20]),
    windowHours: WINDOW_HOURS,
    intervals: {
      signsApartMs: (7 * aliveMs) / 12,
      growthCountsMs: (9 * aliveMs) / 12,
      firstSightMs: (7 * aliveMs) / 12,
      listMs: random.pick([20, 100]),
      checkedMs: random.pick([200, 1000]),
      confirmAfterMs: CONFIRM_AFTER_MS,
    },
  };
  const takeoverMs = random.below(4) === 0 ? aliveMs : undefined;
  const isOldCluster = random.below(takeoverMs === undefined ? 3 : 2) === 0;
  return {
    ...plan,
    settings: {
      ...settings,
      keepSeconds: random.pick([0, 0, 0.1, 1]),
      ...(shared !== undefined && { shared: { ...shared, nats } }),
    },
    broker: { isOldCluster, hasReplicas: isOldCluster || random.below(2) === 0 },
    takeoverMs,
  };
}
