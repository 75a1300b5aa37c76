/**
 * Every SQL statement on the tables that runs after the migrations, as named constants. Any thread.
 *
 * All statements take locks in one order: the checkpoint row (the fence), then idempotency keys in bytewise order, then
 * counter rows in bytewise order, each kind once in a transaction. SQL makes the order, with `collate "C"`: a hash aggregate
 * destroys the order of the client, and JavaScript sorts by UTF-16 unit. Without that order, several nodes on the same keys
 * deadlock dozens of times a second.
 *
 * The columns and tables keep released names: `token` is an idempotency key, `claimed` are the keys that a flush records,
 * `fenced` is 1 where the compare-and-set applied, `counter_resets` are deletes.
 */

/** The id of the database, which the first migration made. */
export const DATABASE_ID = 'select database_id::text from summing_counters_migrations order by version limit 1';

/** $1 stream, $2 node, $3 shard, $4 journal. Runs before the stream's first flush; a flush never makes the row. */
export const ENSURE_CHECKPOINT = `
insert into journal_checkpoints (stream, epoch, lsn, node, shard, journal)
values ($1, 0, 0, $2, $3, $4)
on conflict (stream) do nothing`;

/** Most ownership claims of a stream that are kept. */
export const CLAIMS_MAX = 1000;

/**
 * $1 stream, $2 the epoch and $5 the LSN that were read, $3 claims uuid[], $4 their LSNs bigint[]. Fences the previous owner,
 * after a flush of it that is still running, and records the ownership claims.
 *
 * - The last claim of $3 is the new one. Its LSN is the end of the claimant's journal or the checkpoint, whichever is higher.
 *   The claims before it are earlier ones that this database does not have. Each claim has an epoch of its own.
 * - The epoch grows by a random step. A failover to a standby forgets epochs, and none of them may come again while an owner
 *   may hold it.
 * - The statement names the epoch because it may arrive late itself, from a lost connection or a process that has ended.
 *   Without the epoch it would fence the owner that came after it.
 * - It names the LSN because the claims were compared with that checkpoint. A flush in between makes the comparison wrong.
 * - It deletes claims of later epochs: they are from a time that the database has gone back from.
 */
export const RAISE_EPOCH = `
with raised as (
  update journal_checkpoints set epoch = epoch + cardinality($3::uuid[]) + floor(random() * 1000000)::bigint
  where stream = $1 and epoch = $2::bigint and lsn = $5
  returning epoch, lsn, retired_at
),
claimed as (
  insert into journal_claims (stream, epoch, claim, lsn)
  select $1, r.epoch - cardinality($3::uuid[]) + n, c.claim,
         case n when cardinality($3::uuid[]) then greatest(r.lsn, c.lsn) else c.lsn end
  from raised r cross join unnest($3::uuid[], $4::bigint[]) with ordinality c(claim, lsn, n)
  on conflict (stream, epoch) do update set claim = excluded.claim, lsn = excluded.lsn, claimed_at = now()
),
forgotten as (
  delete from journal_claims c using raised r
  where c.stream = $1
    and (c.epoch > $2::bigint and c.epoch not between r.epoch - cardinality($3::uuid[]) + 1 and r.epoch
         or c.epoch < (select o.epoch from journal_claims o where o.stream = $1 and o.epoch <= $2::bigint
                       order by o.epoch desc offset greatest(0, ${CLAIMS_MAX} - 1 - cardinality($3::uuid[])) limit 1))
)
select epoch::text, lsn::text, retired_at is not null as retired from raised`;

/** $1 stream, $2 epoch. Claims up to that epoch, the newest last. */
export const READ_CLAIMS = `
select claim::text, lsn::text from journal_claims where stream = $1 and epoch <= $2 order by epoch`;

/**
 * $1 stream. `for update` waits for a flush that still runs on a lost connection: the row read then shows the outcome of that
 * flush.
 */
export const READ_BACK = `
select epoch::text, lsn::text, retired_at is not null as retired from journal_checkpoints where stream = $1 for update`;

/**
 * $1 stream, $2 epoch, $3 lsn, $4 accepted through or null. An owner checks that the row is where it left it. An idle owner
 * also advances `accepted_through`: nothing older is pending.
 */
export const TOUCH_CHECKPOINT = `
update journal_checkpoints set accepted_through = coalesce($4, accepted_through)
where stream = $1 and epoch = $2 and lsn = $3
returning 1`;

/** $1 stream, $2 epoch, $3 lsn. The row stays as a tombstone, so that no process makes the stream again. */
export const RETIRE_STREAM = `
update journal_checkpoints set retired_at = coalesce(retired_at, now())
where stream = $1 and epoch = $2 and lsn = $3
returning 1`;

const FENCE = `
fence as (
  update journal_checkpoints set lsn = $4, accepted_through = $5
  where stream = $1 and epoch = $2 and lsn = $3
  returning 1
)`;

const ADDED = `
added as (
  insert into counters (key, sum, updated_at)
  select key, amount, now() from sums order by key collate "C"
  on conflict (key) do update set sum = counters.sum + excluded.sum, updated_at = excluded.updated_at
  returning 1
)`;

/**
 * The flush without idempotency keys. $1 stream, $2 epoch, $3 old lsn, $4 new lsn, $5 accepted through, $6 keys text[], $7
 * amounts numeric[].
 *
 * - It is one statement outside a transaction block, so that a paused client holds no locks.
 * - Every branch joins the fence, because a compare-and-set that matches no row does not roll the statement back.
 * - The keys are distinct, because they come from a map. PostgreSQL would refuse the whole statement otherwise (21000).
 *   Grouping them here as well would take a fifth more time.
 */
export const FLUSH = `
with ${FENCE},
sums as (
  select q.k as key, q.a as amount from fence cross join unnest($6::text[], $7::numeric[]) q(k, a)
),
${ADDED}
select (select count(*)::int from fence) as fenced, 0 as claimed, (select count(*)::int from added) as keys,
       null::text[] as unclaimed`;

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

const OUTCOME = `
select (select count(*)::int from fence) as fenced, (select count(*)::int from claimed) as claimed,
       (select count(*)::int from added) as keys,
       (select array_agg(t) from unnest($8::text[]) u(t) where not exists (select from claimed where token = u.t)) as unclaimed`;

/**
 * The flush with idempotency keys. As {@link FLUSH}, and $8 idempotency keys text[], $9 digests bytea[], each idempotency key
 * once; $10 idempotency keys text[], $11 keys text[], $12 amounts numeric[]: the increments of those requests, summed by key
 * within a request. A request whose idempotency key is a duplicate adds nothing: record and effect are one transaction.
 */
export const FLUSH_WITH_IDEMPOTENCY_KEYS = `
with ${FENCE},
${CLAIMED},
${ADDED}
${OUTCOME}`;

/**
 * The flush where PostgreSQL refused some rows. As {@link FLUSH_WITH_IDEMPOTENCY_KEYS}, and of the refused rows: $13 keys
 * bytea[], $14 amounts numeric[], $17 numbers of their refusals numeric[], $18 idempotency keys text[] ('': none). $15
 * reasons text[] and $16 SQLSTATEs text[] are the refusals. The statement that moves the checkpoint also keeps these rows.
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
${ADDED}
${OUTCOME}`;

/** $1 idempotency keys text[]. The digests of the requests that they were recorded with. */
export const READ_DIGESTS = `
select token, digest from idempotency_keys where token = any($1::text[])`;

/** $1 the current stream of a shard with a memory journal, $2 node, $3 shard. Its earlier streams ended with their threads. */
export const RETIRE_PREDECESSORS = `
update journal_checkpoints set retired_at = now()
where node = $2 and shard = $3 and stream <> $1 and journal = 'memory' and retired_at is null`;

/**
 * $1 id of the delete, $2 key, $3 whether a retry may come with this id. A statement of its own, so that it holds no other
 * lock than that of the counter. Where a retry may come, it also records that there was no counter, as a null sum. Of two
 * requests with one id the later one waits for the row and finds it deleted. It is then refused (23505), and reads what the
 * first has recorded.
 */
export const DELETE_COUNTER = `
with removed as (delete from counters where key = $2 returning sum),
recorded as (
  insert into counter_resets (id, key, sum)
  select $1, $2, (select sum from removed) where $3 or exists (select from removed)
  returning 1
)
select sum::text from removed`;

/** $1 id of the delete. The sum is null where there was no counter. */
export const READ_DELETE = 'select key, sum::text from counter_resets where id = $1';

/** Before {@link PROBE} in its transaction: a deferred constraint would refuse at the commit only, which never comes. */
export const PROBE_CONSTRAINTS = 'set constraints all immediate';

/**
 * $1 keys text[], $2 amounts numeric[]. Distinct keys. Runs in a transaction that is rolled back, to find the row that
 * PostgreSQL refuses.
 */
export const PROBE = `
insert into counters (key, sum, updated_at)
select q.k, q.a, now() from unnest($1::text[], $2::numeric[]) q(k, a) order by q.k collate "C"
on conflict (key) do update set sum = counters.sum + excluded.sum, updated_at = excluded.updated_at`;

/**
 * $1 keys text[], $2 streams uuid[]. The committed counters in the order of the keys, and in each row the checkpoints of the
 * streams as "stream epoch lsn". One statement, so one snapshot. Sums are truncated because other programs may write
 * fractions; this server writes integers.
 */
export const READ_COUNTERS = `
select trunc(c.sum)::text as sum, c.updated_at,
       (select array_agg(concat_ws(' ', j.stream, j.epoch, j.lsn)) from journal_checkpoints j where j.stream = any($2::uuid[])) as checkpoints
from unnest($1::text[]) with ordinality q(key, position)
left join lateral (select sum, updated_at from counters where counters.key = q.key offset 0) c on true
order by q.position`;

/** $1 rows at most, $2 the least key. In bytewise order, by the index of the primary key. */
export const LIST_COUNTERS = `
select key, trunc(sum)::text as sum, updated_at from counters where key >= $2 order by key limit $1`;

/** As {@link LIST_COUNTERS}, and $3 an exclusive upper bound. */
export const LIST_COUNTERS_BELOW = `
select key, trunc(sum)::text as sum, updated_at from counters where key >= $2 and key < $3 order by key limit $1`;
