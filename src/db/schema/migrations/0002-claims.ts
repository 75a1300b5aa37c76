/**
 * Who owned a stream when, so that a copy of a data directory is told from the directory that went on.
 */
import type { Migration } from './migration.js';

/** Version 2. */
export const claimsMigration: Migration = {
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
