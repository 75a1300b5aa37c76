/**
 * The embedded server's settings, given on its command line so that a new release can change them on an old data
 * directory. Any thread.
 *
 * Durability is PostgreSQL's own default, written out because it is a promise: a commit is on disk before it is
 * answered, whatever `postgresql.auto.conf` says.
 */

/** Connections beyond our own, for an operator's psql and for one that the server has not yet noticed to be gone. */
const CONNECTIONS_SPARE = 10;

/** Arguments of the `postgres` program. */
export function serverArguments(options: {
  readonly dir: string;
  readonly port: number;
  readonly connectionsMax: number;
}): string[] {
  const settings: Readonly<Record<string, string | number>> = {
    listen_addresses: '127.0.0.1',
    port: options.port,
    unix_socket_directories: '',
    max_connections: options.connectionsMax + CONNECTIONS_SPARE,
    password_encryption: 'scram-sha-256',

    fsync: 'on',
    synchronous_commit: 'on',
    full_page_writes: 'on',

    shared_buffers: '128MB',
    // The same counters are written over and over: fewer checkpoints mean fewer full pages in the log.
    max_wal_size: '1GB',
    checkpoint_timeout: '15min',
    wal_compression: 'on',
    wal_recycle: 'on',
    max_wal_senders: 0,
    work_mem: '16MB',
    // Our statements never profit from either, and parallel workers need /dev/shm, which containers keep small.
    jit: 'off',
    max_parallel_workers_per_gather: 0,

    // Standard error is a pipe to us; see postgres-log.
    logging_collector: 'off',
    log_destination: 'stderr',
    log_line_prefix: '%m [%p] ',
    log_checkpoints: 'off',
    log_timezone: 'UTC',
    lc_messages: 'C',
  };
  const args = ['-D', options.dir];
  for (const [name, value] of Object.entries(settings)) args.push('-c', `${name}=${value}`);
  return args;
}
