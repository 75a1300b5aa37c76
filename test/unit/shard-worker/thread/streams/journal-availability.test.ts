import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JournalAvailability } from '#product/shard-worker/thread/streams/journal-availability.js';
import { ManualClock } from '../../../../support/manual-clock.js';

test('a journal that refuses or cannot be read is said at the start, once a minute, and at the end', () => {
  const clock = new ManualClock();
  const said: string[] = [];
  const log = (level: string, fields: { refusedGroups?: number }, message: string): void => {
    said.push(`${level} ${fields.refusedGroups ?? '-'} ${message}`);
  };
  const journal = new JournalAvailability({ clock, log }, 'NATS');
  journal.accept();
  journal.noticeReadable();
  assert.deepEqual(said, [], 'nothing was wrong');
  journal.noticeRefusedGroup();
  for (let second = 0; second < 61; second += 1) {
    journal.refuse(new Error('away'));
    journal.noticeRefusedGroup();
    clock.advance(1000);
  }
  assert.ok(journal.isRefusing);
  journal.accept();
  assert.ok(!journal.isRefusing);
  for (let second = 0; second < 61; second += 1) {
    journal.noticeUnreadable(new Error('away'));
    clock.advance(1000);
  }
  journal.noticeReadable();
  assert.deepEqual(said, [
    'warn 1 Journal in NATS unavailable; refusing increments until it takes them again',
    'warn 60 Journal in NATS still unavailable after 60 s; refusing increments until it takes them again',
    'info 62 The journal in NATS takes records again; taking increments',
    'warn - Journal in NATS unavailable; not reading records until it answers again',
    'warn - Journal in NATS still unavailable after 60 s; not reading records until it answers again',
    'info - The journal in NATS answers again',
  ]);
});
