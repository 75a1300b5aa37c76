/**
 * The type of the configuration, which alone holds the limits of each setting. Any thread.
 *
 * typia checks them, and the sentences for the operator come from the schema of the same type. `settings.ts` holds the name
 * and the meaning of each variable, `setting-relations.ts` the relations between limits.
 */
import type { tags } from 'typia';
import type { LogLevel } from '../core/logger.js';
import type { JournalKind, Role } from './journal-kind.js';

type Integer<Min extends number, Max extends number> = number &
  tags.Type<'int64'> &
  tags.Minimum<Min> &
  tags.Maximum<Max>;

/** Everything that an operator can set. Names end in units. */
export interface Config {
  /** The address or host name to listen on. */
  readonly host: string & tags.Pattern<'^[A-Za-z0-9._:%-]{1,253}$'>;
  /** 0: any free port. */
  readonly port: Integer<0, 65535>;
  /** With the scheme `postgresql:`. Undefined: an embedded PostgreSQL in `dataDir`. */
  readonly databaseUrl: string | undefined;
  /** Absolute path. */
  readonly dataDir: string;
  readonly shards: Integer<1, 64>;
  readonly httpThreads: Integer<1, 64>;
  readonly role: Role;
  readonly journal: JournalKind;
  /** How the broker of the nats journal is reached; undefined with another journal. Holds secrets. */
  readonly nats: NatsConfig | undefined;
  /** The stream of JetStream, and the prefix of its subjects. */
  readonly natsStream: string;
  /** Replicas that the stream is made with, and must have. */
  readonly natsReplicas: Integer<1, 5>;
  /** The queue of the sqs journal; undefined with another journal. */
  readonly sqs: SqsConfig | undefined;
  readonly journalSync: 'always' | 'everysec';
  /** For each shard. */
  readonly journalBytesMax: Integer<65_536, 17_592_186_044_416>;
  /** At most ten years, for an audit of the log in PostgreSQL. */
  readonly journalKeepSeconds: Integer<0, 315_360_000>;
  readonly flushIntervalMs: Integer<1, 3_600_000>;
  readonly flushKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. */
  readonly pendingKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. Less than FLUSH_BYTES_MAX, the limit of one flush. */
  readonly pendingBytesMax: Integer<1024, 943_718_400>;
  /** At most 16 MiB, so that the increments of any body fit one record. */
  readonly bodyBytesMax: Integer<16, 16_777_216>;
  /** False: with the nats or sqs journal bodies are limited to what fits a message, if that is less than {@link bodyBytesMax}. */
  readonly isBodyBytesMaxGiven: boolean;
  /** At most KEY_BYTES_LIMIT. */
  readonly keyBytesMax: Integer<1, 2048>;
  /** Open event streams of the whole server. */
  readonly watchersMax: Integer<1, 1_000_000>;
  /** For the whole server. */
  readonly connectionsMax: Integer<1, 1_000_000_000>;
  readonly ackTimeoutMs: Integer<10, 600_000>;
  readonly idempotencyWindowHours: Integer<1, 8760>;
  readonly idempotencyRowsMax: Integer<1, 1_000_000_000_000>;
  readonly streamExpiryDays: Integer<0, 3650>;
  readonly shutdownTimeoutMs: Integer<100, 3_600_000>;
  readonly drainDelayMs: Integer<0, 3_600_000>;
  readonly authTokens: readonly BearerToken[];
  /** Names besides `host`, localhost and addresses that a Host header may have where {@link authTokens} are none. */
  readonly allowedHosts: readonly string[];
  /** Origins of web pages that may call from a browser; `*` for any. */
  readonly corsOrigins: readonly string[];
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** 1: adopt a table `counters` with columns that the table of the original application has not. */
  readonly adoptCounters: Integer<0, 1>;
  readonly logLevel: LogLevel;
  readonly logSummarySeconds: Integer<0, 86_400>;
}

/** How a broker is reached. */
export interface NatsConfig {
  /** `HOST:PORT` of servers of one cluster. */
  readonly servers: readonly string[];
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly token: string | undefined;
  /** Absolute path of a file of credentials. */
  readonly credsFile: string | undefined;
  /** Undefined: TLS where the server wants it, by the system's authorities. */
  readonly tls: Readonly<Record<'caFile' | 'certFile' | 'keyFile', string | undefined>> | undefined;
}

/** Which queue, and where. */
export interface SqsConfig {
  readonly queueUrl: string;
  /** Undefined: the AWS SDK finds it, in the environment or its files. */
  readonly region: string | undefined;
}

/** A bearer token and the operations that it permits. */
export interface BearerToken {
  readonly scope: 'write' | 'read' | 'admin';
  readonly token: string;
}

/** What of the configuration SIGHUP reads again. */
export type ReloadedConfig = Pick<Config, 'authTokens' | 'tls'>;
