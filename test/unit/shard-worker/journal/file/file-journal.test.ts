import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { listStreams } from '#product/shard-worker/journal/file/journal-directory.js';
import { journalOptions, incrementRecord, replayed, temporaryDirectory } from '../../../../support/journal-fixtures.js';

test('a reopened journal replays the records above the checkpoint in order and takes more', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  assert.equal(journal.append([incrementRecord('a', 1)]), 1);
  assert.equal(journal.append([incrementRecord('b', -2), incrementRecord('ü', 3)]), 3);
  assert.equal(journal.syncedLsn, 3);
  journal.close();

  const reopened = openFileJournal({ ...options, stream: journal.stream });
  const recovery = reopened.recover(1);
  assert.deepEqual(
    { endLsn: recovery.endLsn, records: recovery.records, torn: recovery.torn },
    { endLsn: 3, records: 2, torn: undefined },
  );
  assert.equal(reopened.append([incrementRecord('d', 4)]), 4);
  assert.deepEqual(replayed(reopened, 1), ['2:b=-2', '3:ü=3']);
  reopened.close();

  const again = openFileJournal({ ...options, stream: journal.stream });
  again.recover(1);
  assert.deepEqual(replayed(again, 1), ['2:b=-2', '3:ü=3', '4:d=4']);
  again.close();
});

test('a journal without an append leaves nothing on disk', (t) => {
  const options = journalOptions(temporaryDirectory(t));
  const journal = createFileJournal(options);
  assert.equal(journal.append([]), 0);
  journal.prune(0);
  journal.close();
  assert.equal(existsSync(options.directory), false);
  assert.deepEqual(listStreams(options.disk, options.directory), []);
});
