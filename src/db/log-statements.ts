/**
 * Every SQL statement on `increment_log`, the records of the postgres journal. Any thread. `stream-statements.ts` has those on its
 * streams.
 */
import { seconds } from './statements.js';

/**
 * Locks the fence, so that an adoption waits for this statement, and later ones see its new epoch. Appends nothing without the record
 * before the group, which a failover has undone.
 */
const APPEND_FENCE = `
fence as (
  select from journal_streams where stream = $1 and epoch = $2 and retired_at is null for share
),
follows as (
  select from fence
  where $4::bigint = 1
     or exists (select from increment_log where stream = $1 and lsn = $4::bigint - 1)
     or exists (select from journal_checkpoints where stream = $1 and lsn >= $4::bigint - 1)
)`;

const APPEND_OUTCOME = `
select (select count(*)::int from fence) as fenced, (select count(*)::int from appended) as appended`;

/**
 * Appends a group. $1 stream, $2 append epoch, $3 the time that its records carry, in seconds since 1970, $4 LSN of the first
 * record; by record: $5 when it was accepted float8[], in seconds since 1970, $6 and $7 the numbers of its first and last
 * increment int[]; by increment: $8 keys text[], $9 amounts numeric[].
 *
 * `fenced` is 0 where the stream is fenced or retired. A record whose LSN exists is refused (23505).
 */
export const APPEND = `
with ${APPEND_FENCE},
appended as (
  insert into increment_log (stream, lsn, accepted_at, accepted_after, keys, amounts)
  select $1, $4::bigint + r.n - 1, to_timestamp(r.accepted_at), to_timestamp($3::float8),
         ($8::text[])[r.first:r.last], ($9::numeric[])[r.first:r.last]
  from follows cross join unnest($5::float8[], $6::int[], $7::int[]) with ordinality r(accepted_at, first, last, n)
  returning 1
)
${APPEND_OUTCOME}`;

/**
 * As {@link APPEND}, for a group with idempotent requests. By increment: $10 idempotency keys text[] ('': none). By request: $11
 * increments int[], $12 digests bytea[]. By record: $13 and $14 the numbers of its first and last request int[]; 1 and 0 where
 * it has none.
 */
export const APPEND_IDEMPOTENT = `
with ${APPEND_FENCE},
appended as (
  insert into increment_log
    (stream, lsn, accepted_at, accepted_after, keys, amounts, idempotency_keys, request_increments, digests)
  select $1, $4::bigint + r.n - 1, to_timestamp(r.accepted_at), to_timestamp($3::float8),
         ($8::text[])[r.first:r.last], ($9::numeric[])[r.first:r.last],
         case when r.first_request <= r.last_request then ($10::text[])[r.first:r.last] end,
         case when r.first_request <= r.last_request then ($11::int[])[r.first_request:r.last_request] end,
         case when r.first_request <= r.last_request then ($12::bytea[])[r.first_request:r.last_request] end
  from follows
  cross join unnest($5::float8[], $6::int[], $7::int[], $13::int[], $14::int[]) with ordinality
             r(accepted_at, first, last, first_request, last_request, n)
  returning 1
)
${APPEND_OUTCOME}`;

/**
 * $1 stream. The last LSN that the stream ever had: the pruner may have removed its record. No row where the stream has none.
 */
export const LAST_LSN = `
select greatest(c.lsn, (select max(lsn) from increment_log where stream = $1))::text as lsn
from journal_checkpoints c where c.stream = $1`;

/**
 * Commits a message that nobody reads. A synchronous standby may lack a record that was found: when a connection ends, PostgreSQL
 * ends its wait for the standby and keeps the commit. A later commit waits for both.
 */
export const AWAIT_STANDBY = `select pg_logical_emit_message(true, 'summing-counters', '')`;

/**
 * $1 streams uuid[], $2 LSNs bigint[], $3 most records of each. The records above, in order. Arrays are in binary form; amounts are
 * doubles, which represent every amount exactly.
 */
export const READ_LOG = `
select l.stream::text, l.lsn::text, extract(epoch from l.accepted_at)::float8 as accepted_at,
       ${seconds('l.accepted_after')} as accepted_after,
       array_send(l.keys) as keys, array_send(l.amounts::float8[]) as amounts,
       array_send(l.idempotency_keys) as idempotency_keys, l.request_increments, array_send(l.digests) as digests
from unnest($1::uuid[], $2::bigint[]) s(stream, lsn)
cross join lateral (
  select * from increment_log where stream = s.stream and lsn > s.lsn order by lsn limit $3
) l
order by l.stream, l.lsn`;

/**
 * $1 seconds for which committed records are kept, $2 most records of each stream, $3 most records. Removes committed records. Reads
 * only the oldest records of each stream, so that a long retention costs nothing.
 */
export const PRUNE_LOG = `
with due as (
  select l.place
  from journal_checkpoints c
  cross join lateral (
    select ctid as place, logged_at from increment_log where stream = c.stream and lsn <= c.lsn order by lsn limit $2
  ) l
  where c.journal = 'postgres' and l.logged_at < now() - make_interval(secs => $1::float8)
  limit $3
),
pruned as (
  delete from increment_log where ctid = any(array(select place from due)) returning 1
)
select count(*)::int as pruned from pruned`;

/** Removes heartbeats older than a day, which dead owners left. */
export const PRUNE_HEARTBEATS = "delete from journal_heartbeats where alive_at < now() - interval '1 day'";

/**
 * $1 window in hours, $2 most rows. As PRUNE_TOMBSTONES, for streams without a record in `increment_log`. Notes that it is no longer
 * complete, if such a stream had records.
 */
export const PRUNE_LOG_TOMBSTONES = `
with due as materialized (
  select c.stream from journal_streams s join journal_checkpoints c on c.stream = s.stream
  where c.journal = 'postgres' and c.retired_at < now() - make_interval(hours => $1::int) - interval '15 days'
    and not exists (select from increment_log l where l.stream = c.stream)
  order by c.stream limit $2 for update of s skip locked
),
fences as (
  delete from journal_streams s using due where s.stream = due.stream returning s.stream
),
pruned as (
  delete from journal_checkpoints c using fences where c.stream = fences.stream returning c.lsn
),
noted as (
  update increment_log_history set incomplete_because = 'records of ended streams were removed'
  where incomplete_because is null and exists (select from pruned where lsn > 0)
)
select count(*)::int as pruned from pruned`;
