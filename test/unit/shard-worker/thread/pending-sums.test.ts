/** What a stream adds to a read, by the checkpoint that the read saw. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hashKey } from '#product/core/increment.js';
import { StreamLedger, type CheckpointView } from '#product/shard-worker/thread/pending-sums.js';
import { pairEntries, tokenedEntry } from '../../../support/tokened-entries.js';

const KEY = Buffer.from('k');
const EPOCH = 7;

/** Committed to LSN 10; a frozen record adds 1, a live one 2. */
function pendingLedger(): StreamLedger {
  const ledger = new StreamLedger('stream', EPOCH, 10);
  const apply = (lsn: number, amount: number): void => {
    const entries = pairEntries([['k', amount]]);
    ledger.apply(lsn, entries, 0, entries.length);
  };
  apply(11, 1);
  ledger.freeze(0);
  apply(12, 2);
  return ledger;
}

function pendingOf(ledger: StreamLedger, view: CheckpointView | undefined): unknown {
  return ledger.pendingOf(hashKey(KEY, 0, KEY.length), KEY, view);
}

test('a read adds what is above the checkpoint that it saw', () => {
  const ledger = pendingLedger();
  assert.equal(pendingOf(ledger, { epoch: EPOCH, lsn: 10 }), 3);
  assert.equal(pendingOf(ledger, { epoch: EPOCH, lsn: 11 }), 2);
  ledger.settle();
  assert.equal(pendingOf(ledger, { epoch: EPOCH, lsn: 11 }), 2);
});

test('a read whose snapshot is from before a commit, or from before the recovery, is made again', () => {
  const ledger = pendingLedger();
  assert.equal(pendingOf(ledger, { epoch: EPOCH, lsn: 9 }), 'again');
  assert.equal(pendingOf(ledger, { epoch: EPOCH - 1, lsn: 10 }), 'again');
  assert.equal(pendingOf(ledger, undefined), 'again');
});

test('a key is held where adding to it needs no new one, which requests with tokens do not spare it', () => {
  const ledger = pendingLedger();
  const holds = (key: string): boolean => {
    const bytes = Buffer.from(key);
    return ledger.holds(hashKey(bytes, 0, bytes.length), bytes, 0, bytes.length);
  };
  const entry = tokenedEntry('token', [['tokened', 1]]);
  ledger.apply(13, entry, 0, entry.length);
  assert.deepEqual(['k', 'tokened', 'other'].map(holds), [true, false, false]);
  const keys = ledger.pendingKeys;
  const again = pairEntries([['tokened', 1]]);
  ledger.apply(14, again, 0, again.length);
  assert.deepEqual([ledger.pendingKeys, holds('tokened')], [keys + 1, true]);
});

test('a read that saw a later owner adds nothing', () => {
  assert.equal(pendingOf(pendingLedger(), { epoch: EPOCH + 1, lsn: 10 }), undefined);
});
