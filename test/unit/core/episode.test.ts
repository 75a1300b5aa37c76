import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Episode } from '#product/core/episode.js';
import { ManualClock } from '../../support/manual-clock.js';

test('an episode has a line when it begins, one each minute while it is met, and one when it ends', () => {
  const clock = new ManualClock();
  const episode = new Episode(clock);
  assert.equal(episode.end(), undefined);
  assert.deepEqual(episode.notice(3), { kind: 'begins', seconds: 0, since: 3, total: 3 });
  const lines = [];
  for (let second = 1; second <= 130; second += 1) {
    clock.advance(1000);
    lines.push(episode.notice(2));
  }
  assert.deepEqual(
    lines.filter((line) => line !== undefined),
    [
      { kind: 'lasts', seconds: 60, since: 120, total: 123 },
      { kind: 'lasts', seconds: 120, since: 120, total: 243 },
    ],
  );
  assert.equal(episode.isOn, true);
  assert.deepEqual(episode.end(), { kind: 'ended', seconds: 130, since: 20, total: 263 });
  assert.equal(episode.isOn, false);
  assert.equal(episode.end(), undefined);
  assert.equal(episode.notice()?.kind, 'begins');
});
