import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import {
  decodeMessage,
  emptyRecord,
  encodeMessage,
  MESSAGE_HEADER_BYTES,
} from '#product/shard-worker/journal/shared/message-format.js';
import {
  bodyBytesMaxOf,
  groupBytesMaxOf,
  isFence,
  messageBytesFor,
} from '#product/shard-worker/journal/nats/nats-message.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';

const origin = { node: NODE_ID, shard: 7 };

function codeOf(decode: () => unknown): string {
  try {
    decode();
  } catch (error) {
    if (error instanceof JournalError) return error.code;
    throw error;
  }
  return 'none';
}

test('a message has the records that were put in, with their LSNs, time and origin', () => {
  const group = [incrementRecord('a', 1, 11), emptyRecord(12), incrementRecord('b', -2, 13)];
  const message = decodeMessage(encodeMessage(group, 2 ** 40, 123, origin));
  assert.deepEqual({ node: message.node, shard: message.shard }, origin);
  assert.deepEqual([message.firstLsn, message.lastLsn], [2 ** 40, 2 ** 40 + 2]);
  assert.deepEqual(
    message.records.map(({ lsn, acceptedAt, databaseTime }) => [lsn, acceptedAt, databaseTime]),
    [11, 12, 13].map((acceptedAt, index) => [2 ** 40 + index, acceptedAt, 123]),
  );
  for (const [index, record] of group.entries())
    assert.deepEqual(message.records[index]?.entries, record.subarray(RECORD_HEADER_BYTES));
});

test('the bytes of format version 1 do not change', () => {
  const data = encodeMessage([incrementRecord('a', 1, 1)], 1, 2, origin);
  const header = Buffer.from(data.subarray(0, MESSAGE_HEADER_BYTES)).toString('hex');
  const layout = [
    '53434e4a', // magic
    '0100', // version
    '0700', // shard
    header.slice(16, 24), // CRC
    '67000000', // bytes
    '0100000000000000', // first LSN
    '01000000', // records
    '02000000', // time
    NODE_ID.replaceAll('-', ''),
  ];
  assert.equal(header, layout.join(''));
});

test('a message is readable at any offset of a larger buffer', () => {
  const data = encodeMessage([incrementRecord('a', 1)], 1, 0, origin);
  const larger = new Uint8Array(data.length + 3);
  larger.set(data, 3);
  assert.equal(decodeMessage(larger.subarray(3)).lastLsn, 1);
});

test('any changed byte is found', () => {
  const data = encodeMessage([incrementRecord('key', 5), incrementRecord('other', 6)], 3, 9, origin);
  for (let at = 0; at < data.length; at += 1) {
    // The version has an error of its own; the shard stands before what the CRC covers.
    if (at >= 4 && at < 8) continue;
    const changed = data.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    assert.equal(
      codeOf(() => decodeMessage(changed)),
      'journal-corrupt',
      `byte ${at}`,
    );
  }
  for (const bytes of [1, MESSAGE_HEADER_BYTES, data.length - 1])
    assert.equal(
      codeOf(() => decodeMessage(data.slice(0, bytes))),
      'journal-corrupt',
    );
});

test('an unknown version is refused as such', () => {
  const data = encodeMessage([emptyRecord(1)], 1, 0, origin);
  data[4] = 2;
  assert.equal(
    codeOf(() => decodeMessage(data)),
    'journal-format',
  );
});

test('only a message without data is a fence', () => {
  assert.ok(isFence(new Uint8Array(0)));
  assert.ok(!isFence(encodeMessage([emptyRecord(1)], 1, 0, origin)));
});

test('the limits of bodies and messages belong together', () => {
  for (const payload of [128 * 1024, 1024 ** 2, 8 * 1024 ** 2]) {
    const body = bodyBytesMaxOf(payload);
    assert.ok(messageBytesFor(body) <= payload && messageBytesFor(body + 2) > payload);
    assert.ok(groupBytesMaxOf(payload) < payload);
  }
  assert.ok(bodyBytesMaxOf(1024 ** 2) >= 400 * 1024);
});
