/**
 * The steps of the schema, in their order. Main thread.
 *
 * `counters-table.ts` creates or adopts the table `counters`, because its steps depend on an existing table.
 */

import { PLACE } from '../session-statements.js';

/** One step of the schema. A released version never changes. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

/** The first schema. */
const initial: Migration = {
  version: 1,
  name: 'initial',
  sql: `
-- One row a stream: up to which record it is in counters. Updated by every flush, so room is left for updates in place.
create table journal_checkpoints (
  stream uuid primary key,
  epoch bigint not null,
  lsn bigint not null,
  accepted_through timestamptz,
  retired_at timestamptz,
  node uuid,
  shard int,
  journal text,
  created_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

-- One row a request with an Idempotency-Key. Pruned by age, which BRIN finds for a thousandth of a B-tree's size.
create table idempotency_keys (
  token text collate "C" primary key,
  digest bytea not null,
  claimed_at timestamptz not null
);
create index idempotency_keys_claimed_at on idempotency_keys using brin (claimed_at) with (pages_per_range = 32);

-- What a counter was when it was deleted.
create table counter_resets (
  id text collate "C" primary key,
  key text collate "C" not null,
  sum numeric not null,
  at timestamptz not null default now()
);

-- Rows that PostgreSQL itself refused. The key is kept as bytes: it may be what was refused.
create table rejected_increments (
  id bigint generated always as identity primary key,
  stream uuid not null,
  key bytea not null,
  amount text not null,
  reason text not null,
  sqlstate text not null,
  rejected_at timestamptz not null default now()
);

-- The journal in this database. The fence of its appends is a row of its own: a flush holds the checkpoint row.
create table journal_streams (
  stream uuid primary key,
  epoch bigint not null,
  node uuid,
  shard int,
  retired_at timestamptz,
  created_at timestamptz not null default now()
);
create table increment_log (
  stream uuid not null,
  lsn bigint not null,
  accepted_at timestamptz not null,
  payload bytea not null,
  primary key (stream, lsn)
);
`,
};

/** Owners of a stream over time, to recognise an outdated copy of a data directory. */
const claims: Migration = {
  version: 2,
  name: 'claims',
  sql: `
-- One row each time a data directory took a stream over: the name that the directory keeps as well, and the last LSN that
-- it shared with whoever owned the stream before. Apart from the checkpoint, which every flush writes anew.
create table journal_claims (
  stream uuid not null,
  epoch bigint not null,
  claim uuid not null,
  lsn bigint not null,
  claimed_at timestamptz not null default now(),
  primary key (stream, epoch)
);
`,
};

/** Deletes of counters that did not exist, so that a retry of such a request gets the same answer. */
const removalsOfNothing: Migration = {
  version: 3,
  name: 'removals-of-nothing',
  sql: `
-- Null: there was no counter. Such rows close nothing, and go with the window of the request's token.
alter table counter_resets alter column sum drop not null;
create index counter_resets_of_nothing on counter_resets (at) where sum is null;
`,
};

/**
 * Ownership and pruning by the database's time alone.
 *
 * This step changes the meaning of rows: an epoch comes from the sequence, and `accepted_through` is a time of the database.
 * The triggers refuse sessions of older versions, which would write times of their own clocks, retire streams without a new
 * epoch, and prune without noting it. These set no protocol, and get the error of a read-only session.
 */
const databaseTimes: Migration = {
  version: 4,
  name: 'database-times',
  sql: `
-- covered_from: idempotent records of this stream that carry an older time cannot be checked against the window any more.
-- heard_at: the last statement of the owner. closed_at: a clean stop, which left nothing to flush.
alter table journal_checkpoints
  add column covered_from timestamptz,
  add column heard_at timestamptz not null default now(),
  add column closed_at timestamptz;
-- Records of before this version carry no time: exactly the rows that are open now cover them.
update journal_checkpoints set
  accepted_through = case when retired_at is null then '-infinity' else coalesce(accepted_through, created_at) end,
  covered_from = case when retired_at is null then '-infinity' else coalesce(accepted_through, created_at) end;
alter table journal_checkpoints
  alter column covered_from set not null, alter column covered_from set default now(),
  alter column accepted_through set not null, alter column accepted_through set default now();

-- One row. pruned_before: no idempotency key of a request that began later, less the window, has been pruned. pruned_at and
-- gap_at: the last round of the pruner, and the last one that came more than ten minutes after the round before it.
create table idempotency_pruning (
  only_row boolean primary key default true check (only_row),
  pruned_before timestamptz not null,
  pruned_at timestamptz not null default now(),
  gap_at timestamptz not null default now()
);
insert into idempotency_pruning (pruned_before)
select case when exists (select from summing_counters_migrations where applied_at < now()) then now() else '-infinity' end;

-- Epochs of all streams, in steps of 2^20: the statements add a random number below that, because a database that fails over
-- to a standby may give a number again.
create sequence journal_epochs cache 1;
select setval('journal_epochs', 1 + (greatest(
  (select coalesce(max(epoch), 0) from journal_checkpoints), (select coalesce(max(epoch), 0) from journal_claims)) >> 20));

-- Idempotent requests that could not be checked against the window: without a SQLSTATE, with what a later check needs.
alter table rejected_increments
  alter column sqlstate drop not null,
  add column lsn bigint,
  add column token text collate "C",
  add column digest bytea,
  add column accepted_after timestamptz;

create function summing_counters_require_protocol() returns trigger language plpgsql as $body$
begin
  if coalesce(nullif(current_setting('summing_counters.protocol', true), ''), '0')::int < 2 then
    raise exception 'this database is in use by a newer version of summing-counters'
      using errcode = '25006',
            hint = 'Upgrade the server. In a session of your own: set summing_counters.protocol = 2';
  end if;
  return null;
end
$body$;
create trigger summing_counters_protocol before insert or update on journal_checkpoints
  for each statement execute function summing_counters_require_protocol();
create trigger summing_counters_protocol before delete on idempotency_keys
  for each statement execute function summing_counters_require_protocol();
`,
};

/** The journal in this database: rows that SQL can read, owners, and heartbeats. */
const incrementLog: Migration = {
  version: 5,
  name: 'increment-log',
  sql: `
-- One row a record, that is a batch of requests. The first version of this table was never written.
-- accepted_at: when the server accepted it, by its own clock. accepted_after: a time of the database, before which the writer
-- has accepted nothing that comes later in the stream. logged_at: when it was written, by the clock of the database.
-- idempotency_keys: that of each increment, null for a record without any; request_increments and digests: by request.
drop table increment_log;
create table increment_log (
  stream uuid not null,
  lsn bigint not null,
  accepted_at timestamptz not null,
  accepted_after timestamptz not null,
  logged_at timestamptz not null default now(),
  keys text[] not null,
  amounts numeric[] not null,
  idempotency_keys text[],
  request_increments int[],
  digests bytea[],
  primary key (stream, lsn)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- One row an increment.
create view increment_log_entries as
select l.stream, l.lsn, e.position::int, l.accepted_at, l.logged_at, e.key, e.amount, e.idempotency_key
from increment_log l
cross join lateral unnest(l.keys, l.amounts, l.idempotency_keys) with ordinality e(key, amount, idempotency_key, position);

-- Who flushes the stream; null: nobody. journal_streams.flusher: the flusher of the thread that writes the stream, if it has one.
alter table journal_checkpoints add column owner uuid;
alter table journal_streams add column flusher uuid;

-- Signs of life: of the writer of a stream, under the stream's id, and of those who flush, each under an id of its own.
-- accepted_through: everything that the writer accepted before that time of the database is in the log.
create table journal_heartbeats (
  id uuid primary key,
  flushes boolean not null,
  alive_at timestamptz not null default now(),
  accepted_through timestamptz not null default '-infinity'
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

-- One row: why the log cannot be all that was ever counted; null: it can.
create table increment_log_history (
  only_row boolean primary key default true check (only_row),
  incomplete_because text
);
insert into increment_log_history (incomplete_because)
select case when exists (select from counters) then 'counters had sums before the log began' end;
`,
};

/**
 * Which stores of journals belong to this database, and whether it is still where it was.
 *
 * This step changes the meaning of rows: a stream of a shared journal names the store that has its records, and servers look at the
 * streams of their own store only. Sessions of older versions would retire streams whose records are in another store.
 */
const stores: Migration = {
  version: 6,
  name: 'stores',
  sql: `
-- One row. Where this database was when a server or an operator last said so: the system identifier of its cluster and its oid.
-- Null: the role of the migration could not see the first.
create table database_identity (
  only_row boolean primary key default true check (only_row),
  place text,
  recorded_at timestamptz not null default now()
);
do $body$
begin
  insert into database_identity (place) values (${PLACE});
exception when insufficient_privilege then
  insert into database_identity (place) values (null);
end
$body$;

-- Brokers and queues that belong to this database.
create table journal_stores (
  id uuid primary key,
  journal text not null,
  place text not null,
  joined_at timestamptz not null default now()
);

-- Where the records of a stream are, for a journal in a broker or a queue. Null: a stream of another journal, or of an earlier version
-- that no server has found in its store yet.
alter table journal_checkpoints add column store uuid;

create or replace function summing_counters_require_protocol() returns trigger language plpgsql as $body$
begin
  if coalesce(nullif(current_setting('summing_counters.protocol', true), ''), '0')::int < 3 then
    raise exception 'this database is in use by a newer version of summing-counters'
      using errcode = '25006',
            hint = 'Upgrade the server. In a session of your own: set summing_counters.protocol = 3';
  end if;
  return null;
end
$body$;
`,
};

/** What a queue has that nobody can read, and whose heartbeats are whose. */
const damagedMessages: Migration = {
  version: 7,
  name: 'damaged-messages',
  sql: `
-- Messages of a queue that cannot be read, as they were. They were deleted from the queue.
create table damaged_messages (
  id text primary key,
  store uuid,
  stream text not null,
  body text not null,
  problem text not null,
  set_aside_at timestamptz not null default now()
);

-- A consumer looks whether it has set a record aside.
create index rejected_increments_stream on rejected_increments (stream, lsn) where lsn is not null;

-- The journal and the store whose streams a flusher takes. Null: an earlier version.
alter table journal_heartbeats add column journal text, add column store uuid;
`,
};

/** All steps, oldest first. */
export const migrations: readonly Migration[] = [
  initial,
  claims,
  removalsOfNothing,
  databaseTimes,
  incrementLog,
  stores,
  damagedMessages,
];
