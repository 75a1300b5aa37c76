/**
 * The type of the configuration, which alone holds the limits of each setting. Any thread.
 *
 * typia checks them, and the sentences for the operator come from the same schema. `settings.ts` holds the name and meaning of
 * each variable, `setting-relations.ts` the relations between limits.
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
  /** The broker of the nats journal; undefined with another journal. Holds secrets. */
  readonly nats: NatsConfig | undefined;
  /** The stream of JetStream, and the prefix of its subjects. */
  readonly natsStream: string;
  /** Replicas that the stream must have. */
  readonly natsReplicas: Integer<1, 5>;
  /** The queue of the sqs journal; undefined with another journal. */
  readonly sqs: SqsConfig | undefined;
  readonly journalSync: 'always' | 'everysec';
  /** For each shard. */
  readonly journalBytesMax: Integer<65_536, 17_592_186_044_416>;
  /** At most ten years, for an audit of the postgres journal. */
  readonly journalKeepSeconds: Integer<0, 315_360_000>;
  readonly flushIntervalMs: Integer<1, 3_600_000>;
  readonly flushKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. */
  readonly pendingKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. Less than FLUSH_BYTES_MAX, the limit of one flush. */
  readonly pendingBytesMax: Integer<1024, 943_718_400>;
  /** At most 16 MiB, so that the increments of any body fit one record. */
  readonly bodyBytesMax: Integer<16, 16_777_216>;
  /** False: with the nats or sqs journal the size of a message limits bodies, if it is less than {@link bodyBytesMax}. */
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
  /** Names besides `host`, localhost and addresses that a Host header may have if there are no {@link authTokens}. */
  readonly allowedHosts: readonly string[];
  /** Origins of web pages that may call from a browser; `*` for any. */
  readonly corsOrigins: readonly string[];
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** 1: adopt a table `counters` with more columns than that of the original application. */
  readonly adoptCounters: Integer<0, 1>;
  readonly logLevel: LogLevel;
  readonly logSummarySeconds: Integer<0, 86_400>;
}

/** The address and credentials of a broker. */
export interface NatsConfig {
  /** `HOST:PORT` of servers of one cluster. */
  readonly servers: readonly string[];
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly token: string | undefined;
  /** Absolute path of a file of credentials. */
  readonly credsFile: string | undefined;
  /** Undefined: TLS if the server wants it, with the system's authorities. */
  readonly tls: Readonly<Record<'caFile' | 'certFile' | 'keyFile', string | undefined>> | undefined;
}

/** A queue and its region. */
export interface SqsConfig {
  readonly queueUrl: string;
  /** Undefined: from the environment or the files of the AWS SDK. */
  readonly region: string | undefined;
}

/** A bearer token and the operations that it permits. */
export interface BearerToken {
  readonly scope: 'write' | 'read' | 'admin';
  readonly token: string;
}

/** The part of the configuration that SIGHUP reads again. */
export type ReloadedConfig = Pick<Config, 'authTokens' | 'tls'>;
