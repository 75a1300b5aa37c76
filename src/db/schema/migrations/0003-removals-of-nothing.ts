/**
 * Removals of counters that were not there, so that a retry of such a request gets the same answer.
 */
import type { Migration } from './migration.js';

/** Version 3. */
export const removalsOfNothingMigration: Migration = {
  version: 3,
  name: 'removals-of-nothing',
  sql: `
-- Null: there was no counter. Such rows close nothing, and go with the window of the request's token.
alter table counter_resets alter column sum drop not null;
create index counter_resets_of_nothing on counter_resets (at) where sum is null;
`,
};
