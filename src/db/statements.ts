/**
 * The SQL statements on counters, checkpoints and idempotency keys, as named constants. Any thread.
 *
 * All statements take locks in one order: `pruned_before`, then the checkpoint row (the fence), then idempotency keys in bytewise
 * order, then counter rows in bytewise order, each kind once in a transaction. SQL makes the order, with `collate "C"`: a hash aggregate
 * destroys the order of the client, and JavaScript sorts by UTF-16 unit. Without that order, several nodes on the same keys
 * deadlock dozens of times a second.
 *
 * Columns and tables keep released names: `token` is an idempotency key, `claimed` are the keys that a flush records, `fenced` is 1
 * where the compare-and-set applied, `counter_resets` are deletes.
 */

/** The id of the database, from the first migration. */
export const DATABASE_ID = 'select database_id::text from summing_counters_migrations order by version limit 1';

/** Most ownership claims that are kept for a stream. */
export const CLAIMS_MAX = 1000;

/** A new epoch, larger than all before it. A database that fails over to an older state does not repeat it. */
export const NEW_EPOCH = "((nextval('journal_epochs') << 20) + floor(random() * 1048576)::bigint)";

/** A time as whole seconds since 1970, rounded down; 0 for -infinity. */
export function seconds(time: string): string {
  return `greatest(0, floor(extract(epoch from greatest(${time}, to_timestamp(0)))))::float8`;
}

/** The columns of a row as {@link LOCK_CHECKPOINT} and {@link READ_BACK} return them. */
export const ROW = `epoch::text, lsn::text, ${seconds('covered_from')} as covered_from,
       retired_at is not null as retired, closed_at is not null as closed`;

/*
 * Taking a stream: the statements from {@link BEGIN_TAKING} to {@link COMMIT_TAKING}, in this order, on one session. Each
 * statement has its own snapshot, so it sees the commits that earlier locks waited for.
 */

export const BEGIN_TAKING = 'begin';
export const COMMIT_TAKING = 'commit';
export const ROLL_BACK_TAKING = 'rollback';

/** Waits for a pruner at work, and delays the next one until the commit, so that `pruned_before` does not change. */
export const LOCK_PRUNED_BEFORE = `
select 1 from idempotency_pruning for share`;

/**
 * $1 stream. Waits for a statement that still runs on a lost connection. Always returns one row; its epoch is null where the
 * stream has no row. The time is that of this statement: `now()` would be that of `begin`, before the wait for a pruner.
 */
export const LOCK_CHECKPOINT = `
with found as materialized (select * from journal_checkpoints where stream = $1 for update)
select ${seconds('statement_timestamp()')} as database_time, ${ROW}
from (select) one left join found on true`;

/** The time of the database; 0 on a standby, whose clock does not count. */
export const LOOK = `
select case when pg_is_in_recovery() then 0 else ${seconds('now()')} end as database_time`;

/**
 * $1 stream. The ownership claims, the newest last. Separate from the lock, whose snapshot lacks the commits that it waited for.
 * The order names the table, because `epoch` alone would be the text.
 */
export const READ_CLAIMS = `
select claim::text, epoch::text, lsn::text from journal_claims where stream = $1 order by journal_claims.epoch`;

const KEEP_CLAIMS = `
epochs as materialized (
  select c.claim, c.lsn, c.n, ${NEW_EPOCH} as epoch
  from (select * from unnest($2::uuid[], $3::bigint[]) with ordinality c(claim, lsn, n) order by n offset 0) c
),
kept as (
  insert into journal_claims (stream, epoch, claim, lsn)
  select $1, epoch, claim, lsn from epochs order by n
),
forgotten as (
  delete from journal_claims
  where stream = $1 and epoch < (select o.epoch from journal_claims o where o.stream = $1 order by o.epoch desc
                                 offset greatest(0, ${CLAIMS_MAX} - 1 - cardinality($2::uuid[])) limit 1)
)`;

/**
 * $1 stream, $2 claims uuid[], $3 their ends bigint[], the new claim last; $4 node, $5 shard, $6 journal, $7 the LSN of the new row.
 * Makes the row of a stream that has none. It covers requests that are accepted from `pruned_before` on. Returns no row where
 * another session has made it meanwhile.
 */
export const MAKE_CHECKPOINT = `
with ${KEEP_CLAIMS},
made as (
  insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal, covered_from, accepted_through)
  select $1, (select max(epoch) from epochs), $7, $4, $5, $6, pruned_before, pruned_before from idempotency_pruning
  on conflict (stream) do nothing
  returning *
)
select ${ROW} from made`;

/**
 * $1 stream, $2 claims uuid[], $3 their ends bigint[], the new claim last. Takes the locked row: a new epoch fences the earlier
 * owner. An open row keeps its `covered_from`. A closed or retired row has not delayed the pruning, so it covers only requests
 * that are accepted from `pruned_before` on.
 */
export const TAKE_CHECKPOINT = `
with ${KEEP_CLAIMS},
taken as (
  update journal_checkpoints set
    epoch = (select max(epoch) from epochs), heard_at = now(), closed_at = null, retired_at = null,
    covered_from = case when closed_at is null and retired_at is null then covered_from
                        else greatest(covered_from, (select pruned_before from idempotency_pruning)) end
  where stream = $1
  returning *
)
select ${ROW} from taken`;

/**
 * $1 stream. `for update` waits for a flush that still runs on a lost connection, so the row shows the outcome of that flush.
 */
export const READ_BACK = `
with found as materialized (select * from journal_checkpoints where stream = $1 for update)
select ${ROW} from found`;

/**
 * $1 stream, $2 epoch, $3 lsn, $4 a time of the database or null. An owner checks the position of its row. An idle owner also
 * advances `accepted_through`: nothing that it accepted before that time is pending.
 */
export const TOUCH_CHECKPOINT = `
update journal_checkpoints set accepted_through = greatest(accepted_through, $4::timestamptz), heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3
returning ${seconds('now()')} as database_time`;

/**
 * $1 stream, $2 epoch, $3 lsn. After a clean stop with nothing pending: the stream no longer delays the pruning of idempotency
 * keys. The owner keeps its epoch, so that it can check again.
 */
export const CLOSE_STREAM = `
update journal_checkpoints set closed_at = coalesce(closed_at, now()), heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3
returning 1`;

/**
 * $1 stream, $2 epoch, $3 lsn. The owner retires its stream. The row stays as a tombstone, so that no process makes it again.
 */
export const RETIRE_STREAM = `
update journal_checkpoints set retired_at = coalesce(retired_at, now()), heard_at = now()
where stream = $1 and epoch = $2 and lsn = $3
returning 1`;

/**
 * SQL that fails the statement, and so rolls it back, unless `holds`: a trigger that returns null and a row-level policy keep rows
 * from being written without an error. PostgreSQL names the text in its error (22P02); {@link rowsNotWritten} finds it there.
 * `count` keeps the planner from evaluating the cast early.
 */
export function failUnless(holds: string, what: string, count: string): string {
  return `case when ${holds} then 0 else ('summing-counters: ${what}: ' || ${count} || '.')::int end`;
}

/** What {@link failUnless} says of rows, and of idempotency keys. */
const rowsNotWrittenTo = (table: string): string =>
  `a trigger or a policy keeps rows of ${table} from being written; written`;
export const COUNTERS_NOT_WRITTEN = rowsNotWrittenTo('counters');
export const KEYS_NOT_VISIBLE = 'idempotency keys that are neither written nor visible';

/** What {@link failUnless} says in an error of PostgreSQL. */
export interface RowsNotWritten {
  readonly what: string;
  /** Rows that were written. */
  readonly written: number;
  /** Another snapshot may see the rows. */
  readonly mayBeSeenLater: boolean;
}

/** Finds the text of {@link failUnless}. */
export function rowsNotWritten(message: string): RowsNotWritten | undefined {
  const [, what, rows, count] = /summing-counters: (([^:]+): (\d+))\./.exec(message) ?? [];
  return what === undefined ? undefined : { what, written: Number(count), mayBeSeenLater: rows === KEYS_NOT_VISIBLE };
}

const FENCE = `
fence as (
  update journal_checkpoints set lsn = $4, heard_at = now(),
    accepted_through = greatest(accepted_through, least($5::timestamptz, now()))
  where stream = $1 and epoch = $2 and lsn = $3 and closed_at is null and retired_at is null
  returning 1
)`;

export const ADDED = `
added as (
  insert into counters (key, sum, updated_at)
  select key, amount, now() from sums order by key collate "C"
  on conflict (key) do update set sum = counters.sum + excluded.sum, updated_at = excluded.updated_at
  returning 1
)`;

/**
 * The flush without idempotency keys. $1 stream, $2 epoch, $3 old lsn, $4 new lsn, $5 the time of the database that the last
 * record carries, $6 keys text[], $7 amounts numeric[].
 *
 * - It is one statement outside a transaction block, so that a suspended client has no locks.
 * - Every branch joins the fence, because a compare-and-set that matches no row does not roll the statement back.
 * - The keys are distinct, because they come from a map. PostgreSQL refuses repeated ones (21000). Grouping them here takes a
 *   fifth more time.
 */
export const FLUSH = `
with ${FENCE},
sums as (
  select q.k as key, q.a as amount from fence cross join unnest($6::text[], $7::numeric[]) q(k, a)
),
${ADDED}
select f.n as fenced, a.n as keys, null::text[] as unclaimed, ${seconds('now()')} as database_time,
       ${failUnless('a.n = f.n * cardinality($6::text[])', COUNTERS_NOT_WRITTEN, 'a.n')} as unwritten
from (select count(*)::int as n from fence) f, (select count(*)::int as n from added) a`;

const CLAIMED = `
claimed as (
  insert into idempotency_keys (token, digest, claimed_at)
  select t, d, now() from fence cross join unnest($8::text[], $9::bytea[]) p(t, d)
  order by t collate "C"
  on conflict do nothing
  returning token
),
sums as (
  select key, sum(amount) as amount from (
    select k as key, a as amount from fence cross join unnest($6::text[], $7::numeric[]) q(k, a)
    union all
    select p.k, p.a from claimed join unnest($10::text[], $11::text[], $12::numeric[]) p(t, k, a) on p.t = claimed.token
  ) u group by key
)`;

/**
 * A duplicate must be visible. One that a concurrent flush has recorded since the snapshot of this statement is not: the same range
 * is sent again.
 */
const OUTCOME = `
select f.n as fenced, a.n as keys, u.tokens as unclaimed, ${seconds('now()')} as database_time,
       ${failUnless('a.n = s.n', COUNTERS_NOT_WRITTEN, 'a.n')} as unwritten,
       ${failUnless('f.n = 0 or coalesce(cardinality(u.tokens), 0) = v.n', KEYS_NOT_VISIBLE, 'coalesce(cardinality(u.tokens), 0) - v.n')} as unseen
from (select count(*)::int as n from fence) f, (select count(*)::int as n from added) a, (select count(*)::int as n from sums) s,
     (select array_agg(t) as tokens from unnest($8::text[]) p(t) where not exists (select from claimed where token = p.t)) u,
     lateral (select count(*)::int as n from idempotency_keys where token = any(u.tokens)) v`;

/**
 * The flush with idempotency keys. As {@link FLUSH}, and $8 idempotency keys text[], $9 digests bytea[], each idempotency key
 * once; $10 idempotency keys text[], $11 keys text[], $12 amounts numeric[]: the increments of those requests, summed by key
 * within a request. A duplicate adds nothing: one transaction records the key and adds the sums.
 */
export const FLUSH_WITH_IDEMPOTENCY_KEYS = `
with ${FENCE},
${CLAIMED},
${ADDED}
${OUTCOME}`;

/**
 * The flush that sets rows aside. As {@link FLUSH_WITH_IDEMPOTENCY_KEYS}, and:
 *
 * - of rows that PostgreSQL refused: $13 keys bytea[], $14 amounts numeric[], $17 numbers of their refusals numeric[], $18
 *   idempotency keys text[] ('': none). $15 reasons text[] and $16 SQLSTATEs text[] are the refusals;
 * - of idempotent requests that the row does not cover, one element an increment: $19 keys bytea[], $20 amounts numeric[],
 *   $21 LSNs numeric[], $22 idempotency keys text[], $23 digests bytea[], $24 times numeric[], in seconds since 1970.
 *
 * The statement that moves the checkpoint also keeps these rows.
 */
export const FLUSH_WITH_REJECTED = `
with ${FENCE},
${CLAIMED},
rejected as (
  insert into rejected_increments (stream, key, amount, reason, sqlstate)
  select $1, r.k, r.a::text, ($15::text[])[r.n::int], ($16::text[])[r.n::int]
  from fence cross join unnest($13::bytea[], $14::numeric[], $17::numeric[], $18::text[]) r(k, a, n, t)
  where r.t = '' or r.t in (select token from claimed)
  returning 1
),
meant as (
  select 1 from fence cross join unnest($18::text[]) r(t) where r.t = '' or r.t in (select token from claimed)
),
uncovered as (
  insert into rejected_increments (stream, key, amount, reason, lsn, token, digest, accepted_after)
  select $1, r.k, r.a::text, 'the window of its idempotency key could not be checked any more', r.l::bigint, r.t, r.d,
         case when r.s = 0 then '-infinity' else to_timestamp(r.s::float8) end
  from fence cross join unnest($19::bytea[], $20::numeric[], $21::numeric[], $22::text[], $23::bytea[], $24::numeric[])
                        r(k, a, l, t, d, s)
  returning 1
),
${ADDED}
${OUTCOME}, lateral (
  select ${failUnless(
    'r.n = m.n and u.n = f.n * cardinality($22::text[])',
    rowsNotWrittenTo('rejected_increments'),
    '(r.n + u.n)',
  )} as unkept
  from (select count(*)::int as n from rejected) r, (select count(*)::int as n from meant) m,
       (select count(*)::int as n from uncovered) u
  offset 0
) k
where k.unkept = 0`;

/** $1 idempotency keys text[]. Their recorded digests. */
export const READ_DIGESTS = `
select token, digest from idempotency_keys where token = any($1::text[])`;

/**
 * $1 id of the delete, $2 key, $3 whether a retry may come with this id. A statement of its own, so that it locks only the
 * counter. Where a retry may come, it records a missing counter as a null sum. Of two requests with one id the later one waits
 * for the row and finds it deleted. PostgreSQL then refuses it (23505), and it reads the record of the first.
 */
export const DELETE_COUNTER = `
with removed as (delete from counters where key = $2 returning sum),
recorded as (
  insert into counter_resets (id, key, sum)
  select $1, $2, (select sum from removed) where $3 or exists (select from removed)
  returning 1
)
select m.sum::text from removed m, (select count(*)::int as n from recorded) r
where ${failUnless('r.n = 1', rowsNotWrittenTo('counter_resets'), 'r.n')} = 0`;

/** $1 id of the delete. The sum is null where there was no counter. */
export const READ_DELETE = 'select key, sum::text from counter_resets where id = $1';

/** Before {@link PROBE} in its transaction, which never commits: a deferred constraint would refuse at the commit only. */
export const PROBE_CONSTRAINTS = 'set constraints all immediate';

/**
 * $1 keys text[], $2 amounts numeric[]. Distinct keys. Runs in a transaction that is rolled back, to find the row that
 * PostgreSQL refuses.
 */
export const PROBE = `
with added as (
  insert into counters (key, sum, updated_at)
  select q.k, q.a, now() from unnest($1::text[], $2::numeric[]) q(k, a) order by q.k collate "C"
  on conflict (key) do update set sum = counters.sum + excluded.sum, updated_at = excluded.updated_at
  returning 1
)
select ${failUnless('a.n = cardinality($1::text[])', COUNTERS_NOT_WRITTEN, 'a.n')} as unwritten
from (select count(*) as n from added) a`;

/**
 * $1 keys text[], $2 streams uuid[]. One row: the sums and times of the counters in the order of the keys, joined by commas and
 * empty where there is none, and the checkpoints of the streams as "stream epoch lsn". One statement is one snapshot. A row for
 * each key costs the client three times as much. Sums are truncated because other programs may write fractions.
 */
export const READ_COUNTERS = `
select string_agg(coalesce(trunc(c.sum)::text, ''), ',' order by q.position) as sums,
       string_agg(coalesce(to_char(c.updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), ''), ',' order by q.position) as times,
       (select array_agg(concat_ws(' ', j.stream, j.epoch, j.lsn)) from journal_checkpoints j where j.stream = any($2::uuid[])) as checkpoints
from unnest($1::text[]) with ordinality q(key, position)
left join lateral (select sum, updated_at from counters where counters.key = q.key offset 0) c on true`;

/** $1 most rows, $2 the least key. In bytewise order, by the index of the primary key. */
export const LIST_COUNTERS = `
select key, trunc(sum)::text as sum, updated_at from counters where key >= $2 order by key limit $1`;

/** As {@link LIST_COUNTERS}, and $3 an exclusive upper bound. */
export const LIST_COUNTERS_BELOW = `
select key, trunc(sum)::text as sum, updated_at from counters where key >= $2 and key < $3 order by key limit $1`;
