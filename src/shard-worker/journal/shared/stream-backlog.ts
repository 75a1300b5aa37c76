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
/**
 * Latest records that are counted one by one, 0.8 MB. A failover goes back over seconds, and hundreds of left writers may wait for
 * the fates of their streams.
 */
const RECORDS_MAX = 100_000;

/**
 * Increments of records above an LSN. Exact within the last {@link RECORDS_MAX} records; before them rounded up to whole parts, and
 * 0 only where no such record has increments.
 */
export interface IncrementsAfter {
  /** Above the last known checkpoint. */
  readonly pending: number;
  /** Flushed within the last minutes. */
  readonly flushed: number;
}

/** Consecutive records. */
interface BacklogPart {
  readonly firstLsn: Lsn;
  lastLsn: Lsn;
  /** Of the last record with increments; 0: there is none. */
  lastFilledLsn: Lsn;
  readonly acceptedAtMs: number;
  readonly beganAtMs: number;
  bytes: number;
  increments: number;
  /** Of each record from the first LSN on; undefined where only the sum is known. */
  ofRecords: number[] | undefined;
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
      // A journal may skip LSNs.
      if (part.ofRecords !== undefined) part.ofRecords[lsn - part.firstLsn] = increments;
      return;
    }
    const acceptedAtMs = readUint64(view, RECORD_OFFSET.acceptedAt);
    const times = { acceptedAtMs, beganAtMs: nowMs };
    this.#parts.push({
      firstLsn: lsn,
      lastLsn: lsn,
      lastFilledLsn,
      ...times,
      bytes,
      increments,
      ofRecords: [increments],
    });
    if (this.#parts.length > PARTS_MAX) this.#join();
    this.#forgetRecords();
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

  /** Keeps only sums before the latest records. */
  #forgetRecords(): void {
    let records = 0;
    for (const parts of [this.#parts, this.#flushed]) {
      for (let at = parts.length - 1; at >= 0; at -= 1) {
        const part = parts[at] as BacklogPart;
        if (part.ofRecords === undefined) continue;
        records += part.ofRecords.length;
        if (records > RECORDS_MAX) part.ofRecords = undefined;
      }
    }
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
      before.ofRecords = undefined;
    }
    this.#parts = joined;
  }
}

function incrementsOf(parts: readonly BacklogPart[], lsn: Lsn): number {
  return parts.reduce((total, { firstLsn, lastFilledLsn, increments, ofRecords }) => {
    if (lastFilledLsn <= lsn) return total;
    if (firstLsn > lsn || ofRecords === undefined) return total + increments;
    return ofRecords.slice(lsn + 1 - firstLsn).reduce((sum, each) => sum + each, total);
  }, 0);
}
