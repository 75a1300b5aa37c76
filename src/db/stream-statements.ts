/**
 * Every SQL statement on streams of shared journals: their writers, flushers and heartbeats. Any thread. `log-statements.ts` has
 * those on the records of the postgres journal.
 *
 * A stream of the postgres journal has two owners: `journal_streams.epoch` is that of the writer, `journal_checkpoints.epoch` that of
 * the flusher. A flusher raises the second for a living writer, and both for a dead one. In the other journals only flushes have an
 * epoch: a message in the broker fences a writer of the nats journal, and nothing fences one of the sqs journal.
 *
 * Locks have one order, that of `statements.ts`: `pruned_before`, then the row of `journal_streams`, then the checkpoint row.
 */
import { NEW_EPOCH, ROW, seconds } from './statements.js';

/** An owner without a heartbeat for this long counts as dead. A hint: the epochs make takeover safe. */
const IS_ALIVE = "alive_at > now() - interval '6 seconds'";

/*
 * Beginning a stream: BEGIN_TAKING, LOCK_PRUNED_BEFORE, {@link BEGIN_STREAM}, COMMIT_TAKING on one session.
 */

/**
 * $1 stream, $2 node, $3 shard, $4 the flusher of the thread that writes it, or null. Makes the rows of a new stream. It covers
 * requests that are accepted from `pruned_before` on.
 */
export const BEGIN_STREAM = `
with fence as (
  insert into journal_streams (stream, epoch, node, shard, flusher) values ($1, ${NEW_EPOCH}, $2, $3, $4)
  returning stream, epoch
),
made as (
  insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, covered_from, accepted_through, owner)
  select fence.stream, ${NEW_EPOCH}, 0, $2, $3, 'postgres', pruned_before, pruned_before, $4
  from idempotency_pruning cross join fence
  returning *
),
beat as (
  insert into journal_heartbeats (id, flushes) select stream, false from made
)
select ${ROW}, (select epoch::text from fence) as append_epoch, ${seconds('statement_timestamp()')} as database_time
from made`;

/**
 * $1 stream, $2 node, $3 shard, $4 flusher, or null, $5 journal, $6 whether its writer sends heartbeats, $7 the store that has its
 * records, $8 where that is. Makes the rows of a stream of another journal. It covers requests that are accepted from `pruned_before` on. Follows LOCK_PRUNED_BEFORE in a transaction.
 * Returns no row where the stream has one.
 */
export const MAKE_STREAM = `
with made as (
  insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, covered_from, accepted_through, owner, store)
  select $1, ${NEW_EPOCH}, 0, $2, $3, $5, pruned_before, pruned_before, $4, $7 from idempotency_pruning
  on conflict (stream) do nothing
  returning *
),
writers as (
  insert into journal_streams (stream, epoch, node, shard, flusher)
  select stream, epoch, $2, $3, $4 from made where journal = 'nats'
  on conflict (stream) do nothing
),
stored as (
  insert into journal_stores (id, journal, place) select store, journal, $8 from made
  on conflict (id) do nothing
),
beat as (
  insert into journal_heartbeats (id, flushes) select stream, false from made where $6
  on conflict (id) do nothing
)
select ${ROW}, ${seconds('statement_timestamp()')} as database_time from made`;

/** $1 stream. For its writer: the checkpoint, whether the row is open, and the time of the database. */
export const ASK_STREAM = `
select lsn::text, epoch::text, closed_at is null and retired_at is null as open, ${seconds('now()')} as database_time
from journal_checkpoints where stream = $1`;

/** $1 flusher, or null, $2 streams uuid[] of this writer, $3 journal and $4 store of the flusher. Heartbeats. */
export const SEND_HEARTBEATS = `
with writers as (
  update journal_heartbeats set alive_at = now() where id = any($2::uuid[]) returning 1
)
insert into journal_heartbeats (id, flushes, journal, store) select $1, true, $3::text, $4::uuid where $1::uuid is not null
on conflict (id) do update set alive_at = now()`;

/** As {@link SEND_HEARTBEATS}, for other journals: also for a stream without a row. */
export const SEND_HEARTBEATS_WITHOUT_ROW = `
insert into journal_heartbeats (id, flushes, journal, store)
select id, flushes, $3::text, $4::uuid from (
  select $1::uuid as id, true as flushes where $1::uuid is not null
  union all
  select id, false from unnest($2::uuid[]) w(id)
) alive
order by id
on conflict (id) do update set alive_at = now()`;

/** $1 ids uuid[]. Ends heartbeats: others may take the streams at once. */
export const END_HEARTBEATS = 'delete from journal_heartbeats where id = any($1::uuid[])';

/**
 * $1 stream, $2 append epoch, $3 a time of the database, in seconds since 1970. An idle writer records that everything it accepted
 * before that time is in the journal. No append may be under way or in doubt.
 */
export const ADVANCE_ACCEPTED_THROUGH = `
update journal_heartbeats h set accepted_through = greatest(h.accepted_through, to_timestamp($3::float8))
from journal_streams s
where h.id = $1 and s.stream = $1 and s.epoch = $2 and s.retired_at is null
returning 1`;

/**
 * $1 journal, $2 store, null for the database. Its streams that are not retired: their checkpoints, whether flusher and writer send
 * heartbeats, the time since the last heartbeat of the writer, and the number of flushers of that journal and store with heartbeats;
 * those of earlier versions name none. `self_flushed`: one thread writes and flushes it.
 */
export const SURVEY_STREAMS = `
select c.stream::text, c.epoch::text, c.lsn::text, c.owner::text, coalesce(c.node::text, '') as node, coalesce(c.shard, 0) as shard,
       coalesce(o.${IS_ALIVE}, false) as is_owned, coalesce(w.${IS_ALIVE}, false) as is_written,
       extract(epoch from clock_timestamp() - w.alive_at)::float8 * 1000 as silent_ms,
       coalesce(c.owner = s.flusher, false) as self_flushed,
       (select count(*)::int from journal_heartbeats
        where flushes and ${IS_ALIVE} and (journal is null or (journal = $1 and store is not distinct from $2::uuid))) as flushers
from journal_checkpoints c
left join journal_streams s on s.stream = c.stream
left join journal_heartbeats o on o.id = c.owner
left join journal_heartbeats w on w.id = c.stream
where c.journal = $1 and c.store is not distinct from $2::uuid and c.retired_at is null
  and (c.journal <> 'postgres' or s.stream is not null)
order by c.stream`;

/*
 * Taking a stream over: BEGIN_TAKING, LOCK_PRUNED_BEFORE, {@link LOCK_STREAM} where the writer is dead, LOCK_CHECKPOINT, one of
 * {@link ADOPT_STREAM} and {@link TAKE_FLUSHES}, COMMIT_TAKING on one session. Read the records after the commit.
 */

/** $1 stream. Waits for an append that still runs, and delays the next one until the commit. */
export const LOCK_STREAM = 'select 1 from journal_streams where stream = $1 for update';

const TAKEN = `
taken as (
  update journal_checkpoints set
    epoch = ${NEW_EPOCH}, owner = $2, heard_at = now(), closed_at = null, retired_at = null,
    covered_from = case when closed_at is null and retired_at is null then covered_from
                        else greatest(covered_from, (select pruned_before from idempotency_pruning)) end
  where stream = $1
  returning *
)`;

/** $1 stream, $2 new flusher. Fences its writer and its flusher. */
export const ADOPT_STREAM = `
with fence as (
  update journal_streams set epoch = ${NEW_EPOCH}, flusher = null, retired_at = null where stream = $1 returning epoch
),
${TAKEN}
select ${ROW}, (select epoch::text from fence) as append_epoch from taken`;

/** $1 stream, $2 new flusher. Fences its flusher, and not its writer. */
export const TAKE_FLUSHES = `
with ${TAKEN}
select ${ROW}, null as append_epoch from taken`;

/** $1 stream, $2 epoch, $3 lsn. Another flusher may take the stream at once. */
export const RELEASE_STREAM = `
update journal_checkpoints set owner = null, heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3 and retired_at is null
returning 1`;

/**
 * $1 stream, $2 new flusher, $3 an LSN that must be counted. Takes an open row, which keeps its `covered_from`, so the pruner need
 * not wait. Returns no row where the row is not open, or below that LSN: then its flusher may still flush the missing records.
 */
export const TAKE_OPEN_STREAM = `
update journal_checkpoints set epoch = ${NEW_EPOCH}, owner = $2, heard_at = now()
where stream = $1 and closed_at is null and retired_at is null and lsn >= $3::bigint
returning ${ROW}`;

/**
 * $1 stream, $2 new flusher, or null. Opens a retired stream again, whose row is locked, because its journal has records above its
 * checkpoint. It has not delayed the pruning meanwhile, so it covers only requests that are accepted from `pruned_before` on.
 */
export const REOPEN_STREAM = `
update journal_checkpoints set
  epoch = ${NEW_EPOCH}, owner = $2, heard_at = now(), closed_at = null, retired_at = null,
  covered_from = greatest(covered_from, (select pruned_before from idempotency_pruning))
where stream = $1 and retired_at is not null
returning ${ROW}`;

/**
 * $1 stream, $2 epoch, $3 lsn. As TOUCH_CHECKPOINT, for a stream that another process writes: takes `accepted_through` from its
 * writer's heartbeat, if the journal has no record above the checkpoint. One snapshot shows both.
 */
export const TOUCH_LOG_STREAM = `
update journal_checkpoints set heard_at = now(), accepted_through = greatest(accepted_through,
  case when exists (select from increment_log where stream = $1 and lsn > $3::bigint) then '-infinity'
       else least(now(), coalesce((select h.accepted_through from journal_heartbeats h where h.id = $1), '-infinity')) end)
where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null
returning ${seconds('now()')} as database_time`;

/** $1 stream, $2 epoch, $3 lsn. Checks the position of the row. Only a flush moves its `accepted_through`. */
export const TOUCH_STREAM = `
update journal_checkpoints set heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null
returning 1`;

/**
 * $1 stream, $2 epoch, $3 lsn. Checks the position of the row. Does not change `heard_at`: a stream without records expires, also
 * where a consumer still checks it.
 */
export const LOOK_AT_STREAM = `
select 1 from journal_checkpoints where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null`;

/**
 * $1 stream, $2 epoch, $3 lsn, $4 append epoch. Retires a stream that is flushed to its end, under both epochs. The rows stay as
 * tombstones. Idempotent.
 */
export const RETIRE_LOG_STREAM = `
with fence as materialized (
  select stream from journal_streams where stream = $1 and epoch = $4 for update
),
retired as (
  update journal_checkpoints c set retired_at = coalesce(c.retired_at, now()), heard_at = now(), owner = null
  from fence
  where c.stream = fence.stream and c.epoch = $2 and c.lsn = $3::bigint
    and not exists (select from increment_log l where l.stream = $1 and l.lsn > $3::bigint)
  returning c.stream
),
beat as (
  delete from journal_heartbeats where id in (select stream from retired)
)
update journal_streams s set retired_at = coalesce(s.retired_at, now()) from retired where s.stream = retired.stream
returning 1`;

/**
 * $1 stream, $2 epoch, $3 lsn. Retires a stream of another journal that is flushed to its end. The row stays as a tombstone.
 * Idempotent.
 */
export const RETIRE_STREAM_ELSEWHERE = `
with retired as (
  update journal_checkpoints set retired_at = coalesce(retired_at, now()), heard_at = now(), owner = null
  where stream = $1 and epoch = $2 and lsn = $3::bigint
  returning stream
),
beat as (
  delete from journal_heartbeats where id in (select stream from retired)
)
select 1 from retired`;

/**
 * $1 streams uuid[], $2 seconds for which committed records are kept, $3 window in hours. The rows of streams in the broker. Retired
 * ones are due for a purge, and 15 days after their window for the removal of their rows.
 */
export const KNOWN_STREAMS = `
select stream::text, epoch::text, lsn::text, retired_at is not null as retired,
       coalesce(retired_at < now() - make_interval(secs => $2::float8), false) as due,
       coalesce(retired_at < now() - make_interval(hours => $3::int) - interval '15 days', false) as old, store::text
from journal_checkpoints where stream = any($1::uuid[])`;

/** $1 stream, $2 store. Names the store of a stream of an earlier version, whose records were found there. */
export const JOIN_STORE = `
update journal_checkpoints set store = $2::uuid where stream = $1 and store is null and journal = 'nats'
returning 1`;

/** $1 journal, $2 store. Streams of that kind of journal whose records are in other stores, or in one that is not known. */
export const COUNT_STREAMS_ELSEWHERE = `
select count(*)::int as streams from journal_checkpoints
where journal = $1 and retired_at is null and store is distinct from $2::uuid`;

/** $1 stream, $2 epoch, $3 window in hours. Removes the tombstone of a stream whose subject has only fences. */
export const FORGET_STREAM = `
with forgotten as (
  delete from journal_checkpoints
  where stream = $1 and epoch = $2 and retired_at < now() - make_interval(hours => $3::int) - interval '15 days'
  returning stream
)
delete from journal_streams s using forgotten where s.stream = forgotten.stream`;

/*
 * Setting aside records of a stream that lacks earlier ones, or has no row: BEGIN_TAKING, {@link LOCK_SET_ASIDE}, {@link END_AT_GAP} where
 * there is a row, {@link SET_STREAM_ASIDE}, {@link IS_SET_ASIDE}, COMMIT_TAKING on one session. Each statement
 * sees the commits that the lock waited for.
 */

/** $1 stream. Delays other consumers of the same message. */
export const LOCK_SET_ASIDE = 'select pg_advisory_xact_lock(hashtextextended($1::text, 0))';

/** $1 stream, $2 epoch, $3 lsn. Retires a row behind which records are missing, and fences its flusher. Returns its new epoch. */
export const END_AT_GAP = `
update journal_checkpoints set
  epoch = case when retired_at is null then ${NEW_EPOCH} else epoch end,
  retired_at = coalesce(retired_at, now()), heard_at = now(), owner = null
where stream = $1 and epoch = $2 and lsn = $3::bigint
returning epoch::text`;

/**
 * $1 stream, $2 keys bytea[], $3 amounts text[], $4 LSNs bigint[], $5 idempotency keys text[] and $6 digests bytea[], null where there
 * is none, $7 times float8[], in seconds since 1970, $8 whether the stream must have a row, or must not. One element for each increment.
 * Keeps each record once.
 */
export const SET_STREAM_ASIDE = `
insert into rejected_increments (stream, key, amount, reason, lsn, token, digest, accepted_after)
select $1, r.k, r.a,
       case when $8 then 'earlier records of its stream are missing' else 'its stream has no row in journal_checkpoints' end,
       r.l, r.t, r.d, case when r.n = 0 then '-infinity' else to_timestamp(r.n) end
from unnest($2::bytea[], $3::text[], $4::bigint[], $5::text[], $6::bytea[], $7::float8[]) r(k, a, l, t, d, n)
where not exists (select from rejected_increments where stream = $1 and lsn = r.l)
  and exists (select from journal_checkpoints where stream = $1) = $8::boolean
returning 1`;

/** $1 stream, $2 LSNs bigint[]. A row if all of these records are kept; none if that is not so, because the stream has a row by now. */
export const IS_SET_ASIDE = `
select 1 where not exists (
  select from unnest($2::bigint[]) r(l) where not exists (select from rejected_increments where stream = $1 and lsn = r.l)
)`;

/** $1 id of a message, $2 store, $3 stream, $4 body, $5 problem. Keeps a message that nobody can read, once. */
export const KEEP_DAMAGED = `
with kept as (
  insert into damaged_messages (id, store, stream, body, problem) values ($1, $2::uuid, $3, $4, $5)
  on conflict (id) do nothing returning id
)
select id from kept union select id from damaged_messages where id = $1`;
