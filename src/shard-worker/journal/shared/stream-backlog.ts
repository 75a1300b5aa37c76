/**
 * Counts the records of a stream above its last known checkpoint, for its writer. Shard thread.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import { readUint64, RECORD_OFFSET } from '../../protocol/record-layout.js';
import type { RecordBytes } from '../journal.js';

/** Records that came within this time are one part. */
const PART_MS = 250;
/** Most parts. Beyond them neighbours are joined, so that days without a flush need no more memory than an hour. */
const PARTS_MAX = 8192;
/** Flushed parts that are kept, for five minutes, because a failover may undo their flush. */
const FLUSHED_PARTS_MAX = 1200;

/** Increments of records above an LSN, rounded up to whole parts; 0 only where no such record has increments. */
export interface IncrementsAfter {
  /** Above the last known checkpoint. */
  readonly pending: number;
  /** Flushed within the last minutes. */
  readonly flushed: number;
}

/** Consecutive records. */
interface BacklogPart {
  lastLsn: Lsn;
  /** Of the last record with increments; 0: there is none. */
  lastFilledLsn: Lsn;
  readonly acceptedAtMs: number;
  readonly beganAtMs: number;
  bytes: number;
  increments: number;
}

/** The unflushed records of one writer. */
export class StreamBacklog {
  #parts: BacklogPart[] = [];
  /** The last parts that were flushed, oldest first. */
  readonly #flushed: BacklogPart[] = [];
  #bytes = 0;

  /** Bytes of the records. */
  get bytes(): number {
    return this.#bytes;
  }

  /** When the oldest of them was accepted, ms since 1970; infinite where there is none. */
  get oldestAcceptedAtMs(): number {
    return this.#parts[0]?.acceptedAtMs ?? Number.POSITIVE_INFINITY;
  }

  incrementsAfter(lsn: Lsn): IncrementsAfter {
    return { pending: incrementsOf(this.#parts, lsn), flushed: incrementsOf(this.#flushed, lsn) };
  }

  /** Adds the record that got `lsn`. `nowMs`: on the monotonic clock. */
  add(lsn: Lsn, record: RecordBytes, nowMs: number): void {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    const increments = view.getUint32(RECORD_OFFSET.increments, true);
    const bytes = record.byteLength;
    const lastFilledLsn = increments > 0 ? lsn : 0;
    this.#bytes += bytes;
    const part = this.#parts.at(-1);
    if (part !== undefined && nowMs - part.beganAtMs < PART_MS) {
      part.lastLsn = lsn;
      part.lastFilledLsn = Math.max(part.lastFilledLsn, lastFilledLsn);
      part.bytes += bytes;
      part.increments += increments;
      return;
    }
    const acceptedAtMs = readUint64(view, RECORD_OFFSET.acceptedAt);
    this.#parts.push({ lastLsn: lsn, lastFilledLsn, acceptedAtMs, beganAtMs: nowMs, bytes, increments });
    if (this.#parts.length > PARTS_MAX) this.#join();
  }

  /** The checkpoint is at `lsn`. */
  noteCheckpoint(lsn: Lsn): void {
    let flushed = 0;
    for (const part of this.#parts) {
      if (part.lastLsn > lsn) break;
      this.#bytes -= part.bytes;
      flushed += 1;
    }
    if (flushed === 0) return;
    this.#flushed.push(...this.#parts.splice(0, flushed));
    if (this.#flushed.length > FLUSHED_PARTS_MAX) this.#flushed.splice(0, this.#flushed.length - FLUSHED_PARTS_MAX);
  }

  #join(): void {
    const joined: BacklogPart[] = [];
    for (const [index, part] of this.#parts.entries()) {
      const before = joined.at(-1);
      if (index % 2 === 0 || before === undefined) {
        joined.push(part);
        continue;
      }
      before.lastLsn = part.lastLsn;
      before.lastFilledLsn = Math.max(before.lastFilledLsn, part.lastFilledLsn);
      before.bytes += part.bytes;
      before.increments += part.increments;
    }
    this.#parts = joined;
  }
}

function incrementsOf(parts: readonly BacklogPart[], lsn: Lsn): number {
  return parts.reduce((total, { lastFilledLsn, increments }) => total + (lastFilledLsn > lsn ? increments : 0), 0);
}
