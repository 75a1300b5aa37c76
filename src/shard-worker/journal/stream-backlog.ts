/**
 * The records of a stream above its last known checkpoint, as its writer counts them. Shard thread.
 */
import type { Lsn } from '../../core/checkpoint.js';
import { readUint64, RECORD_OFFSET } from '../protocol/record-layout.js';
import type { RecordBytes } from './journal.js';

/** Records that came within this time are one part. */
const PART_MS = 250;
/** Most parts: beyond them neighbours are joined, so that days without a flush need no more memory than an hour. */
const PARTS_MAX = 8192;

/** Records that came one after the other. */
interface BacklogPart {
  lastLsn: Lsn;
  readonly acceptedAtMs: number;
  readonly beganAtMs: number;
  bytes: number;
  increments: number;
}

/** What one writer has appended and nobody has flushed yet. */
export class StreamBacklog {
  #parts: BacklogPart[] = [];
  #bytes = 0;

  /** Bytes of the records. */
  get bytes(): number {
    return this.#bytes;
  }

  /** When the oldest of them was accepted, ms since 1970; infinite where there is none. */
  get oldestAcceptedAtMs(): number {
    return this.#parts[0]?.acceptedAtMs ?? Number.POSITIVE_INFINITY;
  }

  /** Increments of records above an LSN. */
  incrementsAfter(lsn: Lsn): number {
    return this.#parts.reduce((total, part) => total + (part.lastLsn > lsn ? part.increments : 0), 0);
  }

  /** Adds the record that got `lsn`. `nowMs`: on the monotonic clock. */
  add(lsn: Lsn, record: RecordBytes, nowMs: number): void {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    const increments = view.getUint32(RECORD_OFFSET.increments, true);
    const bytes = record.byteLength;
    this.#bytes += bytes;
    const part = this.#parts.at(-1);
    if (part !== undefined && nowMs - part.beganAtMs < PART_MS) {
      part.lastLsn = lsn;
      part.bytes += bytes;
      part.increments += increments;
      return;
    }
    const acceptedAtMs = readUint64(view, RECORD_OFFSET.acceptedAt);
    this.#parts.push({ lastLsn: lsn, acceptedAtMs, beganAtMs: nowMs, bytes, increments });
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
    if (flushed > 0) this.#parts.splice(0, flushed);
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
      before.bytes += part.bytes;
      before.increments += part.increments;
    }
    this.#parts = joined;
  }
}
