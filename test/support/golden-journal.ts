/** The journals in test/golden, one for each version of the format: their content, and a way to write the newest again. */
import { join } from 'node:path';
import {
  DIGEST_BYTES,
  digestStart,
  IDEMPOTENT_HEADER_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeIdempotentHeader,
  writeUint64,
} from '#product/shard-worker/protocol/record-layout.js';
import { FileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import type { RecordBytes } from '#product/shard-worker/journal/journal.js';
import { newOwnership, type StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import { journalOptions, incrementRecord } from './journal-fixtures.js';

export const GOLDEN_STREAM = '0123abcd-4567-4e89-8abc-def012345678';
export const GOLDEN_VERSIONS = [1, 2] as const;

/** The directory of the stream as the given version of the format has it. */
export function goldenDirectory(version: (typeof GOLDEN_VERSIONS)[number]): string {
  return join(import.meta.dirname, `../../../test/golden/journal-v${version}`);
}

/** What the newest version keeps of the ownership. */
export const goldenOwnership: StreamOwnership = {
  mark: 'open',
  cover: undefined,
  claims: [
    { id: '11111111-aaaa-4bbb-8ccc-000000000001', lsn: 0, epoch: 1_048_577 },
    { id: '11111111-aaaa-4bbb-8ccc-000000000002', lsn: 0, epoch: undefined },
  ],
};

/** The times of the database that the records carry, by record. Records of version 1 carry none. */
export const goldenTimes = [0, 1_767_225_600, 1_767_225_600, 1_767_225_601, 4_294_967_295, 4_294_967_295];

export function goldenOptions(dataDir: string): FileJournalOptions {
  return journalOptions(dataDir, { segmentBytes: 8192, keepSeconds: 60, shard: 3 });
}

/** Three segments: one of a new stream, one that recovery made from it above LSN 2, and its successor by size. */
export function writeGoldenJournal(dataDir: string): void {
  const options = goldenOptions(dataDir);
  const [first = 0, second = 0, , fourth = 0, fifth = 0] = goldenTimes;
  const journal = new FileJournal(options, GOLDEN_STREAM, 'ready', newOwnership(undefined));
  journal.append([incrementRecord('page:/home', 1, 1_767_225_600_000)], first);
  const group = [
    incrementRecord('ключ 🔑', -2, 1_767_225_600_001),
    incrementRecord('c', 2 ** 53 - 1, 1_767_225_600_002),
  ];
  journal.append(group, second);
  journal.close();
  const recovered = openFileJournal({ ...options, stream: GOLDEN_STREAM });
  recovered.recover(2);
  recovered.keepOwnership(goldenOwnership);
  recovered.append([idempotentRecord()], fourth);
  recovered.append([incrementRecord('k'.repeat(2048), 0), incrementRecord('l'.repeat(2000), 1)], fifth);
  recovered.close();
}

/** The records of the golden journal, as `npm run journal -- dump` prints them. */
export const goldenEntries = [
  [['page:/home', 1]],
  [['ключ 🔑', -2]],
  [['c', 2 ** 53 - 1]],
  [{ idempotencyKey: 'order-17', digest: '000102030405060708090a0b0c0d0e0f', increments: [['a', 5]] }],
  [['k'.repeat(2048), 0]],
  [['l'.repeat(2000), 1]],
];

function idempotentRecord(): RecordBytes {
  const idempotencyKey = Buffer.from('order-17');
  const increments = incrementRecord('a', 5).subarray(RECORD_HEADER_BYTES);
  const record = new Uint8Array(
    RECORD_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES + idempotencyKey.length + increments.length,
  );
  const view = new DataView(record.buffer);
  view.setUint32(RECORD_OFFSET.bytes, record.length, true);
  writeUint64(view, RECORD_OFFSET.acceptedAt, 1_767_225_600_003);
  view.setUint32(RECORD_OFFSET.increments, 1, true);
  const at = RECORD_HEADER_BYTES;
  const start = writeIdempotentHeader(view, at, idempotencyKey.length, increments.length);
  for (let byte = 0; byte < DIGEST_BYTES; byte += 1) view.setUint8(digestStart(at) + byte, byte);
  record.set(idempotencyKey, start);
  record.set(increments, start + idempotencyKey.length);
  return record;
}
