/**
 * The journal holds the pending records and little more, however much has passed through it.
 */
import assert from 'node:assert/strict';
import { readCountedSums } from '../support/counted-sums.js';
import { eventually } from '../support/eventually.js';
import { increment } from '../support/http.js';
import { journalBytes } from '../support/journal-files.js';
import { CLEAN, testNode } from '../support/node-test.js';

const MIB = 1024 * 1024;
const KEYS = 500;
/** Of a record: 14 bytes plus 100 for the key of each increment. */
const REQUEST_BYTES = KEYS * 114;
/** About a hundredth of the bytes that 1,000 requests a second with one increment each write in an hour. */
const THROUGH_BYTES = 48 * MIB;
const SEGMENT_BYTES = 4 * MIB;

const env = {
  SHARDS: '1',
  FLUSH_INTERVAL_MS: '50',
  JOURNAL_KEEP_SECONDS: '0',
  // Four segments are the limit.
  JOURNAL_MAX_BYTES: String(4 * SEGMENT_BYTES),
};

testNode(
  'while 48 MiB pass through the journal it never holds more than the pending records and three segments',
  env,
  async ({ node, databaseUrl }) => {
    const server = await node.start();
    const keys = Array.from({ length: KEYS }, (_, index) => `key ${index} `.padEnd(100, 'x'));
    const body = JSON.stringify(Object.fromEntries(keys.map((key) => [key, 1])));
    let requests = 0;
    let most = 0;
    while (requests * REQUEST_BYTES < THROUGH_BYTES) {
      const answers = await Promise.all(Array.from({ length: 8 }, () => increment(node.url, body)));
      const taken = answers.filter(({ status }) => status === 202).length;
      assert.ok(answers.every(({ status }) => status === 202 || status === 503));
      requests += taken;
      most = Math.max(most, await journalBytes(server.dataDir));
    }
    // The journal's own limit covers the pending records; the rest is one segment being made.
    assert.ok(most <= 5 * SEGMENT_BYTES, `${most} bytes`);
    await node.flush();
    // All of it is committed: the next record goes into a new segment and the old ones are deleted.
    assert.equal((await increment(node.url, { [keys[0] ?? '']: 0 })).status, 202);
    await node.flush();
    await eventually('the journal is small', async () => (await journalBytes(server.dataDir)) <= SEGMENT_BYTES);
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    const { sums } = await readCountedSums(databaseUrl);
    assert.deepEqual(new Set(sums.values()), new Set([BigInt(requests)]));
    assert.equal(sums.size, KEYS);
  },
);
