/**
 * SQL statements about sessions and their limits, as named constants. Any thread.
 */

/** The start time of a row's process in pg_stat_activity, exactly, in a form that no session setting changes. */
const BACKEND_STARTED_AT = 'floor(extract(epoch from backend_start) * 1000000)::bigint::text';

/**
 * The version of the meaning of the rows. A migration that changes the meaning raises the number in its triggers, which refuse
 * the statements of sessions with a lower one.
 */
const PROTOCOL = 3;

/**
 * The first statement of every session. Sets `synchronous_commit` where it is weaker than `on`; remote_apply is stronger and
 * stays. A role or a database may set how values are written and read, so this sets that, too. The server's keep-alives end the session, and so release the locks, of a client whose machine has failed or whose network
 * drops packets. While a statement runs, only `client_connection_check_interval` notices a dead client; some systems refuse that
 * setting.
 */
export const CONNECT_SETTINGS = `
select set_config('summing_counters.protocol', '${PROTOCOL}', false),
       set_config('synchronous_commit', case current_setting('synchronous_commit')
                    when 'remote_apply' then 'remote_apply' else 'on' end, false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('datestyle', 'ISO, MDY', false), set_config('intervalstyle', 'postgres', false),
       set_config('timezone', 'UTC', false), set_config('extra_float_digits', '1', false),
       set_config('bytea_output', 'hex', false), set_config('standard_conforming_strings', 'on', false),
       set_config('lock_timeout', '5s', false),
       set_config('statement_timeout', '30s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '60s', false) end,
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '30s', false),
       case when current_setting('server_version_num')::int >= 140000 and version() like '%linux%'
            then set_config('client_connection_check_interval', '10s', false) end,
       current_setting('server_version_num')::int as version,
       current_setting('server_encoding') as encoding,
       pg_is_in_recovery() as in_recovery,
       to_regclass('database_identity') is not null as is_recorded,
       has_function_privilege('pg_control_system()', 'execute') as is_cluster_known,
       current_setting('transaction_read_only') = 'on' as read_only,
       pg_backend_pid() as pid,
       (select ${BACKEND_STARTED_AT} from pg_stat_activity where pid = pg_backend_pid()) as started_at`;

/**
 * Where this database is: the id that initdb gave its cluster, and its number there. A dump that is restored, and a copy within a
 * cluster, have another one. A standby that is promoted, or a base backup, keeps it.
 */
export const PLACE = `(select system_identifier::text from pg_control_system())
  || '/' || (select oid::text from pg_database where datname = current_database())`;

/** The id of the database, where it was when that was recorded, and where it is. `recorded`: null where that could not be seen. */
export const IDENTIFY_DATABASE = `
select (select database_id::text from summing_counters_migrations order by version limit 1) as id,
       place as recorded, ${PLACE} as present
from database_identity`;

/** As {@link IDENTIFY_DATABASE}, for a role that may not see the id of the cluster. */
export const IDENTIFY_DATABASE_ELSEWHERE = `
select (select database_id::text from summing_counters_migrations order by version limit 1) as id,
       place as recorded, null as present
from database_identity`;

/**
 * $1 pid, $2 its start time. Whether the process has ended, or has waited for a statement for at least a second. A process that has
 * just answered waits, too, hence the second. A process without a state (track_activities is off) may be at work. An active process
 * may wait for the parameters of its statement.
 */
export const IS_BACKEND_IDLE = `
select coalesce(bool_and(coalesce((state like 'idle%' or wait_event = 'ClientRead') and state_change < clock_timestamp() - interval '1 second', false)),
                true) as idle
from pg_stat_activity where pid = $1 and ${BACKEND_STARTED_AT} = $2`;

/** $1 pid, $2 its start time. Ends the process if it waits for a statement. */
export const END_IDLE_BACKEND = `
select pg_terminate_backend(pid) from pg_stat_activity
where pid = $1 and ${BACKEND_STARTED_AT} = $2 and (state like 'idle%' or wait_event = 'ClientRead')`;

/**
 * $1 limit of a statement, $2 limit of a transaction, for a flush that needs more time than usual. The second must be longer,
 * because it ends the session, and PostgreSQL ignores the first where both are equal.
 */
export const SET_TIMEOUTS = `
select set_config('statement_timeout', $1, false),
       case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', $2, false) end`;

/** Sets the usual limits again. */
export const RESET_TIMEOUTS = `
select set_config('statement_timeout', '30s', false),
       case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', '60s', false) end`;
