/**
 * Checks the queue of the journal at the start of a server. Main thread.
 *
 * A queue that drops or moves messages by itself loses increments, so its attributes must exclude that. The operator makes the
 * queue, and decides its name, encryption and access.
 */
import type { SqsConfig } from '../../../config/config.js';
import { sizeText } from '../../../config/setting-text.js';
import { causesOf, CounterError, JournalError, reasonOf, StartError } from '../../../core/errors.js';
import type { JournalStore } from '../../protocol/control-messages.js';
import { foreignSentence, unpaired, type PairedDatabase, type StorePairing } from '../store-pairing.js';
import { bodyBytesMaxOf, groupBytesMaxOf, messageBytesFor } from './sqs-message.js';
import { queueId, readQueuePairing, writeQueuePairing } from './sqs-pairing.js';
import { connectToSqs, sqsUnavailable, statusOf } from './sqs-queue.js';

const REQUEST_TIMEOUT_MS = 5000;
/** Least limit of a message: a batch of small requests has up to 64 KiB. */
const MESSAGE_BYTES_MIN = 192 * 1024;
const DAY_SECONDS = 86_400;
/** The most that SQS allows. With less, unflushed increments are lost earlier. */
const RETENTION_DAYS = 14;

/** Attributes of a queue, as SQS names them. */
export type QueueAttributes = Readonly<Record<string, string>>;

/** The facts about the queue that a start needs. */
export interface QueueFacts {
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  /** The largest body whose record fits a group. */
  readonly bodyBytesFit: number;
  /** As a line of the log. */
  readonly description: string;
}

/**
 * Checks the queue, whose messages must hold the records of bodies of `bodyBytes`. Rejects with StartError where an operator must
 * change something, with JournalError `journal-unavailable` where a later attempt may succeed.
 */
export async function openQueue(settings: SqsConfig, bodyBytes = 0): Promise<QueueFacts> {
  const attributes = await attributesOf(settings);
  const problems = [...queueProblems(attributes), ...sizeProblems(attributes, bodyBytes)];
  if (problems.length > 0) throw new StartError(problems);
  return factsOf(attributes, settings);
}

async function attributesOf(settings: SqsConfig): Promise<QueueAttributes> {
  const { GetQueueAttributesCommand } = await import('@aws-sdk/client-sqs');
  const client = await connectToSqs(settings);
  try {
    const command = new GetQueueAttributesCommand({ QueueUrl: settings.queueUrl, AttributeNames: ['All'] });
    const { Attributes: attributes = {} } = await client.send(command, {
      abortSignal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
    return attributes;
  } catch (error) {
    throw refusalOf(error) ?? sqsUnavailable(error);
  } finally {
    client.destroy();
  }
}

/** Finds out to which database the queue belongs. Rejects as {@link openQueue} does. */
export async function pairQueue(
  settings: SqsConfig,
  { id }: Pick<PairedDatabase, 'id'>,
  warn: (sentence: string) => void,
): Promise<JournalStore> {
  const arn = (await attributesOf(settings))['QueueArn'] ?? settings.queueUrl;
  const client = await connectToSqs(settings);
  try {
    let found = await readQueuePairing(client, settings);
    if (found === 'none' && id !== undefined)
      found = await writeQueuePairing(client, settings, { databaseId: id, isAdopted: false });
    if (found === undefined || found === 'none') {
      if (id === undefined) throw unpaired('The queue');
      warn(
        'The server may not tag the queue with its database (sqs:ListQueueTags, sqs:TagQueue): a start without the database waits for it',
      );
      return { id: queueId(arn), databaseId: id, isAdopted: false };
    }
    if (id !== undefined && id !== found.databaseId)
      throw new StartError([foreignSentence('the queue', found.databaseId, id, 'the name of the queue')]);
    return { id: queueId(arn), ...found };
  } catch (error) {
    if (error instanceof StartError || error instanceof JournalError) throw error;
    throw refusalOf(error) ?? sqsUnavailable(error);
  } finally {
    client.destroy();
  }
}

/** Calls `decide` with the pairing of a queue, whose streams nobody can list. Rejects as {@link openQueue} does. */
export async function decideQueue<T>(settings: SqsConfig, decide: (pairing: StorePairing) => Promise<T>): Promise<T> {
  const arn = (await attributesOf(settings))['QueueArn'] ?? settings.queueUrl;
  const client = await connectToSqs(settings);
  const storeOf = (found: Awaited<ReturnType<typeof readQueuePairing>>): JournalStore | undefined =>
    found === undefined || found === 'none' ? undefined : { id: queueId(arn), ...found };
  try {
    const before = storeOf(await readQueuePairing(client, settings));
    const pair = async (databaseId: string): Promise<JournalStore> => {
      const after = storeOf(await writeQueuePairing(client, settings, { databaseId, isAdopted: true }));
      if (after === undefined)
        throw new StartError(['The queue cannot be tagged: the role needs sqs:ListQueueTags and sqs:TagQueue.']);
      return after;
    };
    return await decide({ before, unknownStreams: [], pair });
  } catch (error) {
    if (error instanceof StartError || error instanceof CounterError) throw error;
    throw refusalOf(error) ?? sqsUnavailable(error);
  } finally {
    client.destroy();
  }
}

/** One sentence for each attribute by which the queue could lose records. */
export function queueProblems(attributes: QueueAttributes): readonly string[] {
  const { FifoQueue, RedrivePolicy, MessageRetentionPeriod, DelaySeconds } = attributes;
  const retentionDays = Number(MessageRetentionPeriod) / DAY_SECONDS;
  const checks: readonly (readonly [boolean, string])[] = [
    [
      FifoQueue === 'true',
      'JOURNAL: the queue is a standard queue, which keeps no order and hands records out twice; make a FIFO queue.',
    ],
    [
      (RedrivePolicy ?? '') === '',
      'JOURNAL: the queue has a RedrivePolicy, which moves records away that are not flushed; remove it.',
    ],
    [
      retentionDays >= RETENTION_DAYS,
      `JOURNAL: the queue keeps messages for ${daysText(retentionDays)}, and drops records that are not flushed by then; set ` +
        `MessageRetentionPeriod to ${RETENTION_DAYS * DAY_SECONDS} (14 days).`,
    ],
    [
      Number(DelaySeconds ?? 0) === 0,
      `JOURNAL: the queue has DelaySeconds ${DelaySeconds ?? ''}, which keeps increments from being counted; set it to 0.`,
    ],
  ];
  return checks.filter(([isRight]) => !isRight).map(([, problem]) => problem);
}

function sizeProblems({ MaximumMessageSize }: QueueAttributes, bodyBytes: number): readonly string[] {
  const messageBytes = Number(MaximumMessageSize);
  if (!(messageBytes >= MESSAGE_BYTES_MIN))
    return [
      `JOURNAL: a message of the queue may have ${sizeText(messageBytes)}; raise MaximumMessageSize to at least ${MESSAGE_BYTES_MIN}.`,
    ];
  const fits = bodyBytesMaxOf(messageBytes);
  if (bodyBytes <= fits) return [];
  return [
    `MAX_BODY_BYTES is ${sizeText(bodyBytes)}, but a message of the queue, ${sizeText(messageBytes)}, holds the record of a body ` +
      `of ${fits} bytes at most; set at most that, or raise MaximumMessageSize to ${messageBytesFor(bodyBytes)} (SQS allows ` +
      '1048576).',
  ];
}

function factsOf(attributes: QueueAttributes, { queueUrl }: SqsConfig): QueueFacts {
  const { MaximumMessageSize, MessageRetentionPeriod, DeduplicationScope, FifoThroughputLimit } = attributes;
  const retentionDays = Number(MessageRetentionPeriod) / DAY_SECONDS;
  const isHighThroughput = DeduplicationScope === 'messageGroup' && FifoThroughputLimit === 'perMessageGroupId';
  const description =
    `Journal in SQS, queue ${queueUrl.slice(queueUrl.lastIndexOf('/') + 1)}: messages of ${sizeText(Number(MaximumMessageSize))}, ` +
    `kept for ${daysText(retentionDays)}, ${isHighThroughput ? 'with' : 'without'} high throughput`;
  const messageBytes = Number(MaximumMessageSize);
  return { groupBytesMax: groupBytesMaxOf(messageBytes), bodyBytesFit: bodyBytesMaxOf(messageBytes), description };
}

function daysText(days: number): string {
  if (!Number.isFinite(days)) return 'an unknown time';
  return days >= 1
    ? `${Number(days.toFixed(1))} ${days === 1 ? 'day' : 'days'}`
    : `${Math.round(days * DAY_SECONDS)} s`;
}

/** Refusals for lack of capacity, which a retry may cure. */
const PASSING = /Throttl|TooManyRequests|OverLimit/;

/** A StartError where SQS refuses this server, or where no request can be made. */
function refusalOf(error: unknown): StartError | undefined {
  const reason = reasonOf(error);
  const names = causesOf(error).map((cause) => (cause instanceof Error ? cause.name : ''));
  if (names.includes('CredentialsProviderError'))
    return new StartError([
      `No credentials for SQS were found: ${reason}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the server a role.`,
    ]);
  if (reason === 'Region is missing') return new StartError(['The URL of the queue names no region; set AWS_REGION.']);
  const status = statusOf(error) ?? 0;
  const [name = ''] = names;
  if (status < 400 || status >= 500 || PASSING.test(name)) return undefined;
  return new StartError([
    `SQS refuses the server: ${reason} (${name}). Check JOURNAL, and that the server may use the queue.`,
  ]);
}
