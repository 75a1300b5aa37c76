/**
 * SQL statements about the identity of a database, and the stores of journals that belong to it. Any thread.
 */
import { NEW_EPOCH } from './statements.js';
import { PLACE } from './session-statements.js';

/** The database, and the number of its streams that are not retired. */
export const IDENTITY = `
select (select database_id::text from summing_counters_migrations order by version limit 1) as id,
       place as recorded, ${PLACE} as present,
       (select count(*)::int from journal_checkpoints where retired_at is null) as open_streams
from database_identity`;

/** Records where the database is. */
export const MOVE_DATABASE = `update database_identity set place = ${PLACE}, recorded_at = now()`;

/** Gives a copy an id of its own, and retires its streams: their records belong to the database that was copied. */
export const COPY_DATABASE = `
with named as (
  update summing_counters_migrations set database_id = gen_random_uuid()
  where version = (select min(version) from summing_counters_migrations)
),
retired as (
  update journal_checkpoints set retired_at = now(), owner = null, epoch = ${NEW_EPOCH} where retired_at is null
),
ended as (
  update journal_streams set retired_at = now(), epoch = ${NEW_EPOCH} where retired_at is null
),
beats as (delete from journal_heartbeats),
parted as (delete from journal_stores)
update database_identity set place = ${PLACE}, recorded_at = now()`;

/** Stores that belong to the database, and open streams of none. */
export const LIST_STORES = `
select s.id::text, s.journal, s.place,
       (select count(*)::int from journal_checkpoints c where c.store = s.id and c.retired_at is null) as streams
from journal_stores s
union all
select null, c.journal, null, count(*)::int from journal_checkpoints c
where c.store is null and c.retired_at is null and c.journal in ('nats', 'sqs') group by c.journal
order by 2, 1`;

/** $1 store, or null, $2 journal. The open streams of a store. */
export const LIST_STORE_STREAMS = `
select stream::text, node::text, shard, lsn::text, heard_at from journal_checkpoints
where store is not distinct from $1::uuid and journal = $2 and retired_at is null order by stream`;

/** $1 store, or null. Retires its open streams under new epochs. Its tombstones stay. */
export const FORGET_STORE = `
with forgotten as (delete from journal_stores where id = $1::uuid)
update journal_checkpoints set retired_at = now(), owner = null, epoch = ${NEW_EPOCH}
where store is not distinct from $1::uuid and journal in ('nats', 'sqs') and retired_at is null
returning stream`;

/** $1 streams uuid[]. Those that have no row. */
export const UNKNOWN_STREAMS = `
select s::text as stream from unnest($1::uuid[]) s
where not exists (select from journal_checkpoints where stream = s)`;
