import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { journalCommand } from '#product/shard-worker/journal/journal-command.js';

test('a command names its stream, its LSN, and a data directory that is not the default', () => {
  assert.equal(
    journalCommand('rebind', '/var/lib/sums/journal/s', 's', 7),
    '`npm run journal -- rebind --stream s --above 7 --data-dir /var/lib/sums`',
  );
  assert.equal(
    journalCommand('accept', '/var/lib/sums/journal/s', 's', 0),
    '`npm run journal -- accept --stream s --above 0 --data-dir /var/lib/sums`',
  );
  assert.equal(journalCommand('dump', resolve('data/journal/s'), 's'), '`npm run journal -- dump --stream s`');
});

test('a shell takes the data directory of a command as one word', () => {
  for (const dataDir of ['/with space', "/it's", '/$HOME`id`', '/plain-1.2_3']) {
    const [, words = ''] = /--data-dir (.*)`$/.exec(journalCommand('dump', `${dataDir}/journal/s`, 's')) ?? [];
    assert.equal(execFileSync('/bin/sh', ['-c', `printf %s ${words}`], { encoding: 'utf8' }), dataDir);
  }
});
