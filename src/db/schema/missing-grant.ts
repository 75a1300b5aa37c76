/**
 * Finds the statement that grants a missing right. Main thread, after a refused migration.
 */
import { reasonOf } from '../../core/errors.js';
import type { DatabaseConnection } from '../connection.js';
import { errorCode } from '../database-errors.js';

/** SQLSTATE insufficient_privilege, and invalid_schema_name where the role may not use any schema of its search path. */
const DENIED = new Set(['42501', '3F000']);

/** The schema is the first of the search path that exists; null: none does. */
const WHO = `
select quote_ident(current_user) as role,
       (select quote_ident(n.nspname)
        from unnest(string_to_array(current_setting('search_path'), ',')) with ordinality s(quoted, place)
             cross join trim(both ' "' from s.quoted) name
             join pg_namespace n on n.nspname = case name when '$user' then current_user else name end
        order by s.place limit 1) as schema`;

/** Sentences with SQL, after a space; empty if the error is not a missing right. The connection must be idle. */
export async function missingGrant(connection: DatabaseConnection, error: unknown): Promise<string> {
  if (!DENIED.has(errorCode(error))) return '';
  const [who] = await connection.query<{ role: string; schema: string | null }>({ text: WHO });
  if (who === undefined) return '';
  const { role, schema } = who;
  if (schema === null)
    return ` The search_path of ${role} names no schema that exists: \`alter role ${role} set search_path = public;\`.`;
  const reason = reasonOf(error);
  const migrated = `run \`npm run migrate\` as another role, and ${tableGrants(role, schema)}`;
  if (reason.includes('must be owner of'))
    return ` Let its owner do it: ${migrated}. Or make ${role} the owner: \`alter table counters owner to ${role};\`.`;
  if (reason.includes('schema')) {
    const own = `\`grant usage, create on schema ${schema} to ${role};\``;
    return ` As its owner or a superuser: ${own}. Or ${migrated}.`;
  }
  return ` As the owner of the tables: ${tableGrants(role, schema)}.`;
}

/** The rights that the role of a server needs if it only uses tables. */
function tableGrants(role: string, schema: string): string {
  return (
    `\`grant usage on schema ${schema} to ${role}; ` +
    `grant select, insert, update, delete on all tables in schema ${schema} to ${role}; ` +
    `grant usage, update on all sequences in schema ${schema} to ${role};\``
  );
}
