/** The relations between settings, and the sentence for the operator if one does not hold. Any thread. */
import { createSecureContext } from 'node:tls';
import type { Config } from './config.js';
import { journalKinds, journalSettings } from './journal-kind.js';
import { fileContent, sizeText } from './setting-text.js';
import type { SettingKey } from './settings.js';

/** Most bytes of one flush, which is one statement: PostgreSQL refuses a message of 1 GiB. */
const FLUSH_BYTES_MAX = 1_000_000_000;
/**
 * How much larger an increment of an idempotent request can be in a flush than its pending bytes. It repeats the idempotency
 * key, up to 255 bytes, and lacks the 104 bytes of overhead. Any other increment is smaller in a flush.
 */
const IDEMPOTENT_INCREMENT_FLUSH_BYTES = 192;
/** Least pending bytes of an increment: its overhead and a key of one byte. */
const PENDING_INCREMENT_BYTES_MIN = 105;

/** Relations between limits. Checked only if each limit is valid. */
export const settingRelations: readonly {
  readonly between: readonly SettingKey[];
  readonly problem: (config: Config) => string | undefined;
}[] = [
  {
    between: ['pendingKeysMax', 'shards'],
    problem: ({ pendingKeysMax, shards }) =>
      pendingKeysMax >= shards
        ? undefined
        : `MAX_PENDING_KEYS is ${pendingKeysMax}, but must be at least SHARDS, ${shards}.`,
  },
  {
    between: ['journal', 'databaseUrl'],
    problem: ({ journal, databaseUrl }) =>
      !journalKinds[journal].isShared || databaseUrl !== undefined
        ? undefined
        : `JOURNAL is ${journal}, which needs a DATABASE_URL that other servers reach, too.`,
  },
  {
    between: ['natsUser', 'natsPassword', 'natsToken', 'natsCredsFile'],
    problem: ({ nats }) => {
      const ways = [nats?.user ?? nats?.password, nats?.token, nats?.credsFile].filter((way) => way !== undefined);
      return ways.length <= 1
        ? undefined
        : 'A user, a token and NATS_CREDS_FILE exclude each other; set one of them, in JOURNAL or by its own variable.';
    },
  },
  {
    between: ['natsCertFile', 'natsKeyFile'],
    problem: ({ nats }) =>
      (nats?.tls?.certFile === undefined) === (nats?.tls?.keyFile === undefined)
        ? undefined
        : 'NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE belong together; set both or neither.',
  },
  {
    between: ['role', 'journal'],
    problem: ({ role, journal }) => {
      if (journalKinds[journal].roles.includes(role)) return undefined;
      return role === 'serve'
        ? 'ROLE is serve, but a server cannot read its own increments back from a queue. With JOURNAL=sqs set ROLE=ingest where ' +
            'increments are taken and ROLE=roll-up where they are counted.'
        : `ROLE is ${role}, which needs a JOURNAL that other servers reach, too: ${journalSettings(role)}. It is ${journal}.`;
    },
  },
  {
    // One shard may hold all pending sums, and after an outage it flushes them at once.
    between: ['pendingBytesMax', 'pendingKeysMax'],
    problem: ({ pendingBytesMax, pendingKeysMax }) => {
      const increments = Math.min(pendingKeysMax, Math.floor(pendingBytesMax / PENDING_INCREMENT_BYTES_MIN));
      return pendingBytesMax + increments * IDEMPOTENT_INCREMENT_FLUSH_BYTES <= FLUSH_BYTES_MAX
        ? undefined
        : `MAX_PENDING_BYTES is ${sizeText(pendingBytesMax)} and MAX_PENDING_KEYS ${pendingKeysMax}: MAX_PENDING_BYTES + ` +
            `${IDEMPOTENT_INCREMENT_FLUSH_BYTES} × MAX_PENDING_KEYS must be at most ${FLUSH_BYTES_MAX}, the limit of one flush.`;
    },
  },
  {
    between: ['drainDelayMs', 'shutdownTimeoutMs'],
    problem: ({ drainDelayMs, shutdownTimeoutMs }) =>
      drainDelayMs < shutdownTimeoutMs
        ? undefined
        : `DRAIN_DELAY_MS is ${drainDelayMs}, but must be less than SHUTDOWN_TIMEOUT_MS, ${shutdownTimeoutMs}.`,
  },
  {
    between: ['tlsCertFile', 'tlsKeyFile'],
    problem: ({ tls }) => (tls === undefined ? undefined : tlsProblem(tls.certFile, tls.keyFile)),
  },
];

function tlsProblem(certFile: string, keyFile: string): string | undefined {
  const cert = fileContent(certFile);
  const key = fileContent(keyFile);
  if ('problem' in cert) return `TLS_CERT_FILE ${cert.problem}`;
  if ('problem' in key) return `TLS_KEY_FILE ${key.problem}`;
  try {
    createSecureContext({ cert: cert.text, key: key.text });
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'unknown reason';
    return `TLS_CERT_FILE and TLS_KEY_FILE must be a certificate and its private key in PEM form (${reason}).`;
  }
}
