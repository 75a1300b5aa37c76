/**
 * The statements of an audit: recompute every sum from `increment_log`, in one snapshot. The audit command.
 *
 * The sums in `counters` are those of the journal up to the checkpoints, with each idempotency key once, less the deleted ones and
 * the rows set aside. An incomplete journal cannot prove that.
 */

/** One snapshot for all statements, however long they take. */
export const BEGIN_RECOUNT = 'begin isolation level repeatable read read only';
export const RECOUNT_TIMEOUTS = `
select set_config('statement_timeout', '0', false),
       case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', '0', false) end`;
export const END_RECOUNT = 'commit';

/** Why the journal is not complete; null: no reason is known. */
export const LOG_HISTORY = 'select incomplete_because from increment_log_history';

/** $1 most streams. Counted streams of other journals, with the number of all of them. */
export const STREAMS_ELSEWHERE = `
select stream::text, journal, lsn::text, count(*) over ()::int as streams
from journal_checkpoints where journal <> 'postgres' and lsn > 0 order by stream limit $1`;

/** $1 most streams. Streams that lack records between the first one and the checkpoint. */
export const STREAMS_NOT_KEPT = `
select c.stream::text, c.lsn::text, coalesce(l.first, c.lsn + 1)::text as first_kept, count(*) over ()::int as streams
from journal_checkpoints c
left join lateral (select min(lsn) as first, count(*) as records from increment_log where stream = c.stream and lsn <= c.lsn) l on true
where c.journal = 'postgres' and c.lsn > 0 and coalesce(l.records, 0) < c.lsn
order by c.stream limit $1`;

const REQUESTS = `
requests as materialized (
  select l.stream, l.lsn, l.logged_at, d.digest, l.idempotency_keys[d.first] as token
  from increment_log l
  join journal_checkpoints c on c.stream = l.stream and l.lsn <= c.lsn
  cross join lateral (
    select digest, 1 + sum(increments) over (order by n) - increments as first
    from unnest(l.digests, l.request_increments) with ordinality r(digest, increments, n)
  ) d
  where l.digests is not null
)`;

/**
 * $1 IDEMPOTENCY_WINDOW_HOURS. The number of idempotency keys whose counted request is unknown: they were reused after their window,
 * or with other content and their row is pruned.
 */
export const UNDECIDED_KEYS = `
with ${REQUESTS}
select count(*)::int as keys from (
  select token from requests r
  group by token
  having max(logged_at) - min(logged_at) > make_interval(hours => $1::int)
      or count(distinct digest) > 1 and not exists (select from idempotency_keys k where k.token = r.token)
) undecided`;

/**
 * $1 prefix. The counters whose sum is not that of the journal, in bytewise order of their keys; `stored` is null without a row.
 */
export const DRIFT = `
with ${REQUESTS},
uncovered as (
  select distinct stream, lsn, token from rejected_increments where sqlstate is null and token is not null
),
counted as materialized (
  select stream, lsn, token from (
    select r.*, row_number() over (partition by r.token order by (k.digest = r.digest) is true desc, r.logged_at, r.stream, r.lsn) as n
    from requests r
    left join idempotency_keys k on k.token = r.token
    where not exists (select from uncovered u where u.stream = r.stream and u.lsn = r.lsn and u.token = r.token)
  ) ranked where n = 1
),
entries as (
  select e.key, e.amount
  from increment_log l
  join journal_checkpoints c on c.stream = l.stream and l.lsn <= c.lsn
  cross join lateral unnest(l.keys, l.amounts, l.idempotency_keys) e(key, amount, token)
  left join counted n on n.stream = l.stream and n.lsn = l.lsn and n.token = e.token
  where starts_with(e.key, $1) and (coalesce(e.token, '') = '' or n.token is not null)
  union all
  select key, -sum from counter_resets where sum is not null and starts_with(key, $1)
  union all
  select convert_from(key, 'UTF8'), -amount::numeric from rejected_increments
  where sqlstate is not null and starts_with(convert_from(key, 'UTF8'), $1)
),
recomputed as (
  select key collate "C" as key, sum(amount) as sum from entries group by key
)
select key, c.sum::text as stored, coalesce(r.sum, 0)::text as recomputed
from recomputed r full join (select key, sum from counters where starts_with(key, $1)) c using (key)
where coalesce(c.sum, 0) <> coalesce(r.sum, 0)
order by key collate "C"`;
