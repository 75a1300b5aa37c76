/**
 * A queue over Amazon SQS, or a server with its protocol. Main thread and shard thread.
 *
 * The client library never repeats a request by itself: the journal must know the outcome of each attempt. The queue's URL gives
 * the endpoint, and the region where its host names one. The library finds credentials, and else the region, by its own means
 * (environment, files, roles).
 */
import type { SQSClient } from '@aws-sdk/client-sqs';
import type { SqsConfig } from '../../../config/config.js';
import { causesOf, JournalError, reasonOf } from '../../../core/errors.js';
import type { JournalStore, PairedSqsSettings } from '../../protocol/control-messages.js';
import { VISIBILITY_SECONDS, type Queue, type QueueMessage, type SendOutcome } from './queue.js';

/** How long a request waits for its answer. Less than ACK_TIMEOUT_MS: a send without an answer is repeated. */
const REQUEST_TIMEOUT_MS = 2000;
/** How long a receive waits for a message. SQS may still give messages to a killed consumer for that long. */
const RECEIVE_WAIT_SECONDS = 2;
const RECEIVE_TIMEOUT_MS = 1000 * RECEIVE_WAIT_SECONDS + 5000;
/** SQS allows no more messages a request. */
const BATCH_MAX = 10;
/** Most batch requests under way at a time. */
const BATCHES_AT_ONCE = 4;

/** Names of errors for lack of capacity. */
const THROTTLES: readonly string[] = [
  'RequestThrottled',
  'Throttling',
  'ThrottlingException',
  'TooManyRequestsException',
  'OverLimit',
  'KmsThrottled',
];
/** Its name, type and value are part of a message's size. */
const DATABASE_ATTRIBUTE = 'Database';
/** The request may have arrived or not. */
const REQUEST_TIMEOUT_STATUS = 408;

/** A client of the queue's region and endpoint. Loads the library here, because other journals do not need it. */
export async function connectToSqs({ region, queueUrl }: SqsConfig): Promise<SQSClient> {
  const { SQSClient } = await import('@aws-sdk/client-sqs');
  const { origin } = new URL(queueUrl);
  return new SQSClient({ maxAttempts: 1, endpoint: origin, ...(region !== undefined && { region }) });
}

/** A queue over SQS. */
export class SqsQueue implements Queue {
  readonly #url: string;
  readonly #settings: PairedSqsSettings;
  #client: Promise<SQSClient> | undefined;

  constructor(settings: PairedSqsSettings) {
    this.#url = settings.queueUrl;
    this.#settings = settings;
  }

  get store(): JournalStore {
    return this.#settings.store;
  }

  get address(): string {
    return this.#url;
  }

  async send(stream: string, deduplicationId: string, data: Uint8Array): Promise<SendOutcome> {
    const { SendMessageCommand } = await import('@aws-sdk/client-sqs');
    const command = new SendMessageCommand({
      QueueUrl: this.#url,
      MessageGroupId: stream,
      MessageDeduplicationId: deduplicationId,
      MessageBody: Buffer.from(data.buffer, data.byteOffset, data.length).toString('base64'),
      MessageAttributes: { [DATABASE_ATTRIBUTE]: { DataType: 'String', StringValue: this.store.databaseId } },
    });
    try {
      const client = await this.#opened();
      await client.send(command, { abortSignal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
      return { kind: 'sent' };
    } catch (error) {
      return outcomeOf(error);
    }
  }

  async receive(): Promise<readonly QueueMessage[]> {
    const { ReceiveMessageCommand } = await import('@aws-sdk/client-sqs');
    const command = new ReceiveMessageCommand({
      QueueUrl: this.#url,
      MaxNumberOfMessages: BATCH_MAX,
      VisibilityTimeout: VISIBILITY_SECONDS,
      WaitTimeSeconds: RECEIVE_WAIT_SECONDS,
      MessageSystemAttributeNames: ['MessageGroupId'],
      MessageAttributeNames: [DATABASE_ATTRIBUTE],
    });
    const { Messages: messages = [] } = await this.#orUnavailable((client) =>
      client.send(command, { abortSignal: AbortSignal.timeout(RECEIVE_TIMEOUT_MS) }),
    );
    return messages.map((message) => ({
      stream: message.Attributes?.MessageGroupId ?? '',
      id: message.MessageId ?? '',
      body: message.Body ?? '',
      database: message.MessageAttributes?.[DATABASE_ATTRIBUTE]?.StringValue,
      receipt: message.ReceiptHandle ?? '',
    }));
  }

  extend(receipts: readonly string[]): Promise<void> {
    return this.#changeVisibility(receipts, VISIBILITY_SECONDS);
  }

  /** One batch after the other, to keep the order. */
  async release(receipts: readonly string[], seconds = 0): Promise<void> {
    for (const batch of batchesOf(receipts)) await this.#changeVisibility(batch, seconds);
  }

  async delete(receipts: readonly string[]): Promise<void> {
    const { DeleteMessageBatchCommand } = await import('@aws-sdk/client-sqs');
    await this.#inBatches(receipts, (client, batch) =>
      client.send(
        new DeleteMessageBatchCommand({
          QueueUrl: this.#url,
          Entries: batch.map((receipt, index) => ({ Id: String(index), ReceiptHandle: receipt })),
        }),
        { abortSignal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) },
      ),
    );
  }

  close(): void {
    this.#client?.then((client) => {
      client.destroy();
    }, ignore);
  }

  async #changeVisibility(receipts: readonly string[], seconds: number): Promise<void> {
    const { ChangeMessageVisibilityBatchCommand } = await import('@aws-sdk/client-sqs');
    await this.#inBatches(receipts, (client, batch) =>
      client.send(
        new ChangeMessageVisibilityBatchCommand({
          QueueUrl: this.#url,
          Entries: batch.map((receipt, index) => ({
            Id: String(index),
            ReceiptHandle: receipt,
            VisibilityTimeout: seconds,
          })),
        }),
        { abortSignal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) },
      ),
    );
  }

  async #inBatches(
    receipts: readonly string[],
    request: (client: SQSClient, batch: readonly string[]) => Promise<unknown>,
  ): Promise<void> {
    const batches = batchesOf(receipts);
    for (let at = 0; at < batches.length; at += BATCHES_AT_ONCE) {
      const some = batches.slice(at, at + BATCHES_AT_ONCE);
      await this.#orUnavailable((client) => Promise.all(some.map((batch) => request(client, batch))));
    }
  }

  async #orUnavailable<T>(request: (client: SQSClient) => Promise<T>): Promise<T> {
    try {
      return await request(await this.#opened());
    } catch (error) {
      throw sqsUnavailable(error);
    }
  }

  /** After a failure the next call makes a new client. */
  #opened(): Promise<SQSClient> {
    this.#client ??= connectToSqs(this.#settings).catch((error: unknown) => {
      this.#client = undefined;
      throw error;
    });
    return this.#client;
  }
}

/** The JournalError for a failed request. */
export function sqsUnavailable(cause: unknown): JournalError {
  return new JournalError('journal-unavailable', `SQS is unavailable: ${reasonOf(cause)}`, { cause });
}

/** The HTTP status of an error; undefined without an answer. */
export function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('$metadata' in error)) return undefined;
  const { httpStatusCode } = error.$metadata as { readonly httpStatusCode?: number };
  return httpStatusCode;
}

function outcomeOf(error: unknown): SendOutcome {
  const status = statusOf(error) ?? 0;
  // The service may fail (5xx) after it has stored the message.
  const isAnswer = status >= 400 && status < 500 && status !== REQUEST_TIMEOUT_STATUS;
  const isThrottled = error instanceof Error && THROTTLES.includes(error.name);
  return isAnswer || isNotSent(error) ? { kind: 'refused', error, isThrottled } : { kind: 'unknown', error };
}

/** Whether there was no connection, or nothing to sign the request with. */
function isNotSent(error: unknown): boolean {
  return causesOf(error).some((cause) => {
    if (!(cause instanceof Error)) return false;
    if (cause.name === 'CredentialsProviderError' || cause.message === 'Region is missing') return true;
    if (cause instanceof AggregateError) return cause.errors.length > 0 && cause.errors.every(isNotSent);
    return 'syscall' in cause && (cause.syscall === 'connect' || cause.syscall === 'getaddrinfo');
  });
}

function batchesOf(receipts: readonly string[]): readonly (readonly string[])[] {
  const batches: (readonly string[])[] = [];
  for (let at = 0; at < receipts.length; at += BATCH_MAX) batches.push(receipts.slice(at, at + BATCH_MAX));
  return batches;
}

function ignore(): void {
  // There is no client to close.
}
