/**
 * The data of the live dashboard: a point for each of the last seconds, and the current state. Main thread.
 *
 * Points are taken once a second from shared memory, even without dashboards, so that a new page shows the last minutes at
 * once. The rest is gathered only while a dashboard asks.
 */
import { journalKinds } from '../../config/journal-kind.js';
import { repeat, type Clock, type Timer } from '../../core/clock.js';
import type { DashboardUpdate, Readiness } from '../../core/counter-operations.js';
import { CounterError } from '../../core/errors.js';
import type { Logger } from '../../core/logger.js';
import type { DashboardDocument, DashboardHealth, DashboardPoint, DashboardShard } from '../../http/documents.js';
import { readIncrementAnswers, readRefusals, SharedWatchers } from '../../http/request-stats.js';
import { codeOfRefusal, REFUSALS } from '../../core/bounds.js';
import { BATCH_HISTOGRAMS, readBatchHistogram } from '../../shard-worker/client/batch-stats.js';
import type { HotKey } from '../../shard-worker/protocol/control-messages.js';
import { readShardHistogram, STAT, statOf, type ShardHistogram } from '../../shard-worker/protocol/stats.js';
import type { MetricsSnapshot } from '../metrics/metrics-snapshot.js';
import { meanOf, quantileOf } from './histogram-change.js';

const INTERVAL_MS = 1_000;
/** Five minutes. */
const POINTS_MAX = 300;
/** The current state is gathered for this long after a request. */
const ASKED_MS = 5_000;
const HOT_KEYS_MAX = 20;

/** Where the numbers come from. */
export interface DashboardSources {
  readonly clock: Clock;
  readonly logger: Pick<Logger, 'error'>;
  /** `countsConnections`: also count connections, which may read the system's tables. */
  readonly snapshot: (countsConnections: boolean) => Promise<MetricsSnapshot>;
  readonly readiness: () => Readiness;
  /** Why PostgreSQL was last unavailable; '' if it never was. */
  readonly databaseReason: () => string;
  readonly hotKeys: (most: number) => Promise<readonly HotKey[]>;
}

/** A snapshot, to compare with the next one. */
interface Look {
  readonly snapshot: MetricsSnapshot;
  readonly monotonicMs: number;
  readonly accepted: number;
  readonly requests: number;
  readonly refused: number;
  readonly acknowledged: readonly number[];
}

/** See the file's head. */
export class ServerDashboard {
  readonly #sources: DashboardSources;
  readonly #startedAtMs: number;
  #points: DashboardPoint[] = [];
  /** Points taken so far, which is the number of the last one. */
  #taken = 0;
  #timer: Timer | undefined;
  #last: Look | undefined;
  #now: Omit<DashboardDocument, 'points'> | undefined;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #databaseLostAtMs: number | undefined;
  /** As of the last answer. */
  #hotKeys: readonly HotKey[] = [];
  #isAskingForHotKeys = false;
  /** The current look. */
  #looking: Promise<void> | undefined;

  constructor(sources: DashboardSources) {
    this.#sources = sources;
    this.#startedAtMs = sources.clock.monotonic();
  }

  /** Starts to take points. */
  start(): void {
    this.#timer = repeat(this.#sources.clock, INTERVAL_MS, () => {
      void this.#look();
    });
  }

  close(): void {
    this.#timer?.cancel();
  }

  /** The current state, with the points after number `since`; 0: all. */
  async update(since: number): Promise<DashboardUpdate> {
    const now = this.#sources.clock.monotonic();
    const isFirst = now - this.#askedAtMs > ASKED_MS;
    this.#askedAtMs = now;
    if (isFirst || this.#now === undefined) await this.#look();
    if (this.#now === undefined)
      throw new CounterError('overloaded', 'A shard is busy; the next event has its numbers.');
    const fresh = Math.min(this.#taken - since, this.#points.length);
    const points = fresh > 0 ? this.#points.slice(-fresh) : [];
    const document: DashboardDocument = { points, ...this.#now };
    return { text: JSON.stringify(document), through: this.#taken };
  }

  #look(): Promise<void> {
    this.#looking ??= this.#takeLook()
      .catch((error: unknown) => {
        // A shard was changing its numbers; the next second has them.
        if (!(error instanceof CounterError))
          this.#sources.logger.error({ err: error }, 'The dashboard failed because of a bug');
      })
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  async #takeLook(): Promise<void> {
    const { clock, snapshot: takeSnapshot } = this.#sources;
    const isAsked = clock.monotonic() - this.#askedAtMs <= ASKED_MS;
    const snapshot = await takeSnapshot(isAsked);
    const look = lookAt(snapshot, clock.monotonic());
    const before = this.#last;
    this.#noteDatabase(snapshot, look.monotonicMs);
    if (before === undefined || look.monotonicMs - before.monotonicMs >= INTERVAL_MS / 2) {
      this.#last = look;
      if (before !== undefined) this.#take(pointOf(before, look));
    }
    if (isAsked) this.#askForHotKeys();
    this.#now = isAsked ? this.#stateOf(before ?? look, look, this.#hotKeys) : undefined;
  }

  #take(point: DashboardPoint): void {
    // After the clock was set back, earlier points have no place on the axis.
    if (point.at <= (this.#points.at(-1)?.at ?? 0)) this.#points = [];
    this.#points = [...this.#points, point].slice(-POINTS_MAX);
    this.#taken += 1;
  }

  /** Does not wait. A shard that does not answer must not hold up the rest. */
  #askForHotKeys(): void {
    if (this.#isAskingForHotKeys) return;
    this.#isAskingForHotKeys = true;
    void this.#sources
      .hotKeys(HOT_KEYS_MAX)
      .then((keys) => (this.#hotKeys = keys))
      .catch((error: unknown) => {
        this.#sources.logger.error({ err: error }, 'The hottest keys cannot be read because of a bug');
      })
      .finally(() => (this.#isAskingForHotKeys = false));
  }

  #noteDatabase({ sources }: MetricsSnapshot, nowMs: number): void {
    if (sources.isDatabaseAvailable()) this.#databaseLostAtMs = undefined;
    else this.#databaseLostAtMs ??= nowMs;
  }

  #stateOf(before: Look, look: Look, hotKeys: readonly HotKey[]): Omit<DashboardDocument, 'points'> {
    const { snapshot } = look;
    const { config, versions } = snapshot.sources;
    const { journal, role, shards, httpThreads, flushIntervalMs } = config;
    return {
      server: {
        ...{ version: versions.version, node: versions.node, uws: versions.uws },
        ...{ journal, role, shards, httpThreads, flushIntervalMs },
        upSeconds: Math.round((look.monotonicMs - this.#startedAtMs) / 1000),
        residentBytes: process.memoryUsage.rss(),
      },
      health: this.#healthOf(look),
      balance: balanceOf(snapshot),
      refusals: refusalsOf(snapshot.sources.requestStats),
      bounds: boundsOf(snapshot),
      shards: snapshot.shards.map((_, shard) => shardOf(before, look, shard)),
      hotKeys: hotKeys.map(({ key, perSecond }) => ({ key, perSecond: Math.round(perSecond * 10) / 10 })),
    };
  }

  #healthOf({ snapshot, monotonicMs }: Look): DashboardHealth {
    const readiness = this.#sources.readiness();
    const lostAt = this.#databaseLostAtMs;
    const databaseReason = this.#sources.databaseReason();
    return {
      state: readiness.state,
      code: readiness.state === 'refusing' ? readiness.code : null,
      reason: readiness.reason ?? null,
      isJournalAvailable: snapshot.sources.isJournalAvailable(),
      databaseUnavailableSeconds: lostAt === undefined ? null : Math.round((monotonicMs - lostAt) / 1000),
      databaseReason: databaseReason === '' ? null : databaseReason,
    };
  }
}

function lookAt(snapshot: MetricsSnapshot, monotonicMs: number): Look {
  const { requestStats, batchStats } = snapshot.sources;
  const { answers, accepted } = readIncrementAnswers(requestStats);
  return {
    snapshot,
    monotonicMs,
    accepted: total(snapshot, STAT.accepted),
    requests: answers,
    refused: answers - accepted,
    acknowledged: readBatchHistogram(batchStats, 'ackSeconds').cumulative,
  };
}

function pointOf(before: Look, look: Look): DashboardPoint {
  const seconds = (look.monotonicMs - before.monotonicMs) / 1000;
  const rate = (of: 'accepted' | 'requests' | 'refused'): number => Math.round((look[of] - before[of]) / seconds);
  const quantile = (share: number): number | null => {
    const at = quantileOf(before.acknowledged, look.acknowledged, BATCH_HISTOGRAMS.ackSeconds, share);
    return at === undefined ? null : Math.round(at * 1e5) / 100;
  };
  return {
    at: look.snapshot.atMs,
    increments: rate('accepted'),
    requests: rate('requests'),
    refused: rate('refused'),
    p50Ms: quantile(0.5),
    p99Ms: quantile(0.99),
    pending: total(look.snapshot, STAT.pendingIncrements),
    journalBytes: total(look.snapshot, STAT.journalBytes),
  };
}

function total({ shards }: MetricsSnapshot, cell: number): number {
  return shards.reduce((sum, row) => sum + statOf(row, cell), 0);
}

function balanceOf(snapshot: MetricsSnapshot): DashboardDocument['balance'] {
  const of = (cell: number): number => total(snapshot, cell);
  return {
    accepted: of(STAT.accepted),
    recovered: of(STAT.recovered),
    adopted: of(STAT.adopted),
    flushed: of(STAT.flushed),
    pending: of(STAT.pendingIncrements),
    deduplicated: of(STAT.deduplicated),
    handedOver: of(STAT.handedOver),
    rejected: of(STAT.rejected),
    lost: of(STAT.lost),
  };
}

function refusalsOf(requestStats: SharedArrayBuffer): DashboardDocument['refusals'] {
  const byCode = new Map<string, number>();
  for (const [index, requests] of readRefusals(requestStats).entries()) {
    const refusal = REFUSALS[index];
    if (refusal === undefined || requests === 0) continue;
    const code = codeOfRefusal(refusal);
    byCode.set(code, (byCode.get(code) ?? 0) + requests);
  }
  return Array.from(byCode, ([code, requests]) => ({ code, requests }));
}

function boundsOf(snapshot: MetricsSnapshot): DashboardDocument['bounds'] {
  const { config, connections, requestStats, idempotencyRows } = snapshot.sources;
  const journalMost = journalKinds[config.journal].isVolatile ? null : config.journalBytesMax * config.shards;
  return [
    bound('pendingKeys', total(snapshot, STAT.pendingKeys), config.pendingKeysMax, 'MAX_PENDING_KEYS'),
    bound('pendingBytes', total(snapshot, STAT.pendingBytes), config.pendingBytesMax, 'MAX_PENDING_BYTES'),
    bound('journalBytes', total(snapshot, STAT.journalBytes), journalMost, 'JOURNAL_MAX_BYTES'),
    bound('connections', connections, config.connectionsMax, 'MAX_CONNECTIONS'),
    bound('watchers', new SharedWatchers(requestStats).open, config.watchersMax, 'MAX_WATCHERS'),
    bound('idempotencyRows', idempotencyRows(), config.idempotencyRowsMax, 'IDEMPOTENCY_MAX_ROWS'),
  ];
}

function bound(
  name: DashboardDocument['bounds'][number]['name'],
  now: number,
  most: number | null,
  setting: string,
): DashboardDocument['bounds'][number] {
  return { name, now, most, setting };
}

function shardOf(before: Look, look: Look, shard: number): DashboardShard {
  const row = look.snapshot.shards[shard] ?? new Float64Array();
  const rowBefore = before.snapshot.shards[shard] ?? row;
  const seconds = Math.max(0.001, (look.monotonicMs - before.monotonicMs) / 1000);
  const of = (cell: number): number => statOf(row, cell);
  const oldestAtMs = of(STAT.oldestPendingAtMs);
  const meanMs = (name: ShardHistogram): number | null => {
    const mean = meanOf(readShardHistogram([rowBefore], name), readShardHistogram([row], name));
    return mean === undefined ? null : Math.round(mean * 1e5) / 100;
  };
  return {
    increments: Math.round((of(STAT.accepted) - statOf(rowBefore, STAT.accepted)) / seconds),
    pending: of(STAT.pendingIncrements),
    pendingKeys: of(STAT.pendingKeys),
    pendingBytes: of(STAT.pendingBytes),
    journalBytes: of(STAT.journalBytes),
    journalSegments: of(STAT.journalSegments),
    oldestPendingSeconds: oldestAtMs === 0 ? 0 : Math.max(0, Math.round((look.snapshot.atMs - oldestAtMs) / 100) / 10),
    syncMs: meanMs('journalSyncSeconds'),
    flushMs: meanMs('flushSeconds'),
    flushRetries: of(STAT.flushRetries),
    restarts: of(STAT.restarts),
  };
}
