/**
 * Reads the subjects of streams without a flusher. Shard thread.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import { decodedOr, type MessageOrigin, type RecordMessage } from '../shared/message-format.js';
import type { Broker, BrokerMessage } from './broker.js';
import type { WriteLine } from './errand.js';
import { isFence } from './nats-message.js';

const SCAN_MESSAGES = 16;

/** The first record of a subject. */
export interface FirstRecord extends MessageOrigin {
  readonly lsn: Lsn;
  /** The database of its writer; undefined for an earlier version of the server. */
  readonly database: string | undefined;
  /** The first message is a fence, so the records behind it may be copies of counted ones. */
  readonly isBehindFence: boolean;
}

/** The content of a subject. */
export interface SubjectContent {
  readonly hasRecords: boolean;
  /** The last LSN that follows the checkpoint without a gap; the checkpoint where there is none. */
  readonly lastLsn: Lsn;
  /** The first record behind a gap. */
  readonly gapAt: Lsn | undefined;
  readonly firstFence: number | undefined;
  /** The last LSN that a fence names. */
  readonly endLsn: Lsn;
}

/** Reads subjects. */
export class SubjectScan {
  readonly #broker: Pick<Broker, 'read'>;
  readonly #log: WriteLine;
  #isClosed = false;

  constructor(broker: Pick<Broker, 'read'>, log: WriteLine) {
    this.#broker = broker;
    this.#log = log;
  }

  /** Ends reads that are under way. */
  close(): void {
    this.#isClosed = true;
  }

  /** Undefined where the subject has no record, or an unreadable one first. */
  async firstRecord(stream: string): Promise<FirstRecord | undefined> {
    let isBehindFence = false;
    for (let from = 1; ;) {
      const [message] = await this.#broker.read(stream, from, 1);
      if (message === undefined) return undefined;
      if (!isFence(message.data)) {
        const group = this.#decoded(stream, message);
        const { database } = message;
        return group && { lsn: group.firstLsn, database, node: group.node, shard: group.shard, isBehindFence };
      }
      isBehindFence = true;
      from = message.sequence + 1;
    }
  }

  /** `unread`: the scan was closed meanwhile. `unreadable`: a message cannot be read. */
  async content(stream: string, checkpoint: Lsn): Promise<SubjectContent | 'unread' | 'unreadable'> {
    let hasRecords = false;
    let lastLsn = checkpoint;
    let gapAt: Lsn | undefined;
    let firstFence: number | undefined;
    let endLsn = 0;
    for (let from = 1; !this.#isClosed;) {
      const messages = await this.#broker.read(stream, from, SCAN_MESSAGES);
      for (const message of messages) {
        from = message.sequence + 1;
        if (isFence(message.data)) {
          firstFence ??= message.sequence;
          endLsn = Math.max(endLsn, message.endLsn ?? 0);
          continue;
        }
        const group = this.#decoded(stream, message);
        if (group === undefined) return 'unreadable';
        hasRecords = true;
        // Readers stop there.
        if (group.firstLsn > lastLsn + 1) gapAt ??= group.firstLsn;
        else if (gapAt === undefined) lastLsn = Math.max(lastLsn, group.lastLsn);
      }
      if (messages.length < SCAN_MESSAGES) return { hasRecords, lastLsn, gapAt, firstFence, endLsn };
    }
    return 'unread';
  }

  #decoded(stream: string, { sequence, data }: BrokerMessage): RecordMessage | undefined {
    return decodedOr(data, (error) => {
      const what = `Stream ${stream} has an unreadable message in NATS; its records are neither counted nor removed`;
      this.#log('error', { stream, sequence, err: error }, what);
    });
  }
}
