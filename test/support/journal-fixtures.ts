/** Shared by the file journal's tests: records, options, directories, ways to read back. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { hashKey } from '#product/core/key-hash.js';
import {
  amountAt,
  INCREMENT_HEADER_BYTES,
  keyStart,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeIncrement,
  writeUint64,
} from '#product/shard-worker/protocol/record-layout.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import type { Journal, RecordBytes } from '#product/shard-worker/journal/journal.js';
import { ManualClock } from './manual-clock.js';

export const NODE_ID = '11111111-2222-4333-8444-555555555555';
export const DATABASE_ID = 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee';
export const OTHER_DATABASE_ID = 'ffffffff-bbbb-4ccc-8ddd-eeeeeeeeeeee';

/** An empty directory that is deleted after the test. */
export function temporaryDirectory(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'summing-counters-journal-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function journalOptions(dataDir: string, changes: Partial<FileJournalOptions> = {}): FileJournalOptions {
  return {
    disk: systemDisk,
    directory: join(dataDir, 'journal'),
    clock: new ManualClock(),
    syncPolicy: 'always',
    bytesMax: 1024 * 1024 * 1024,
    keepSeconds: 0,
    nodeId: NODE_ID,
    shard: 0,
    databaseId: DATABASE_ID,
    ...changes,
  };
}

/** A record of one increment; its key has `keyBytes` bytes, so that a test can make records of any size. */
export function incrementRecord(key: string, amount: number, acceptedAt = 1000): RecordBytes {
  const keyBytes = Buffer.from(key);
  const bytes = RECORD_HEADER_BYTES + INCREMENT_HEADER_BYTES + keyBytes.length;
  const record = new Uint8Array(bytes);
  const view = new DataView(record.buffer);
  view.setUint32(RECORD_OFFSET.bytes, bytes, true);
  writeUint64(view, RECORD_OFFSET.acceptedAt, acceptedAt);
  view.setUint32(RECORD_OFFSET.increments, 1, true);
  const hash = hashKey(keyBytes, 0, keyBytes.length);
  record.set(keyBytes, writeIncrement(view, RECORD_HEADER_BYTES, keyBytes.length, hash, amount));
  return record;
}

/** A record of `bytes` bytes whose entries are `fill`, for tests that do not read increments. */
export function rawRecord(bytes: number, fill = 0x61): RecordBytes {
  const record = new Uint8Array(bytes).fill(fill, RECORD_HEADER_BYTES);
  new DataView(record.buffer).setUint32(RECORD_OFFSET.bytes, bytes, true);
  return record;
}

/** The result of replay as text: `lsn:key=amount`. */
export function replayed(journal: Journal, after = 0): string[] {
  const lines: string[] = [];
  for (const { lsn, entries } of journal.replay(after)) {
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    const key = Buffer.from(entries.subarray(keyStart(0))).toString();
    lines.push(`${lsn}:${key}=${amountAt(view, 0)}`);
  }
  return lines;
}

/** The LSNs of replay. */
export function replayedLsns(journal: Journal, after = 0): number[] {
  const lsns: number[] = [];
  for (const { lsn } of journal.replay(after)) lsns.push(lsn);
  return lsns;
}

/** Paths of a stream's segments, oldest first. */
export function segmentPaths(options: FileJournalOptions, stream: string): string[] {
  const directory = join(options.directory, stream);
  const names = readdirSync(directory).filter((name) => name.endsWith('.wal'));
  return names.sort().map((name) => join(directory, name));
}

/** A body of so many bytes with as many increments of a key as it holds, so that its record is large. */
export function largestBody(bytes: number, key: string): { readonly body: string; readonly increments: number } {
  const pair = `"${key}":1`;
  const increments = Math.floor((bytes - 1) / (pair.length + 1));
  return { body: `{${Array.from({ length: increments }, () => pair).join(',')}}`.padEnd(bytes), increments };
}
