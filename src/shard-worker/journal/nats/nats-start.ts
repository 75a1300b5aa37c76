/**
 * Makes or checks the JetStream stream of the journal at the start of a server. Main thread.
 *
 * A stream that drops messages by itself loses increments, so its configuration must exclude that.
 */
import type { StreamConfig, StreamInfo } from '@nats-io/jetstream';
import { sizeText } from '../../../config/setting-text.js';
import { CounterError, JournalError, reasonOf, StartError } from '../../../core/errors.js';
import type { JournalStore, NatsSettings } from '../../protocol/control-messages.js';
import {
  foreignSentence,
  unknownSentence,
  unpaired,
  type PairedDatabase,
  type StorePairing,
} from '../store-pairing.js';
import { bodyBytesMaxOf, groupBytesMaxOf, isFence, messageBytesFor } from './nats-message.js';
import { firstMessage, readPairing, streamsIn, writePairing, type AskBroker } from './nats-pairing.js';
import { connectToNats, unavailable, type NatsSession } from './nats-session.js';

/** Least limit of a message: a batch of small requests has up to 64 KiB. */
const PAYLOAD_BYTES_MIN = 128 * 1024;
/** From this version on, a cluster accepts at most one of two publishes with the same expectation. */
const EXACT_SINCE = [2, 11] as const;
const REQUEST_TIMEOUT_MS = 2000;
const STREAM_NOT_FOUND = 10059;
/** Another server has made the stream meanwhile. */
const STREAM_EXISTS = 10058;
/** The cluster is starting, or has fewer servers than replicas. */
const NO_PEERS = 10005;
/** Refusals that need an operator, although JetStream reports some as failures of its own. */
const VERDICTS: readonly number[] = [10028, 10039, 10047, 10065, 10074, 10076];

/** The facts about the broker that a start needs. */
export interface BrokerFacts {
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  /** The largest body whose record fits a group. */
  readonly bodyBytesFit: number;
  /** The broker, and the records that a power loss can cost, as a line of the log. */
  readonly description: string;
  /** Lines of the log. */
  readonly warnings: readonly string[];
}

/**
 * Connects, and makes or checks the stream, whose messages must hold the records of bodies of `bodyBytes`. Rejects with StartError
 * where an operator must change something, with JournalError `journal-unavailable` where a later attempt may succeed.
 */
export async function openBrokerStream(settings: NatsSettings, bodyBytes = 0): Promise<BrokerFacts> {
  return withSession(settings, async (session) => {
    const { config } = await streamOf(session, settings);
    return factsOf(session, config, checked(session, config, settings, bodyBytes));
  });
}

/** Checks a stream that is in use, and makes none. Rejects as {@link openBrokerStream} does. */
export async function checkBrokerStream(settings: NatsSettings, bodyBytes: number): Promise<void> {
  await withSession(settings, async (session) => {
    const { config } = await session.manager.streams.info(settings.stream).catch((error: unknown) => {
      if (codeOf(error) !== STREAM_NOT_FOUND) throw error;
      const gone = `NATS_STREAM ${settings.stream} is gone from the broker; a restart of this server makes it anew.`;
      throw new StartError([gone], { cause: error });
    });
    return checked(session, config, settings, bodyBytes);
  });
}

/** Most bytes of a message. Throws StartError where the stream may lose records, or holds no record of `bodyBytes`. */
function checked(session: NatsSession, config: StreamConfig, settings: NatsSettings, bodyBytes: number): number {
  const payloadBytes = payloadBytesOf(session);
  const limit = config.max_msg_size > 0 ? Math.min(payloadBytes, config.max_msg_size) : payloadBytes;
  const problems = [...streamProblems(config, settings), ...sizeProblems(limit, bodyBytes)];
  if (problems.length > 0) throw new StartError(problems);
  return limit;
}

/**
 * Finds out to which database the stream of JetStream belongs. One that belongs to none gets the database of this server, unless it
 * has records of streams that the database does not know. Rejects as {@link openBrokerStream} does.
 */
export function pairBroker(settings: NatsSettings, database: PairedDatabase): Promise<JournalStore> {
  return withSession(settings, async (session) => {
    const ask = askerOf(session);
    const { id } = database;
    let found = await readPairing(settings, ask);
    if (found === undefined) {
      if (id === undefined) throw unpaired(`The stream ${settings.stream} in NATS`);
      await requireKnownStreams(settings, session, ask, database);
      found = await writePairing(settings, session, ask, { databaseId: id, isAdopted: false });
    }
    if (id !== undefined && id !== found.databaseId)
      throw new StartError([
        foreignSentence(`the stream ${settings.stream} in NATS`, found.databaseId, id, 'NATS_STREAM'),
      ]);
    return found;
  });
}

/** Calls `decide` with the pairing of a stream of JetStream. Rejects as {@link openBrokerStream} does. */
export function decideBroker<T>(
  settings: NatsSettings,
  database: PairedDatabase,
  decide: (pairing: StorePairing) => Promise<T>,
): Promise<T> {
  return withSession(settings, async (session) => {
    const ask = askerOf(session);
    return decide({
      before: await readPairing(settings, ask),
      unknownStreams: await unknownStreams(settings, session, ask, database),
      pair: (databaseId) => writePairing(settings, session, ask, { databaseId, isAdopted: true }),
    });
  });
}

function askerOf({ connection }: NatsSession): AskBroker {
  return (subject, data, headers) =>
    connection.request(subject, data, { timeout: REQUEST_TIMEOUT_MS, ...(headers !== undefined && { headers }) });
}

async function requireKnownStreams(
  settings: NatsSettings,
  session: NatsSession,
  ask: AskBroker,
  database: PairedDatabase,
): Promise<void> {
  const unknown = await unknownStreams(settings, session, ask, database);
  if (unknown.length > 0)
    throw new StartError([unknownSentence(`the stream ${settings.stream} in NATS`, unknown, 'NATS_STREAM')]);
}

/** Streams with records, and without a row. A subject that has only fences is that of a stream that ended long ago. */
async function unknownStreams(
  settings: NatsSettings,
  session: NatsSession,
  ask: AskBroker,
  database: PairedDatabase,
): Promise<readonly string[]> {
  const without = await database.unknownStreams(await streamsIn(settings, session));
  const unknown: string[] = [];
  for (const stream of without) {
    const first = await firstMessage(settings, ask, stream);
    if (first !== undefined && !isFence(first.data)) unknown.push(stream);
  }
  return unknown;
}

/** Connects for `work`. Rejects with StartError and JournalError. */
async function withSession<T>(settings: NatsSettings, work: (session: NatsSession) => Promise<T>): Promise<T> {
  let session: NatsSession;
  try {
    session = await connectToNats(settings, 'summing-counters start');
  } catch (error) {
    throw refusalOf(error) ?? unavailableAtStart(error);
  }
  try {
    return await work(session);
  } catch (error) {
    if (error instanceof StartError || error instanceof CounterError) throw error;
    throw refusalOf(error) ?? unavailableAtStart(error);
  } finally {
    session.connection.close().catch(() => undefined);
  }
}

function payloadBytesOf({ connection }: NatsSession): number {
  return connection.info?.max_payload ?? 0;
}

async function streamOf({ manager, connection }: NatsSession, settings: NatsSettings): Promise<StreamInfo> {
  const { stream, replicas } = settings;
  try {
    return await manager.streams.info(stream);
  } catch (error) {
    if (isUnanswered(error) && connection.info?.jetstream !== true)
      throw new StartError(['JOURNAL: the broker has no JetStream; enable it (nats-server -js, or jetstream {}).']);
    if (codeOf(error) !== STREAM_NOT_FOUND) throw error;
  }
  const { StorageType, RetentionPolicy, DiscardPolicy } = await import('@nats-io/jetstream');
  try {
    return await manager.streams.add({
      name: stream,
      subjects: [`${stream}.>`],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.New,
      max_age: 0,
      max_bytes: -1,
      max_msgs: -1,
      num_replicas: replicas,
    });
  } catch (error) {
    if (codeOf(error) !== STREAM_EXISTS) throw error;
    return manager.streams.info(stream);
  }
}

/** One sentence for each setting by which the stream could lose records. */
function streamProblems(config: StreamConfig, { stream, replicas }: NatsSettings): readonly string[] {
  const says = (what: string, wanted: string): string => `NATS_STREAM ${stream} has ${what}; ${wanted}.`;
  const isCovered = (config.subjects ?? []).some((subject) => subject === `${stream}.>` || subject === `${stream}.*`);
  const checks: readonly (readonly [boolean, string])[] = [
    [config.storage === 'file', says('memory storage', 'make it with file storage')],
    [config.retention === 'limits', says(`retention ${config.retention}`, 'make it with retention limits')],
    [config.discard === 'new', says('discard old, which drops records that are not flushed', 'set discard to new')],
    [config.max_age === 0, says('a max age, which drops records that are not flushed', 'remove it')],
    [
      config.max_msgs_per_subject <= 0,
      says('a limit of messages a subject, which drops or refuses records', 'remove it'),
    ],
    [isCovered, says(`no subjects ${stream}.>`, 'add them')],
    [!config.sealed && !config.deny_purge, says('purges denied', 'allow them, or committed records stay for ever')],
    [config.no_ack !== true, says('no acknowledgements', 'allow them')],
    [
      config.num_replicas === replicas,
      says(`${config.num_replicas} replicas and NATS_REPLICAS is ${replicas}`, 'change one of them'),
    ],
  ];
  return checks.filter(([isRight]) => !isRight).map(([, problem]) => problem);
}

function sizeProblems(payloadBytes: number, bodyBytes: number): readonly string[] {
  if (payloadBytes < PAYLOAD_BYTES_MIN)
    return [
      `JOURNAL: a message may have ${sizeText(payloadBytes)}; raise max_payload to ${sizeText(PAYLOAD_BYTES_MIN)}.`,
    ];
  const fits = bodyBytesMaxOf(payloadBytes);
  if (bodyBytes <= fits) return [];
  return [
    `MAX_BODY_BYTES is ${sizeText(bodyBytes)}, but a message of the broker, ${sizeText(payloadBytes)}, holds the record of ` +
      `a body of ${fits} bytes at most; set at most that, or raise max_payload to ${messageBytesFor(bodyBytes)}.`,
  ];
}

function factsOf({ connection }: NatsSession, config: StreamConfig, payloadBytes: number): BrokerFacts {
  const version = connection.info?.version ?? 'unknown';
  const { num_replicas: replicas, name } = config;
  const copies = `${replicas} ${replicas === 1 ? 'replica' : 'replicas'}`;
  const loss =
    replicas === 1
      ? 'a loss of power can take what it acknowledged within its sync_interval (2 minutes, unless its configuration says less ' +
        'or always)'
      : 'a loss of power at a minority of its servers takes nothing; one at all of them what was acknowledged within their ' +
        'sync_interval';
  const description = `Journal in NATS ${version}, stream ${name} with ${copies}: ${loss}`;
  const warnings: string[] = [];
  if (replicas > 1 && !isExact(version)) {
    warnings.push(
      `NATS ${version} can accept two messages with one expectation in a cluster; records behind the end of a stream are ` +
        'found and counted, and some requests get 500 outcome-unknown. Upgrade to 2.11',
    );
  }
  return {
    groupBytesMax: groupBytesMaxOf(payloadBytes),
    bodyBytesFit: bodyBytesMaxOf(payloadBytes),
    description,
    warnings,
  };
}

function isExact(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > EXACT_SINCE[0] || (major === EXACT_SINCE[0] && minor >= EXACT_SINCE[1]);
}

/** A StartError where the broker refuses this server. */
function refusalOf(error: unknown): StartError | undefined {
  const reason = reasonOf(error);
  const name = error instanceof Error ? error.name : '';
  if (/Authorization|UserAuthentication|PermissionViolation/.test(name))
    return new StartError([
      `The broker refuses the server: ${reason}. Check user, password, token or NATS_CREDS_FILE.`,
    ]);
  if (name === 'NKeysError' || reason.includes('unable to parse credentials'))
    return new StartError([`NATS_CREDS_FILE does not hold a JWT and its seed: ${reason}.`]);
  const systemCode = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (
    /CERT|^ERR_TLS|^ERR_SSL|VERIFY/.test(systemCode) ||
    (/tls/i.test(reason) && /^(InvalidArgument|Connection)Error$/.test(name))
  )
    return new StartError([`The broker cannot be reached by TLS: ${reason}. Check NATS_TLS_CA_FILE and JOURNAL.`]);
  const code = codeOf(error);
  if (code === NO_PEERS) return undefined;
  if (code !== undefined && (VERDICTS.includes(code) || statusOf(error) === 400))
    return new StartError([`JetStream refuses the stream: ${reason} (${code}). Check NATS_STREAM and NATS_REPLICAS.`]);
  return undefined;
}

/** Whether nothing answers requests to JetStream. */
function isUnanswered(error: unknown): boolean {
  return error instanceof Error && (error.name === 'JetStreamNotEnabled' || reasonOf(error).includes('no responders'));
}

/** The error code of JetStream. */
function codeOf(error: unknown): number | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' ? error.code : undefined;
}

function statusOf(error: unknown): number | undefined {
  return error instanceof Error && 'status' in error && typeof error.status === 'number' ? error.status : undefined;
}

function unavailableAtStart(cause: unknown): JournalError {
  if (codeOf(cause) === NO_PEERS)
    return new JournalError(
      'journal-unavailable',
      `NATS has fewer servers at the moment than NATS_REPLICAS: ${reasonOf(cause)}`,
      { cause },
    );
  return unavailable(cause);
}
