/**
 * SQL statements about sessions and their limits, as named constants. Any thread.
 */

/** When the process of a row of pg_stat_activity was started, exactly, in a form that no setting of a session changes. */
const BACKEND_STARTED_AT = 'floor(extract(epoch from backend_start) * 1000000)::bigint::text';

/**
 * The first statement of every session. `synchronous_commit` is set where it is weaker than `on`; remote_apply is
 * stronger and stays. The server's own keep-alives free the locks of a client whose machine is gone.
 */
export const CONNECT_SETTINGS = `
select set_config('synchronous_commit', case current_setting('synchronous_commit')
                    when 'remote_apply' then 'remote_apply' else 'on' end, false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('lock_timeout', '5s', false),
       set_config('statement_timeout', '30s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '60s', false) end,
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       current_setting('server_version_num')::int as version,
       current_setting('server_encoding') as encoding,
       pg_is_in_recovery() as in_recovery,
       pg_backend_pid() as pid,
       (select ${BACKEND_STARTED_AT} from pg_stat_activity where pid = pg_backend_pid()) as started_at`;

/**
 * $1 pid, $2 when it was started. Whether the process is gone, or waits for a statement: for a second already, since one
 * that has just answered waits too. One without a state, of a server that does not keep them, may be at work.
 */
export const IS_BACKEND_IDLE = `
select coalesce(bool_and(coalesce(state like 'idle%' and state_change < clock_timestamp() - interval '1 second', false)),
                true) as idle
from pg_stat_activity where pid = $1 and ${BACKEND_STARTED_AT} = $2`;

/** $1 pid, $2 when it was started. */
export const END_IDLE_BACKEND = `
select pg_terminate_backend(pid) from pg_stat_activity
where pid = $1 and ${BACKEND_STARTED_AT} = $2 and state like 'idle%'`;

/**
 * $1 the limit of one statement, $2 of a transaction, for a flush that gets more time than usual. The second is longer: it
 * ends the session, and of two that are equal PostgreSQL ignores the first.
 */
export const SET_TIMEOUTS = `
select set_config('statement_timeout', $1, false),
       case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', $2, false) end`;

/** The usual limits again. */
export const RESET_TIMEOUTS = `
select set_config('statement_timeout', '30s', false),
       case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', '60s', false) end`;
