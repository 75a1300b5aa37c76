/**
 * The steps of the schema, in their order. Main thread.
 *
 * The table `counters` is not among them: `counters-table.ts` creates it, or adopts it from the application that this server
 * replaces, because the steps depend on what is there.
 */

/** One step of the schema. A version that has been released never changes. */
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

/** Owners of a stream over time, to tell a copy of a data directory from the directory that went on. */
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

/** All steps, oldest first. */
export const migrations: readonly Migration[] = [initial, claims, removalsOfNothing];
