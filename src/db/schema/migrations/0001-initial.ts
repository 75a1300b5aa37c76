/**
 * The first schema. `counters` itself is made, or adopted from the application that this server replaces, by
 * `counters-table.ts`, because what is to be done depends on what is there.
 */
import type { Migration } from './migration.js';

/** Version 1. */
export const initialMigration: Migration = {
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
