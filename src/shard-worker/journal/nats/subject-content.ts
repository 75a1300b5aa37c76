/**
 * What the subject of a stream holds that nobody flushes. Shard thread.
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
  /** The first message is a fence. What records follow may be copies of counted ones. */
  readonly isBehindFence: boolean;
}

/** What a subject holds. */
export interface SubjectContent {
  readonly hasRecords: boolean;
  /** Up to where the records follow the checkpoint without a gap; the checkpoint where none does. */
  readonly lastLsn: Lsn;
  /** The first record behind a gap. */
  readonly gapAt: Lsn | undefined;
  readonly firstFence: number | undefined;
}

/** Looks into subjects. */
export class SubjectScan {
  readonly #broker: Pick<Broker, 'read'>;
  readonly #log: WriteLine;
  #isClosed = false;

  constructor(broker: Pick<Broker, 'read'>, log: WriteLine) {
    this.#broker = broker;
    this.#log = log;
  }

  /** Nothing more is read. */
  close(): void {
    this.#isClosed = true;
  }

  /** Undefined where the subject has none that can be read. */
  async firstRecord(stream: string): Promise<FirstRecord | undefined> {
    let isBehindFence = false;
    for (let from = 1; ;) {
      const [message] = await this.#broker.read(stream, from, 1);
      if (message === undefined) return undefined;
      if (!isFence(message.data)) {
        const group = this.#decoded(stream, message);
        return group && { lsn: group.firstLsn, node: group.node, shard: group.shard, isBehindFence };
      }
      isBehindFence = true;
      from = message.sequence + 1;
    }
  }

  /** `unread`: it was closed meanwhile. `unreadable`: something of the subject cannot be read. */
  async content(stream: string, checkpoint: Lsn): Promise<SubjectContent | 'unread' | 'unreadable'> {
    let hasRecords = false;
    let lastLsn = checkpoint;
    let gapAt: Lsn | undefined;
    let firstFence: number | undefined;
    for (let from = 1; !this.#isClosed;) {
      const messages = await this.#broker.read(stream, from, SCAN_MESSAGES);
      for (const message of messages) {
        from = message.sequence + 1;
        if (isFence(message.data)) {
          firstFence ??= message.sequence;
          continue;
        }
        const group = this.#decoded(stream, message);
        if (group === undefined) return 'unreadable';
        hasRecords = true;
        // Readers stop there.
        if (group.firstLsn > lastLsn + 1) gapAt ??= group.firstLsn;
        else if (gapAt === undefined) lastLsn = Math.max(lastLsn, group.lastLsn);
      }
      if (messages.length < SCAN_MESSAGES) return { hasRecords, lastLsn, gapAt, firstFence };
    }
    return 'unread';
  }

  #decoded(stream: string, { sequence, data }: BrokerMessage): RecordMessage | undefined {
    return decodedOr(data, (error) => {
      const what = `The subject of stream ${stream} in NATS has a message that cannot be read; it is left alone`;
      this.#log('error', { stream, sequence, err: error }, what);
    });
  }
}
