/**
 * Which database a queue belongs to. Main thread.
 *
 * Each message names the database of its writer, and that decides. A tag of the queue tells a start without the database, and one
 * with another database, before any message is sent or received.
 */
import { createHash } from 'node:crypto';
import type { SQSClient } from '@aws-sdk/client-sqs';
import { isUuid, uuidText } from '../../../core/uuid.js';
import type { SqsConfig } from '../../../config/config.js';
import type { JournalStore } from '../../protocol/control-messages.js';

const DATABASE_TAG = 'summing-counters-database';
const ADOPTED_TAG = 'summing-counters-adopted';

/** The id of a queue, made of its ARN. */
export function queueId(arn: string): string {
  return uuidText(new Uint8Array(createHash('sha256').update(arn).digest()));
}

/** The tags of a queue; undefined where the server may not see them. Rejects as the client library does. */
export async function readQueuePairing(
  client: SQSClient,
  { queueUrl }: SqsConfig,
): Promise<Pick<JournalStore, 'databaseId' | 'isAdopted'> | 'none' | undefined> {
  const { ListQueueTagsCommand } = await import('@aws-sdk/client-sqs');
  try {
    const { Tags: tags = {} } = await client.send(new ListQueueTagsCommand({ QueueUrl: queueUrl }));
    const databaseId = tags[DATABASE_TAG] ?? '';
    return isUuid(databaseId) ? { databaseId, isAdopted: tags[ADOPTED_TAG] === 'true' } : 'none';
  } catch (error) {
    if (isForbidden(error)) return undefined;
    throw error;
  }
}

/**
 * Writes the tags, and reads them back. Where servers of two databases do so at once, the last one wins; the next start of the other
 * says so, and the messages of both name their database. Undefined where the server may not write or see them. Rejects
 * as the client library does.
 */
export async function writeQueuePairing(
  client: SQSClient,
  config: SqsConfig,
  { databaseId, isAdopted }: Pick<JournalStore, 'databaseId' | 'isAdopted'>,
): Promise<Pick<JournalStore, 'databaseId' | 'isAdopted'> | 'none' | undefined> {
  const { TagQueueCommand } = await import('@aws-sdk/client-sqs');
  try {
    const tags = { [DATABASE_TAG]: databaseId, [ADOPTED_TAG]: String(isAdopted) };
    await client.send(new TagQueueCommand({ QueueUrl: config.queueUrl, Tags: tags }));
  } catch (error) {
    if (isForbidden(error)) return undefined;
    throw error;
  }
  return readQueuePairing(client, config);
}

/** The client library names every refusal for want of a right so. */
function isForbidden(error: unknown): boolean {
  return error instanceof Error && /^(AccessDenied|AccessDeniedException|UnsupportedOperation)$/.test(error.name);
}
