/**
 * What servers have sent to a queue, by stream and LSN: which requests are in it, and which of them a failover of the database, or
 * the queue's retention, may have taken.
 */
import type { QueueMessage } from './simulated-queue.js';
import { decodeQueueMessage, type QueueRecords } from '#product/shard-worker/journal/sqs/sqs-message.js';
import type { ClientRequest } from './expectations.js';

interface SentStream {
  readonly requests: Map<number, readonly ClientRequest[]>;
  lastLsn: number;
  /** The LSN of its last record, once that was sent. */
  closeLsn: number | undefined;
}

/** Everything that was sent. */
export class QueuedRecords {
  /** Streams that lack records that somebody knew to be in the queue: what follows these waits for an operator. */
  readonly broken = new Set<string>();
  /** Streams that a server has retired, because it said that they lack records. */
  readonly blocked = new Set<string>();
  readonly #streams = new Map<string, SentStream>();
  readonly #uncertain = new Set<ClientRequest>();
  readonly #requestsOf: (entries: Uint8Array) => readonly ClientRequest[];

  /** `requestsOf`: those of the entries of a record. */
  constructor(requestsOf: (entries: Uint8Array) => readonly ClientRequest[]) {
    this.#requestsOf = requestsOf;
  }

  /** A message is sent, perhaps again. */
  sent(stream: string, data: Uint8Array): void {
    let known = this.#streams.get(stream);
    if (known === undefined) {
      known = { requests: new Map(), lastLsn: 0, closeLsn: undefined };
      this.#streams.set(stream, known);
    }
    const { records, lastLsn, isClose } = decodeQueueMessage(data);
    for (const { lsn, entries } of records)
      known.requests.set(lsn, [...new Set([...(known.requests.get(lsn) ?? []), ...this.#requestsOf(entries)])]);
    known.lastLsn = Math.max(known.lastLsn, lastLsn);
    if (isClose) known.closeLsn = lastLsn;
  }

  /** The last LSN that was sent. */
  lastLsn(stream: string): number {
    return this.#streams.get(stream)?.lastLsn ?? 0;
  }

  /** That of its last record; infinite where that was not sent. */
  closeLsn(stream: string): number {
    return this.#streams.get(stream)?.closeLsn ?? Number.POSITIVE_INFINITY;
  }

  /** Whether some record of the request may be gone. */
  isUncertain(request: ClientRequest): boolean {
    return this.#uncertain.has(request);
  }

  /** Records of a stream above `afterLsn`, up to `throughLsn`, may be gone. */
  putAtRisk(stream: string, afterLsn: number, throughLsn: number): void {
    if (throughLsn <= afterLsn) return;
    this.broken.add(stream);
    for (const [lsn, requests] of this.#streams.get(stream)?.requests ?? []) {
      if (lsn <= afterLsn || lsn > throughLsn) continue;
      for (const request of requests) {
        this.#uncertain.add(request);
        if (request.fate !== 'refused') request.putAtRisk();
      }
    }
  }
}

/** A message of the queue, decoded. */
export function recordsOf({ body }: QueueMessage): QueueRecords {
  return decodeQueueMessage(Buffer.from(body, 'base64'));
}
