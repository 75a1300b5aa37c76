import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { journalCommand } from '#product/shard-worker/journal/journal-command.js';

test('a command names its stream, its LSN, and a data directory that is not the default', () => {
  assert.equal(
    journalCommand('rebind', [{ stream: 's', location: '/var/lib/sums/journal/s', above: 7 }]),
    '`npm run journal -- rebind --stream s --above 7 --data-dir /var/lib/sums`',
  );
  assert.equal(
    journalCommand('accept', [
      { stream: 's', location: '/var/lib/sums/journal/s', above: 0 },
      { stream: 't', location: '/var/lib/sums/journal/t', above: 4 },
    ]),
    '`npm run journal -- accept --stream s --above 0 --stream t --above 4 --data-dir /var/lib/sums`',
  );
  const inDefault = { stream: 's', location: resolve('data/journal/s') };
  assert.equal(journalCommand('dump', [inDefault]), '`npm run journal -- dump --stream s`');
});

test('a shell takes the data directory of a command as one word', () => {
  for (const dataDir of ['/with space', "/it's", '/$HOME`id`', '/plain-1.2_3']) {
    const command = journalCommand('dump', [{ stream: 's', location: `${dataDir}/journal/s` }]);
    const [, words = ''] = /--data-dir (.*)`$/.exec(command) ?? [];
    assert.equal(execFileSync('/bin/sh', ['-c', `printf %s ${words}`], { encoding: 'utf8' }), dataDir);
  }
});
