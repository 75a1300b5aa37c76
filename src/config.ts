/**
 * Environment → one frozen, validated Config. The only reader of process.env.
 */

/** Where increments are safe before they are summed. */
export type JournalKind = 'memory' | 'file';

/** Everything that an operator can set. Units are in the names; relations between limits hold (see `readConfig`). */
export interface Config {
  readonly host: string;
  readonly port: number;
  /** None: an embedded PostgreSQL in `dataDir`. */
  readonly databaseUrl: string | undefined;
  /** Absolute path. */
  readonly dataDir: string;
  readonly shards: number;
  readonly httpThreads: number;
  readonly role: 'serve';
  readonly journal: JournalKind;
  readonly journalSync: 'always' | 'everysec';
  /** Per shard. */
  readonly journalBytesMax: number;
  readonly journalKeepSeconds: number;
  readonly flushIntervalMs: number;
  readonly flushKeysMax: number;
  /** Per node. */
  readonly pendingKeysMax: number;
  /** Per node. */
  readonly pendingBytesMax: number;
  readonly bodyBytesMax: number;
  readonly keyBytesMax: number;
  readonly ackTimeoutMs: number;
  readonly idempotencyWindowHours: number;
  readonly idempotencyRowsMax: number;
  readonly shutdownTimeoutMs: number;
  readonly drainDelayMs: number;
  readonly authTokens: readonly AuthToken[];
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
}

/** A bearer token and what it opens. */
export interface AuthToken {
  readonly scope: 'write' | 'read' | 'admin';
  readonly token: string;
}
