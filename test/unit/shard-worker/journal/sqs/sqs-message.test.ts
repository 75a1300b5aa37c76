import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import { emptyRecord } from '#product/shard-worker/journal/shared/message-format.js';
import {
  bodyBytesMaxOf,
  decodeQueueMessage,
  encodeQueueMessage,
  groupBytesMaxOf,
  messageBytesFor,
  type QueueMessageFacts,
} from '#product/shard-worker/journal/sqs/sqs-message.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';

const facts: QueueMessageFacts = {
  ...{ node: NODE_ID, shard: 7, firstLsn: 2 ** 40, previousLsn: 2 ** 40 - 5 },
  ...{ time: 123, isClose: false },
};

function codeOf(data: Uint8Array): string {
  try {
    decodeQueueMessage(data);
  } catch (error) {
    if (error instanceof JournalError) return error.code;
    throw error;
  }
  return 'none';
}

test('a message has its records, and the last LSN that was acknowledged before it', () => {
  const group = [incrementRecord('a', 1, 11), emptyRecord(12)];
  for (const isClose of [false, true]) {
    const message = decodeQueueMessage(encodeQueueMessage(group, { ...facts, isClose }));
    const { node, shard, firstLsn, lastLsn, previousLsn } = message;
    assert.deepEqual(
      { node, shard, firstLsn, previousLsn, time: message.records[1]?.databaseTime },
      {
        ...{ node: NODE_ID, shard: 7, firstLsn: 2 ** 40 },
        ...{ previousLsn: 2 ** 40 - 5, time: 123 },
      },
    );
    assert.deepEqual([lastLsn, message.records.length, message.isClose], [2 ** 40 + 1, 2, isClose]);
  }
});

test('the bytes of format version 1 do not change', () => {
  const data = encodeQueueMessage([incrementRecord('a', 1, 1)], {
    ...facts,
    firstLsn: 9,
    previousLsn: 3,
    isClose: true,
  });
  const header = Buffer.from(data.subarray(0, 24)).toString('hex');
  const layout = [
    '53435351', // magic
    '0100', // version
    '0200', // kind: the last record
    header.slice(16, 24), // CRC
    '7f000000', // bytes
    '0300000000000000', // the last LSN before it
  ];
  assert.equal(header, layout.join(''));
});

test('a message with any changed byte, cut short or too long is refused, whatever the byte is', () => {
  const data = encodeQueueMessage([incrementRecord('a', 1)], facts);
  for (let at = 0; at < data.length; at += 1) {
    const changed = data.slice();
    changed[at] = (changed[at] ?? 0) ^ 0x10;
    assert.match(codeOf(changed), /^journal-(corrupt|format)$/, `byte ${at}`);
  }
  for (const bytes of [0, 1, 23, 24, data.length - 1]) assert.equal(codeOf(data.subarray(0, bytes)), 'journal-corrupt');
  assert.equal(codeOf(Buffer.concat([data, Buffer.alloc(1)])), 'journal-corrupt');
});

test('a message that names its own LSN as the one before it is refused', () => {
  assert.equal(
    codeOf(encodeQueueMessage([emptyRecord(1)], { ...facts, previousLsn: facts.firstLsn })),
    'journal-corrupt',
  );
});

test('in base64 the largest group just fits the limit of a message, and the largest body fits the group', () => {
  for (const limit of [262_144, 1_048_576, 262_143, 262_142, 262_141]) {
    const record = incrementRecord('k'.repeat(2000), 1);
    const full = groupBytesMaxOf(limit);
    const group = Array.from({ length: Math.floor(full / record.length) }, () => record);
    const rest = full - group.length * record.length;
    const bytes = encodeQueueMessage(group, facts).length + rest;
    // The attribute that names the database has 64 bytes of room.
    const room = limit - 64;
    assert.ok(4 * Math.ceil(bytes / 3) <= room && 4 * Math.ceil((bytes + 3) / 3) > room - 4, `${bytes} of ${limit}`);
    const body = bodyBytesMaxOf(limit);
    assert.ok(messageBytesFor(body) <= limit && messageBytesFor(body + 2) > limit - 4, `a body of ${body} in ${limit}`);
  }
});
