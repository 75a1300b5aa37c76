/**
 * Every SQL statement on streams of the sqs journal. Any thread. Their records are in the queue; here are their checkpoints.
 *
 * Whoever receives records of a stream takes its row, under a new epoch. Nothing fences its writer.
 */
import { NEW_EPOCH, ROW, seconds } from './statements.js';

/**
 * $1 stream, $2 node, $3 shard, $4 who flushes it, or null. Makes the row of a stream whose first record is its own: it covers what
 * is accepted from `pruned_before` on. In a transaction with LOCK_PRUNED_BEFORE before it. No row where the stream has one.
 */
export const MAKE_SQS_STREAM = `
with made as (
  insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, covered_from, accepted_through, owner)
  select $1, ${NEW_EPOCH}, 0, $2, $3, 'sqs', pruned_before, pruned_before, $4 from idempotency_pruning
  on conflict (stream) do nothing
  returning *
)
select ${ROW}, ${seconds('statement_timestamp()')} as database_time from made`;

/** $1 stream. Its writer's question. */
export const ASK_SQS_STREAM = `
select lsn::text, epoch::text, closed_at is null and retired_at is null as open, ${seconds('now()')} as database_time
from journal_checkpoints where stream = $1`;

/**
 * $1 stream, $2 who flushes it, $3 an LSN that must be counted. Takes an open row. It keeps what it covers, so the pruner need not
 * wait. No row where it is not open, or not there: then whoever has it may still flush what is missing.
 */
export const TAKE_SQS_STREAM = `
update journal_checkpoints set epoch = ${NEW_EPOCH}, owner = $2, heard_at = now()
where stream = $1 and closed_at is null and retired_at is null and lsn >= $3::bigint
returning ${ROW}`;

/**
 * $1 stream, $2 who flushes it. Opens a retired stream again, whose row is locked, because the queue has records above its
 * checkpoint. It has not held the pruning up meanwhile, so it covers what is accepted from `pruned_before` on.
 */
export const REOPEN_SQS_STREAM = `
update journal_checkpoints set
  epoch = ${NEW_EPOCH}, owner = $2, heard_at = now(), closed_at = null, retired_at = null,
  covered_from = greatest(covered_from, (select pruned_before from idempotency_pruning))
where stream = $1
returning ${ROW}`;

/**
 * $1 stream, $2 epoch, $3 lsn. Looks whether the row is there. Leaves `heard_at` as it is: a stream without records ends, although
 * somebody still looks after it.
 */
export const LOOK_AT_SQS_STREAM = `
select 1 from journal_checkpoints where stream = $1 and epoch = $2 and lsn = $3::bigint and retired_at is null`;

/** $1 stream, $2 epoch, $3 lsn. Ends a stream that is flushed to its last record. The row stays as a tombstone. Idempotent. */
export const RETIRE_SQS_STREAM = `
with retired as (
  update journal_checkpoints set retired_at = coalesce(retired_at, now()), heard_at = now(), owner = null
  where stream = $1 and epoch = $2 and lsn = $3::bigint
  returning stream
),
beat as (
  delete from journal_heartbeats where id in (select stream from retired)
)
select 1 from retired`;

/*
 * Setting records aside whose stream has no row: BEGIN_TAKING, {@link LOCK_SET_ASIDE}, {@link SET_STREAM_ASIDE}, {@link IS_SET_ASIDE}
 * where that inserted nothing, COMMIT_TAKING on one session. The second statement sees what the lock waited for.
 */

/** $1 stream. Another consumer of the same message waits. */
export const LOCK_SET_ASIDE = 'select pg_advisory_xact_lock(hashtextextended($1::text, 0))';

/**
 * $1 stream, $2 keys bytea[], $3 amounts text[], $4 LSNs bigint[], $5 idempotency keys text[] and $6 digests bytea[], null where there
 * is none, $7 a time, in seconds since 1970. One element an increment. Keeps each record once: nobody can tell what of it is
 * counted.
 */
export const SET_STREAM_ASIDE = `
insert into rejected_increments (stream, key, amount, reason, lsn, token, digest, accepted_after)
select $1, r.k, r.a, 'its stream has no row in journal_checkpoints', r.l, r.t, r.d,
       case when $7::float8 = 0 then '-infinity' else to_timestamp($7::float8) end
from unnest($2::bytea[], $3::text[], $4::bigint[], $5::text[], $6::bytea[]) r(k, a, l, t, d)
where not exists (select from rejected_increments where stream = $1 and lsn = any($4::bigint[]))
  and not exists (select from journal_checkpoints where stream = $1)
returning 1`;

/** $1 stream, $2 LSNs bigint[]. A row where another consumer has kept these records; none where the stream has a row by now. */
export const IS_SET_ASIDE = `
select 1 from rejected_increments where stream = $1 and lsn = any($2::bigint[]) limit 1`;
