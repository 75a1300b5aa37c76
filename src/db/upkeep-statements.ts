/**
 * SQL statements that limit the size of the tables: they retire streams and prune rows. Main thread.
 */
import { ADDED, COUNTERS_NOT_WRITTEN, failUnless, KEYS_NOT_VISIBLE, NEW_EPOCH } from './statements.js';

/**
 * $1 stream. Retires a stream whose node will not come back, and fences its owner in case it lives. Does nothing where `heard_at` is
 * less than five minutes ago: a living owner updates it several times a minute. Does nothing for streams of the postgres and nats
 * journals, which any flusher can finish.
 */
export const RETIRE_DEAD_STREAM = `
update journal_checkpoints set retired_at = now(), epoch = ${NEW_EPOCH}
where stream = $1 and retired_at is null and heard_at < now() - interval '5 minutes'
  and coalesce(journal, '') not in ('postgres', 'nats')
returning 1`;

/**
 * $1 node, $2 streams that are here uuid[], $3 streams that this process has finished uuid[], $4 most rows. Open rows of file
 * journals of this node without a stream here, those of finished streams first.
 */
export const OPEN_FILE_STREAMS = `
select j.stream::text, j.epoch::text, j.lsn::text,
       (select c.claim::text from journal_claims c where c.stream = j.stream and c.epoch <= j.epoch
        order by c.epoch desc limit 1) as claim,
       j.heard_at < now() - interval '5 minutes' as is_silent
from journal_checkpoints j
where (j.node = $1 or j.stream = any($3::uuid[])) and j.journal = 'file' and j.retired_at is null
  and j.stream <> all($2::uuid[])
order by j.stream = any($3::uuid[]) desc, j.stream
limit $4`;

/**
 * $1 stream, $2 epoch, $3 lsn. Retires a stream whose journal is removed, under a new epoch, which fences a copy of its directory.
 */
export const RETIRE_FINISHED_STREAM = `
update journal_checkpoints set retired_at = now(), epoch = ${NEW_EPOCH}
where stream = $1 and epoch = $2::bigint and lsn = $3::bigint and retired_at is null
returning 1`;

/** $1 stream. For operators. */
export const DESCRIBE_STREAM = `
select lsn::text, node::text, shard, journal, retired_at, heard_at as heard_of
from journal_checkpoints where stream = $1`;

/** $1 limit of the count. */
export const COUNT_IDEMPOTENCY_KEYS = `
select count(*)::int as rows from (select from idempotency_keys limit $1::bigint + 1) t`;

/**
 * The count in PostgreSQL's statistics, at most ten seconds behind the commits of a session. A crash or a failover loses the
 * statistics. Until the next vacuum or analyze they then count only later changes, and pg_class has the earlier count.
 */
export const ESTIMATE_IDEMPOTENCY_KEYS = `
select (s.n_live_tup + case when coalesce(s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze) is null
                            then greatest(c.reltuples, 0) else 0 end)::float8 as rows
from pg_class c join pg_stat_all_tables s on s.relid = c.oid where c.oid = 'idempotency_keys'::regclass`;

/** "sumprune" in ASCII. */
const PRUNER_LOCK_ID = '8319679712430552677';
export const TRY_PRUNER_LOCK = `select pg_try_advisory_lock(${PRUNER_LOCK_ID}) as locked`;
export const PRUNER_UNLOCK = `select pg_advisory_unlock(${PRUNER_LOCK_ID})`;

/**
 * Notes a round of the pruner. After a gap of more than ten minutes between two rounds nothing expires for an hour, because a
 * database that was off has received no heartbeats.
 */
export const NOTE_PRUNER_ROUND = `
update idempotency_pruning set
  gap_at = case when pruned_at < now() - interval '10 minutes' then now() else gap_at end, pruned_at = now()`;

/**
 * The condition of an expiry, with $1 days of STREAM_EXPIRY_DAYS (0: never). The streams of a memory journal end with their
 * thread, so a silent one has nothing left to flush. A living writer in a queue sends a record at least daily, and the queue keeps
 * it for at most 14 days.
 */
const IS_EXPIRED = `
retired_at is null
and (journal = 'file' and $1::int > 0 and heard_at < now() - make_interval(days => $1::int)
     or journal = 'memory' and heard_at < now() - interval '1 hour'
     or journal = 'sqs' and heard_at < now() - interval '15 days')
and exists (select from idempotency_pruning where gap_at < now() - interval '1 hour')`;

/** $1 days, $2 most rows. */
export const FIND_EXPIRED_STREAMS = `
select stream::text from journal_checkpoints where ${IS_EXPIRED} order by stream limit $2`;

/** $1 days, $2 stream. Retires the stream under a new epoch, if it is still silent. */
export const EXPIRE_STREAM = `
update journal_checkpoints set retired_at = now(), epoch = ${NEW_EPOCH}
where stream = $2 and ${IS_EXPIRED}
returning lsn::text, node::text, shard, journal, heard_at, closed_at is not null as closed`;

/*
 * Pruning idempotency keys: the statements from {@link BEGIN_PRUNING} to {@link COMMIT_PRUNING}, in this order, on one
 * session, then the deletion.
 */

export const BEGIN_PRUNING = 'begin';
export const COMMIT_PRUNING = 'commit';

/** Waits for processes that are taking a stream, and delays others until the commit. */
export const LOCK_PRUNING = 'select 1 from idempotency_pruning for update';

/**
 * Follows the lock, so that it sees rows that were made meanwhile. Returns, as text of the database, the time before which every
 * open stream has committed everything that it accepted. `pruned_before` never goes back.
 */
export const ADVANCE_PRUNED_BEFORE = `
with horizon as (
  select least(now(), (select min(accepted_through) from journal_checkpoints
                       where closed_at is null and retired_at is null)) as at
)
update idempotency_pruning set pruned_before = greatest(pruned_before, horizon.at) from horizon
returning horizon.at::text as horizon, greatest(0, extract(epoch from now() - greatest(horizon.at, to_timestamp(0))))::float8 as held_seconds`;

/**
 * $1 window in hours, $2 most rows, $3 the time that {@link ADVANCE_PRUNED_BEFORE} returned. Deletes idempotency keys whose window
 * is over for every stream that may still flush a retry. Five minutes are for requests under way.
 */
export const PRUNE_IDEMPOTENCY_KEYS = `
with pruned as (
  delete from idempotency_keys
  where ctid = any(array(
    select k.ctid from idempotency_keys k
    where k.claimed_at < $3::timestamptz - make_interval(hours => $1::int) - interval '5 minutes' limit $2))
  returning 1
)
select count(*)::int as pruned from pruned`;

/**
 * $1 window in hours, $2 most rows. Deletes tombstones of streams whose records cannot come back: a queue keeps a message for 15
 * days at most. The few tombstones of file journals stay: a data directory may come back after years, and without the row its
 * records would count again.
 */
export const PRUNE_TOMBSTONES = `
with pruned as (
  delete from journal_checkpoints
  where stream = any(array(
    select stream from journal_checkpoints
    where retired_at < now() - make_interval(hours => $1::int) - interval '15 days' and journal in ('memory', 'sqs')
    limit $2 for update skip locked))
  returning stream
),
claims as (delete from journal_claims c using pruned p where c.stream = p.stream)
select count(*)::int as pruned from pruned`;

/** $1 window in hours, $2 most rows. Prunes deletes of counters that did not exist; other deletes stay. */
export const PRUNE_DELETES = `
with pruned as (
  delete from counter_resets
  where id = any(array(
    select id from counter_resets
    where sum is null and at < now() - make_interval(hours => $1::int) - interval '5 minutes' limit $2))
  returning 1
)
select count(*)::int as pruned from pruned`;

/** $1 exclusive lower bound of the id, $2 most rows. */
export const LIST_REJECTED = `
select id::text, stream::text, key, amount, reason, sqlstate, rejected_at, lsn::text, token, accepted_after from rejected_increments
where id > $1::bigint order by rejected_increments.id limit $2`;

/** Rows without a SQLSTATE are idempotent requests that could not be checked: a retry may count them twice. */
export const LAST_REJECTED = 'select max(id)::text as id from rejected_increments where sqlstate is not null';

/** $1 exclusive lower bound of the id, $2 the last id, $3 most rows. */
export const REJECTED_IDS = `
select id::text from rejected_increments
where id > $1::bigint and id <= $2::bigint and sqlstate is not null order by rejected_increments.id limit $3`;

/**
 * $1 ids bigint[]. Counts rejected rows and deletes them, both or neither. A row that another command has deleted adds
 * nothing. Locks counters in bytewise order.
 */
export const RETRY_REJECTED = `
with taken as (
  delete from rejected_increments where id = any($1::bigint[]) returning key as bytes, amount::numeric as amount
),
sums as (select convert_from(bytes, 'UTF8') as key, sum(amount) as amount from taken group by bytes),
${ADDED}
select (select count(*)::int from taken) as rows, ${failUnless('a.n = s.n', COUNTERS_NOT_WRITTEN, 'a.n')} as unwritten
from (select count(*)::int as n from added) a, (select count(*)::int as n from sums) s`;

/** $1 exclusive lower bound, $2 beginning, $3 most: idempotency keys of requests that could not be checked. */
export const SET_ASIDE_KEYS = `
select distinct token from rejected_increments
where sqlstate is null and token > $1 and starts_with(token, $2) order by token limit $3`;

/** Requests of `taken`, one copy of each, whose keys are claimed. */
const CLAIMED = `
copies as (
  select stream, lsn, token, min(id) as first, (array_agg(digest))[1] as digest from taken
  where token is not null group by stream, lsn, token
),
request as (select distinct on (token) * from copies order by token, first),
claimed as (
  insert into idempotency_keys (token, digest, claimed_at)
  select token, digest, now() from request order by token collate "C" on conflict do nothing returning token
),`;

/** Fails unless all rows are written. */
const AS_MEANT = `
       ${failUnless('a.n = s.n', COUNTERS_NOT_WRITTEN, 'a.n')} as unwritten,
       ${failUnless('c.n + v.n = r.n', KEYS_NOT_VISIBLE, '(r.n - c.n - v.n)')} as unseen
from (select count(*)::int as n from added) a, (select count(*)::int as n from sums) s,
     (select count(*)::int as n from claimed) c, (select count(*)::int as n from request) r,
     (select count(*)::int as n from idempotency_keys where token in (select token from request)) v`;

/**
 * $1 idempotency keys text[]. Claims each that is not known, counts one copy of its request, and deletes all copies. A copy is a
 * record: two directories may have taken the same request. Locks keys and counters in bytewise order.
 */
export const RETRY_SET_ASIDE = `
with taken as (
  delete from rejected_increments where token = any($1::text[]) and sqlstate is null
  returning id, stream, lsn, token, digest, key as bytes, amount::numeric as amount
),
${CLAIMED}
sums as (
  select convert_from(bytes, 'UTF8') as key, sum(amount) as amount
  from claimed join request using (token) join taken using (stream, lsn, token) group by bytes
),
${ADDED}
select c.n as counted, r.n as requests, (select count(*)::int from copies) as copies,
${AS_MEANT}`;

/** $1 id, $2 reason, $3 SQLSTATE of the latest refusal. */
export const UPDATE_REJECTED = 'update rejected_increments set reason = $2, sqlstate = $3 where id = $1::bigint';

/**
 * $1 stream, $2 LSN. Follows LOCK_PRUNED_BEFORE in a transaction. Moves the checkpoint over records that are missing, under a new epoch,
 * and opens the stream again. It covers requests that are accepted from `pruned_before` on, if it was retired.
 */
export const SKIP_MISSING = `
update journal_checkpoints set
  lsn = $2::bigint, epoch = ${NEW_EPOCH}, owner = null, heard_at = now(),
  covered_from = case when retired_at is null then covered_from
                      else greatest(covered_from, (select pruned_before from idempotency_pruning)) end,
  closed_at = null, retired_at = null
where stream = $1 and lsn < $2::bigint and journal = 'nats'
returning 1`;

/** $1 stream, $2 lsn. What is set aside above it, because earlier records are missing or the stream has no row. */
export const DESCRIBE_ASIDE = `
select min(lsn)::text as first, max(lsn)::text as last, count(*)::text as increments from rejected_increments
where stream = $1 and lsn > $2::bigint and sqlstate is null`;

/**
 * $1 stream, $2 lsn, $3 most rows, whole records. Counts what is set aside above that LSN, requests whose idempotency keys are recorded
 * excepted, and moves the checkpoint over it, so that a late copy of a record is not counted. The row stays retired: a later
 * record opens it. Follows LOCK_PRUNED_BEFORE and LOCK_SET_ASIDE in a transaction. Returns the last LSN; null: there is no more.
 */
export const COUNT_ASIDE = `
with aside as (
  select max(lsn) as lsn from (
    select lsn from rejected_increments where stream = $1 and lsn > $2::bigint and sqlstate is null order by lsn limit $3
  ) batch
),
fence as (
  insert into journal_checkpoints as c (stream, epoch, lsn, journal, covered_from, accepted_through, retired_at)
  select $1, ${NEW_EPOCH}, aside.lsn, 'sqs', pruned_before, pruned_before, now() from aside cross join idempotency_pruning
  where aside.lsn is not null
  on conflict (stream) do update set
    epoch = excluded.epoch, lsn = excluded.lsn, owner = null, heard_at = now(), retired_at = coalesce(c.retired_at, now())
  where c.lsn <= $2::bigint and c.journal = 'sqs'
  returning lsn
),
taken as (
  delete from rejected_increments r using fence
  where r.stream = $1 and r.lsn > $2::bigint and r.lsn <= fence.lsn and r.sqlstate is null
  returning r.id, r.stream, r.lsn, r.token, r.digest, r.key as bytes, r.amount::numeric as amount
),
${CLAIMED}
sums as (
  select convert_from(bytes, 'UTF8') as key, sum(amount) as amount from (
    select bytes, amount from taken where token is null
    union all
    select bytes, amount from claimed join request using (token) join taken using (stream, lsn, token)
  ) counted group by bytes
),
${ADDED}
select (select lsn::text from fence) as lsn, (select count(*)::int from taken) as increments, r.n - c.n as known,
${AS_MEANT}`;
