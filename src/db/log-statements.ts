/**
 * Every SQL statement on the postgres journal: `increment_log`, its streams, and who owns them. Any thread.
 *
 * A stream has two owners. `journal_streams.epoch` says who may append, `journal_checkpoints.epoch` who may flush. Whoever
 * flushes for a living writer raises the second only; whoever takes over from a dead one raises both.
 *
 * Locks have one order, that of `statements.ts`: `pruned_before`, then the row of `journal_streams`, then the checkpoint row.
 */
import { NEW_EPOCH, ROW, seconds } from './statements.js';

/** Without a sign of life for this long an owner counts as gone. A hint: the epochs make takeover safe. */
const IS_ALIVE = "alive_at > now() - interval '6 seconds'";

/** Whether a row of `journal_heartbeats`, by its alias, is a recent sign of life. */
export function isAlive(heartbeat: string): string {
  return `${heartbeat}.${IS_ALIVE}`;
}

/*
 * Beginning a stream: BEGIN_TAKING, LOCK_PRUNED_BEFORE, {@link BEGIN_STREAM}, COMMIT_TAKING on one session.
 */

/**
 * $1 stream, $2 node, $3 shard, $4 the flusher of the thread that writes it, or null. Makes the rows of a new stream: it covers
 * what is accepted from `pruned_before` on.
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
 * The fence is locked so that an adoption waits for this statement and every later one
 * sees its new epoch. Without the record before them they are not appended: a failover has taken it back.
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
 * `fenced` is 0 where the stream has another writer or none. A record with this LSN that is there already is refused (23505).
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
 * $1 stream. The last LSN that the stream has ever had: flushed records are removed. No row where the stream is not known any
 * more.
 */
export const LAST_LSN = `
select greatest(c.lsn, (select max(lsn) from increment_log where stream = $1))::text as lsn
from journal_checkpoints c where c.stream = $1`;

/**
 * Commits something that nobody reads. With a synchronous standby, a record that was found may not be there yet: PostgreSQL ends the
 * wait of a commit when its connection ends, and keeps the commit. A later commit waits for both.
 */
export const AWAIT_STANDBY = `select pg_logical_emit_message(true, 'summing-counters', '')`;

/**
 * $1 stream. Its writer's question: whether the row is open, and what time it is there. No row where it is closed, retired or
 * gone.
 */
export const ASK_STREAM = `
select lsn::text, epoch::text, ${seconds('now()')} as database_time
from journal_checkpoints where stream = $1 and closed_at is null and retired_at is null`;

/** $1 who flushes, or null, $2 streams uuid[] of this writer. Signs of life. */
export const SHOW_LIFE = `
with writers as (
  update journal_heartbeats set alive_at = now() where id = any($2::uuid[]) returning 1
)
insert into journal_heartbeats (id, flushes) select $1, true where $1::uuid is not null
on conflict (id) do update set alive_at = now()`;

/** As {@link SHOW_LIFE}, for journals elsewhere: also of a stream that has no row yet. */
export const SHOW_LIFE_WITHOUT_ROW = `
insert into journal_heartbeats (id, flushes)
select id, flushes from (
  select $1::uuid as id, true as flushes where $1::uuid is not null
  union all
  select id, false from unnest($2::uuid[]) w(id)
) alive
order by id
on conflict (id) do update set alive_at = now()`;

/** $1 ids uuid[]. The last sign: their streams are free at once. */
export const END_LIFE = 'delete from journal_heartbeats where id = any($1::uuid[])';

/**
 * $1 stream, $2 append epoch, $3 a time of the database, in seconds since 1970. The word of an idle writer: everything that it
 * accepted before that time is in the log. Nothing may be in hand, nor in doubt.
 */
export const GIVE_WORD = `
update journal_heartbeats h set accepted_through = greatest(h.accepted_through, to_timestamp($3::float8))
from journal_streams s
where h.id = $1 and s.stream = $1 and s.epoch = $2 and s.retired_at is null
returning 1`;

/**
 * All streams that are not retired: where they are, whether who flushes and who writes them shows signs of life, and how many
 * flushers do. `self_flushed`: the thread that writes it owns its flushes, too.
 */
export const SURVEY_STREAMS = `
select c.stream::text, c.epoch::text, c.lsn::text, c.owner::text, c.node::text, c.shard,
       coalesce(o.${IS_ALIVE}, false) as is_owned, coalesce(w.${IS_ALIVE}, false) as is_written,
       coalesce(c.owner = s.flusher, false) as self_flushed,
       (select count(*)::int from journal_heartbeats where flushes and ${IS_ALIVE}) as flushers
from journal_checkpoints c
join journal_streams s on s.stream = c.stream
left join journal_heartbeats o on o.id = c.owner
left join journal_heartbeats w on w.id = c.stream
where c.journal = 'postgres' and c.retired_at is null
order by c.stream`;

/*
 * Taking a stream over: BEGIN_TAKING, LOCK_PRUNED_BEFORE, {@link LOCK_STREAM} where the writer is gone, LOCK_CHECKPOINT, one of
 * {@link ADOPT_STREAM} and {@link TAKE_FLUSHES}, COMMIT_TAKING on one session. The log is read after the commit.
 */

/** $1 stream. Waits for an append that still runs, and keeps the next one waiting until the commit. */
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

/** $1 stream, $2 who flushes it. Fences both its writer and who flushed it. */
export const ADOPT_STREAM = `
with fence as (
  update journal_streams set epoch = ${NEW_EPOCH}, flusher = null, retired_at = null where stream = $1 returning epoch
),
${TAKEN}
select ${ROW}, (select epoch::text from fence) as append_epoch from taken`;

/** $1 stream, $2 who flushes it. Fences who flushed it; its writer goes on. */
export const TAKE_FLUSHES = `
with ${TAKEN}
select ${ROW}, null as append_epoch from taken`;

/** $1 stream, $2 epoch, $3 lsn. Somebody else may flush the stream at once. */
export const RELEASE_STREAM = `
update journal_checkpoints set owner = null, heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3 and retired_at is null
returning 1`;

/**
 * $1 streams uuid[], $2 LSNs bigint[], $3 records at most of each. The records above, in order. A bytea is an array in its
 * binary form; amounts are doubles, which hold every amount exactly.
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
 * $1 stream, $2 epoch, $3 lsn. As TOUCH_CHECKPOINT, for a stream that another process writes: its writer's word counts where
 * nothing in the log is above the checkpoint. Both are seen in one snapshot.
 */
export const TOUCH_STREAM = `
update journal_checkpoints set heard_at = now(), accepted_through = greatest(accepted_through,
  case when exists (select from increment_log where stream = $1 and lsn > $3::bigint) then '-infinity'
       else least(now(), coalesce((select h.accepted_through from journal_heartbeats h where h.id = $1), '-infinity')) end)
where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null
returning ${seconds('now()')} as database_time`;

/**
 * $1 stream, $2 epoch, $3 lsn, $4 append epoch. Ends a stream whose log is flushed to its end, by who owns both. The rows stay
 * as tombstones. Idempotent: also where this owner has retired it already.
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
 * $1 seconds for which committed records are kept, $2 records at most of each stream, $3 records at most. Removes committed
 * records. Looks at the oldest records of each stream only, so that a long retention costs nothing.
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

/** Removes signs of life of a day ago: their owners are gone without a last one. */
export const PRUNE_HEARTBEATS = "delete from journal_heartbeats where alive_at < now() - interval '1 day'";

/**
 * $1 window in hours, $2 rows at most. As PRUNE_TOMBSTONES, for streams whose log is pruned as well. Where such a stream had
 * records, the log is not complete any more.
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
