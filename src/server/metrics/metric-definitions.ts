/**
 * The table of metrics: name, type, meaning, and values in a snapshot. Main thread. `docs/observing.md` tells what to watch and
 * why.
 */
import { journalKinds } from '../../config/journal-kind.js';
import { REFUSALS, WINDOW_BYTES_MAX, codeOfRefusal } from '../../core/bounds.js';
import { api, errorsOf } from '../../http/api.js';
import { readAnswers, readRefusals, SharedWatchers } from '../../http/request-stats.js';
import { BATCH_HISTOGRAMS, readBatchHistogram, type BatchHistogram } from '../../shard-worker/client/batch-stats.js';
import {
  readShardHistogram,
  SHARD_HISTOGRAMS,
  STAT,
  statOf,
  type ShardHistogram,
} from '../../shard-worker/protocol/stats.js';
import type { MetricsSnapshot, MetricsSources } from './metrics-snapshot.js';
import type { HistogramSample, MetricDefinition, Sample } from './prometheus-page.js';

type Definition = MetricDefinition<MetricsSnapshot>;

const PREFIX = 'summing_counters_';

/** A cell of each shard. */
function ofShards(
  type: 'counter' | 'gauge',
  name: string,
  help: string,
  value: number | ((row: Float64Array, snapshot: MetricsSnapshot, shard: number) => number),
): Definition {
  const valueOf = typeof value === 'number' ? (row: Float64Array): number => statOf(row, value) : value;
  const samples = (snapshot: MetricsSnapshot): readonly Sample<number>[] =>
    snapshot.shards.map((row, shard) => ({ labels: { shard }, value: valueOf(row, snapshot, shard) }));
  return { name: PREFIX + name, type, help, samples };
}

/** A number of the whole server. */
function ofServer(name: string, help: string, value: (sources: MetricsSources) => number): Definition {
  return { name: PREFIX + name, type: 'gauge', help, samples: ({ sources }) => [{ value: value(sources) }] };
}

/** A histogram of each shard, or of all shards together. */
function shardHistogram(name: string, help: string, of: ShardHistogram, isByShard: boolean): Definition {
  const read = (rows: readonly Float64Array[]): HistogramSample => ({
    ...readShardHistogram(rows, of),
    bounds: SHARD_HISTOGRAMS[of],
  });
  const samples = ({ shards }: MetricsSnapshot): readonly Sample<HistogramSample>[] =>
    isByShard ? shards.map((row, shard) => ({ labels: { shard }, value: read([row]) })) : [{ value: read(shards) }];
  return { name: PREFIX + name, type: 'histogram', help, samples };
}

/** A histogram of all HTTP servers together. */
function batchHistogram(name: string, help: string, of: BatchHistogram): Definition {
  const samples = ({ sources }: MetricsSnapshot): readonly Sample<HistogramSample>[] => {
    return [{ value: { ...readBatchHistogram(sources.batchStats, of), bounds: BATCH_HISTOGRAMS[of] } }];
  };
  return { name: PREFIX + name, type: 'histogram', help, samples };
}

/** The balance: accepted + recovered + adopted = flushed + pending + deduplicated + handed over + rejected + lost. */
const balance: readonly Definition[] = [
  ofShards('counter', 'increments_accepted_total', 'Increments acknowledged with 202.', STAT.accepted),
  ofShards(
    'counter',
    'increments_recovered_total',
    'Increments read from the journal of an earlier run or thread, to be flushed by this one.',
    STAT.recovered,
  ),
  ofShards('counter', 'increments_adopted_total', 'Increments taken over from other servers.', STAT.adopted),
  ofShards('counter', 'increments_flushed_total', 'Increments committed to the table counters.', STAT.flushed),
  ofShards(
    'counter',
    'increments_deduplicated_total',
    'Increments not counted again, because their Idempotency-Key was recorded before.',
    STAT.deduplicated,
  ),
  ofShards(
    'counter',
    'increments_handed_over_total',
    'Increments left in the journal by a thread that ended; the next thread recovers them.',
    STAT.handedOver,
  ),
  ofShards(
    'counter',
    'increments_rejected_total',
    'Increments that were not counted and are kept in the table rejected_increments.',
    STAT.rejected,
  ),
  ofShards(
    'counter',
    'increments_lost_total',
    'Acknowledged increments that are lost with a memory journal, with everysec after a failed sync, or with JOURNAL=postgres in a failover.',
    STAT.lost,
  ),
  ofShards(
    'gauge',
    'increments_pending',
    'Increments acknowledged and not yet committed to the table counters.',
    STAT.pendingIncrements,
  ),
];

const requests: readonly Definition[] = [
  {
    name: `${PREFIX}http_requests_total`,
    type: 'counter',
    help: 'Requests answered, by path and status.',
    samples: ({ sources }) =>
      readAnswers(sources.requestStats).map(({ route, status, answers }) => ({
        labels: { route, status },
        value: answers,
      })),
  },
  {
    name: `${PREFIX}refusals_total`,
    type: 'counter',
    help: 'Requests with increments that were not answered with 202, by error code.',
    samples: ({ sources }) => refusalsByCode(sources.requestStats),
  },
  ofShards(
    'counter',
    'idempotency_replays_total',
    'Idempotent requests answered as replays of one that was counted.',
    STAT.replays,
  ),
  ofShards(
    'counter',
    'idempotency_mismatches_total',
    'Requests answered with 202 and not counted, because their Idempotency-Key was recorded with other content.',
    STAT.mismatches,
  ),
  ofServer('http_connections', 'Open HTTP connections, about.', ({ connections }) => connections),
  ofServer(
    'watchers',
    'Open event streams: watchers and dashboards.',
    ({ requestStats }) => new SharedWatchers(requestStats).open,
  ),
  batchHistogram(
    'ack_seconds',
    'Time from the first request of a batch to the answer of its shard; each request of the batch counts.',
    'ackSeconds',
  ),
  batchHistogram('batch_requests', 'Requests in a batch for a shard.', 'batchRequests'),
];

const bounds: readonly Definition[] = [
  ofShards('gauge', 'pending_keys', 'Pending keys, as MAX_PENDING_KEYS counts them.', STAT.pendingKeys),
  ofServer('pending_keys_limit', 'MAX_PENDING_KEYS, for all shards together.', ({ config }) => config.pendingKeysMax),
  ofShards('gauge', 'pending_bytes', 'Pending bytes, as MAX_PENDING_BYTES counts them.', STAT.pendingBytes),
  ofServer(
    'pending_bytes_limit',
    'MAX_PENDING_BYTES, for all shards together.',
    ({ config }) => config.pendingBytesMax,
  ),
  ofShards('gauge', 'journal_bytes', 'Bytes in the journal, as JOURNAL_MAX_BYTES counts them.', STAT.journalBytes),
  ofShards('gauge', 'journal_bytes_limit', 'JOURNAL_MAX_BYTES; infinite for a memory journal.', (_, { sources }) =>
    journalKinds[sources.config.journal].isVolatile ? Number.POSITIVE_INFINITY : sources.config.journalBytesMax,
  ),
  ofShards('gauge', 'journal_segments', 'Files of the journal.', STAT.journalSegments),
  ofShards('gauge', 'in_flight_bytes', 'Bytes of increments that wait for the journal.', (_, { sources }, shard) =>
    sources.inFlightBytes(shard),
  ),
  ofShards(
    'gauge',
    'in_flight_bytes_limit',
    'Most bytes that may wait for the journal.',
    (_, { sources }) => WINDOW_BYTES_MAX * sources.config.httpThreads,
  ),
  ofServer('idempotency_rows', 'Remembered idempotency keys as of the last count, about.', ({ idempotencyRows }) =>
    idempotencyRows(),
  ),
  ofServer('idempotency_rows_limit', 'IDEMPOTENCY_MAX_ROWS.', ({ config }) => config.idempotencyRowsMax),
  ofServer(
    'pruning_held_seconds',
    'How far the open stream that is furthest behind holds the pruning of idempotency keys back.',
    ({ pruningHeldSeconds }) => pruningHeldSeconds(),
  ),
];

const flushes: readonly Definition[] = [
  ofShards('gauge', 'oldest_pending_seconds', 'Age of the oldest pending increment.', (row, { atMs }) => {
    const oldestAtMs = statOf(row, STAT.oldestPendingAtMs);
    return oldestAtMs === 0 ? 0 : Math.max(0, (atMs - oldestAtMs) / 1000);
  }),
  shardHistogram(
    'journal_sync_seconds',
    'Time of a sync of a journal file, or of an append to the journal in PostgreSQL.',
    'journalSyncSeconds',
    true,
  ),
  shardHistogram('flush_seconds', 'Time of a flush that committed, without failed attempts.', 'flushSeconds', true),
  shardHistogram('group_records', 'Records that one sync makes durable.', 'groupRecords', false),
  shardHistogram('flush_keys', 'Rows of the table counters that a flush wrote.', 'flushKeys', false),
  ofShards('counter', 'flush_retries_total', 'Attempts of flushes that failed and were repeated.', STAT.flushRetries),
  ofShards(
    'counter',
    'fenced_total',
    'Times that a checkpoint was not where this process had left it: another owner, or a database gone back in time.',
    STAT.fenced,
  ),
  ofShards('counter', 'shard_restarts_total', 'Times that the shard was started again.', STAT.restarts),
];

const health: readonly Definition[] = [
  {
    name: `${PREFIX}build_info`,
    type: 'gauge',
    help: 'Always 1; the labels name the versions and the kind of server.',
    samples: ({ sources: { config, versions } }) => [
      { labels: { ...versions, journal: config.journal, role: config.role }, value: 1 },
    ],
  },
  ofServer('database_available', 'Whether PostgreSQL answers and takes flushes.', (sources) =>
    Number(sources.isDatabaseAvailable()),
  ),
  ofServer('journal_available', 'Whether the journals of all shards take records.', (sources) =>
    Number(sources.isJournalAvailable()),
  ),
  ofServer('ready', 'Whether increments are accepted, as /readyz says.', (sources) => Number(sources.isReady())),
];

/** All metrics of this server. */
export const metricDefinitions: readonly Definition[] = [...health, ...balance, ...requests, ...bounds, ...flushes];

/** The codes of the operation exist from the start. Another code is a bug, and also shows. */
function refusalsByCode(stats: SharedArrayBuffer): readonly Sample<number>[] {
  const byCode = new Map<string, number>(Array.from(errorsOf(api.increment), (code) => [code, 0]));
  for (const [index, count] of readRefusals(stats).entries()) {
    const refusal = REFUSALS[index];
    if (refusal === undefined || count === 0) continue;
    const code = codeOfRefusal(refusal);
    byCode.set(code, (byCode.get(code) ?? 0) + count);
  }
  return Array.from(byCode, ([code, value]) => ({ labels: { code }, value }));
}
