/**
 * Receives messages from a queue, and decodes them. Shard thread.
 *
 * ```text
 * received ──readable─────────────────► records
 *          ├──of a newer version────────► stays in the queue, with what follows in its group
 *          ├──damaged──────────────────► kept in damaged_messages as it is, then deleted
 *          └──damaged, of another database─► stays in the queue
 * ```
 *
 * A damaged message that stays would block its group, so the queue would fill up. What follows it lacks records then.
 */
import { JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';
import { isUuid } from '../../../core/uuid.js';
import * as streams from '../../../db/stream-statements.js';
import type { StreamRows } from '../shared/stream-rows.js';
import type { ReceivedRecords } from '../stream-log.js';
import type { Queue, QueueMessage } from './queue.js';
import { decodeQueueBody } from './sqs-message.js';

/** A message that this server does not take is received again after this time. */
const LEFT_SECONDS = 5;
/** Most groups that are remembered, so that the log names each once. */
const SAID_MAX = 1000;

/** What {@link MessageReader} needs. */
export interface MessageReaderDeps {
  readonly receives: Queue;
  readonly log: (level: 'error', fields: LogFields, message: string) => void;
}

/** The messages that one thread receives. */
export class MessageReader {
  readonly #queue: Queue;
  readonly #log: MessageReaderDeps['log'];
  readonly #rows: Pick<StreamRows, 'isApplied'>;
  readonly #said = new Set<string>();

  constructor({ receives, log }: MessageReaderDeps, rows: StreamRows) {
    this.#queue = receives;
    this.#log = log;
    this.#rows = rows;
  }

  /** Rejects with `journal-unavailable`, or with `database-unavailable` where a damaged message cannot be kept. */
  async receive(): Promise<readonly ReceivedRecords[]> {
    const received: ReceivedRecords[] = [];
    const left: QueueMessage[] = [];
    for (const message of await this.#queue.receive()) {
      if (left.some(({ stream }) => stream === message.stream)) left.push(message);
      else
        try {
          const { stream, receipt, database } = message;
          if (!isUuid(stream)) throw new JournalError('journal-corrupt', 'Its group is not a stream.');
          received.push({ ...decodeQueueBody(message.body), stream, receipt, database });
        } catch (error) {
          if (!(error instanceof JournalError)) throw error;
          if (!(await this.#isKept(message, error))) left.push(message);
        }
    }
    const receipts = left.map(({ receipt }) => receipt).reverse();
    if (receipts.length > 0) await this.#queue.release(receipts, LEFT_SECONDS);
    return received;
  }

  /** Keeps a message in the database, and deletes it. False: it is not this server's to take. */
  async #isKept({ id, stream, body, database, receipt }: QueueMessage, error: JournalError): Promise<boolean> {
    const { databaseId, id: store } = this.#queue.store;
    if (error.code === 'journal-format' || (database !== undefined && database !== databaseId)) {
      this.#say(
        stream,
        error,
        `Group ${stream} of the queue has a message that is left there; later ones are not counted`,
      );
      return false;
    }
    // A trigger may drop the row.
    if (!(await this.#rows.isApplied(streams.KEEP_DAMAGED, [id, store, stream, body, error.message]))) return false;
    await this.#queue.delete([receipt]);
    this.#say(
      stream,
      error,
      `Group ${stream} of the queue had a damaged message, which is kept in damaged_messages`,
      id,
    );
    return true;
  }

  #say(stream: string, err: JournalError, message: string, id?: string): void {
    const said = id ?? stream;
    if (this.#said.has(said)) return;
    if (this.#said.size >= SAID_MAX) this.#said.clear();
    this.#said.add(said);
    this.#log('error', { stream, err, ...(id !== undefined && { messageId: id }) }, message);
  }
}
