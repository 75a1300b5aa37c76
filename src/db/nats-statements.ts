/**
 * Every SQL statement on streams of the nats journal. Any thread. Their records are in the broker; here are their checkpoints,
 * who writes and who flushes them, and signs of life, as for the journal in PostgreSQL (`log-statements.ts`).
 *
 * Only flushes have an epoch here: what ends a stream for its writer is a message in the broker.
 */
import { isAlive } from './log-statements.js';
import { NEW_EPOCH, ROW, seconds } from './statements.js';

/**
 * $1 stream, $2 node, $3 shard, $4 the flusher of the thread that writes it, or null, $5 whether the writer shows life. Makes the
 * rows of a stream whose first record is its own: it covers what is accepted from `pruned_before` on. In a transaction with
 * LOCK_PRUNED_BEFORE before it. No row where the stream has one.
 */
export const MAKE_NATS_STREAM = `
with made as (
  insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, covered_from, accepted_through, owner)
  select $1, ${NEW_EPOCH}, 0, $2, $3, 'nats', pruned_before, pruned_before, $4 from idempotency_pruning
  on conflict (stream) do nothing
  returning *
),
writers as (
  insert into journal_streams (stream, epoch, node, shard, flusher)
  select stream, epoch, $2, $3, $4 from made
  on conflict (stream) do nothing
),
beat as (
  insert into journal_heartbeats (id, flushes) select stream, false from made where $5
  on conflict (id) do nothing
)
select ${ROW}, ${seconds('statement_timestamp()')} as database_time from made`;

/** $1 stream. Its writer's question: as ASK_STREAM, and a row also where the stream is closed or retired. */
export const ASK_NATS_STREAM = `
select lsn::text, epoch::text, closed_at is null and retired_at is null as open, ${seconds('now()')} as database_time
from journal_checkpoints where stream = $1`;

/** All streams that are not retired: as SURVEY_STREAMS, and for how long their writers have shown no life. */
export const SURVEY_NATS_STREAMS = `
select c.stream::text, c.epoch::text, c.lsn::text, c.owner::text, coalesce(c.node::text, '') as node, coalesce(c.shard, 0) as shard,
       coalesce(${isAlive('o')}, false) as is_owned, coalesce(${isAlive('w')}, false) as is_written,
       extract(epoch from clock_timestamp() - w.alive_at)::float8 * 1000 as silent_ms,
       coalesce(c.owner = s.flusher, false) as self_flushed,
       (select count(*)::int from journal_heartbeats f where flushes and ${isAlive('f')}) as flushers
from journal_checkpoints c
left join journal_streams s on s.stream = c.stream
left join journal_heartbeats o on o.id = c.owner
left join journal_heartbeats w on w.id = c.stream
where c.journal = 'nats' and c.retired_at is null
order by c.stream`;

/**
 * $1 streams uuid[], $2 seconds for which committed records are kept, $3 window in hours. What is known of streams that the broker
 * has: retired ones are due for a purge, and 15 days after their window for the removal of their rows.
 */
export const KNOWN_NATS_STREAMS = `
select stream::text, epoch::text, lsn::text, retired_at is not null as retired,
       coalesce(retired_at < now() - make_interval(secs => $2::float8), false) as due,
       coalesce(retired_at < now() - make_interval(hours => $3::int) - interval '15 days', false) as old
from journal_checkpoints where stream = any($1::uuid[])`;

/**
 * $1 stream. Opens a retired stream again, whose row is locked, because the broker has records above its checkpoint. It has not held
 * the pruning up meanwhile, so it covers what is accepted from `pruned_before` on.
 */
export const REOPEN_NATS_STREAM = `
update journal_checkpoints set
  epoch = ${NEW_EPOCH}, owner = null, heard_at = now(), closed_at = null, retired_at = null,
  covered_from = greatest(covered_from, (select pruned_before from idempotency_pruning))
where stream = $1 and retired_at is not null
returning 1`;

/** $1 stream, $2 epoch, $3 lsn. Looks whether the row is there. Only a flush moves its `accepted_through`. */
export const TOUCH_NATS_STREAM = `
update journal_checkpoints set heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null
returning 1`;

/** $1 stream, $2 epoch, $3 lsn. Ends a stream that is fenced and flushed to its end. The row stays as a tombstone. Idempotent. */
export const RETIRE_NATS_STREAM = `
with retired as (
  update journal_checkpoints set retired_at = coalesce(retired_at, now()), heard_at = now(), owner = null
  where stream = $1 and epoch = $2 and lsn = $3::bigint
  returning stream
),
beat as (
  delete from journal_heartbeats where id in (select stream from retired)
)
select 1 from retired`;

/** $1 stream, $2 epoch, $3 window in hours. Removes the tombstone of a stream whose subject holds nothing but fences. */
export const FORGET_NATS_STREAM = `
with forgotten as (
  delete from journal_checkpoints
  where stream = $1 and epoch = $2 and retired_at < now() - make_interval(hours => $3::int) - interval '15 days'
  returning stream
)
delete from journal_streams s using forgotten where s.stream = forgotten.stream`;
