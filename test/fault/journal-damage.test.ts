/**
 * The journal's files are damaged between two runs of the server.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { RecordReader } from '#product/shard-worker/journal/file/record-reader.js';
import { systemDisk } from '#product/shard-worker/journal/file/disk.js';
import type { CountedNode } from '../support/counted-node.js';
import { segmentsOf } from '../support/journal-files.js';
import { kill, NEVER_MS, testNode } from '../support/node-test.js';

const RECORDS = 6;
const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };

interface Place {
  readonly offset: number;
  readonly bytes: number;
}

/** The offsets of a segment's records. */
function recordsOf(path: string): Place[] {
  const file = systemDisk.open(path);
  try {
    const reader = new RecordReader(file, 1, Number.MAX_SAFE_INTEGER);
    const places: Place[] = [];
    while (reader.next()) places.push({ offset: reader.offset, bytes: reader.record.byteLength });
    return places;
  } finally {
    file.close();
  }
}

/** What damage removes is not missed in a sum. */
async function addZero(node: CountedNode): Promise<void> {
  assert.equal((await node.addZero())?.status, 202);
}

/** Kills a node with RECORDS unflushed records in its one segment. */
async function makeJournal(node: CountedNode): Promise<{ segment: string; records: readonly Place[]; last: Place }> {
  const server = await node.start();
  // One after the other, so that each is a record of its own, and the next one proves its sync.
  for (let index = 0; index < RECORDS; index += 1) {
    await addZero(node);
  }
  await kill(server);
  const [segment = ''] = await segmentsOf(node.dataDir);
  const records = recordsOf(segment);
  assert.equal(records.length, RECORDS);
  return { segment, records, last: records.at(-1) ?? assert.fail() };
}

function change(path: string, edit: (bytes: Buffer) => void): void {
  const bytes = readFileSync(path);
  edit(bytes);
  writeFileSync(path, bytes);
}

testNode('a torn last record is cut, the start logs it, and the server continues', env, async ({ node }) => {
  const { segment, last } = await makeJournal(node);
  const kept = 1 + node.random.integer(last.bytes - 1);
  change(segment, (bytes) => bytes.fill(0, last.offset + kept));
  const server = await node.start();
  assert.match(server.output, /"cutBytes":[1-9]/);
  await addZero(node);
  await node.finish(server);
});

testNode(
  'a file that ends within its last record is cut before it, and the server continues',
  env,
  async ({ node }) => {
    const { segment, last } = await makeJournal(node);
    const end = last.offset + 1 + node.random.integer(last.bytes - 1);
    writeFileSync(segment, readFileSync(segment).subarray(0, end));
    const server = await node.start();
    await addZero(node);
    await node.finish(server);
  },
);

testNode('a flipped bit in a synced record stops every start with file and offset', env, async ({ node }) => {
  const { segment, records } = await makeJournal(node);
  // No later record proves the sync of the last one; all others have such a proof.
  const record = records[node.random.integer(RECORDS - 1)];
  assert.ok(record);
  const at = record.offset + node.random.integer(record.bytes);
  const flip = (bytes: Buffer): void => {
    bytes[at] = (bytes[at] ?? 0) ^ (1 << node.random.integer(8));
  };
  const whole = readFileSync(segment);
  change(segment, flip);
  for (let starts = 0; starts < 2; starts += 1) {
    const refused = await node.refusedStart();
    assert.ok(refused.output.includes(segment), refused.output);
    assert.match(refused.output, new RegExp(`offset ${record.offset}\\b`));
    assert.equal(refused.output.includes('"msg":"Ready"'), false);
  }
  // The refusals changed nothing: with the original byte everything is there.
  writeFileSync(segment, whole);
  const server = await node.start();
  assert.match(server.output, new RegExp(`"records":${RECORDS}`));
  await node.finish(server);
});
