import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RejectedLog } from '#product/shard-worker/thread/flush/rejected-log.js';
import { ManualClock } from '../../../../support/manual-clock.js';

/** A log on a manual clock, with its lines. */
function scene(): { readonly clock: ManualClock; readonly log: RejectedLog; readonly lines: string[] } {
  const clock = new ManualClock();
  const lines: string[] = [];
  const log = new RejectedLog(clock, (fields, message) => {
    lines.push(`${JSON.stringify(fields)} ${message}`);
  });
  return { clock, log, lines };
}

function refused(keys: number, key: string): Parameters<RejectedLog['note']>[1] {
  return { keys, key, reason: 'no', sqlState: 'P0001' };
}

test('rows that are set aside are logged at once with key, SQLSTATE and count', () => {
  const { log, lines } = scene();
  log.note(7, refused(2, 'bad'));
  assert.deepEqual(lines, [
    '{"keys":2,"key":"bad","reason":"no","sqlState":"P0001","increments":7} ' +
      'PostgreSQL refused 2 keys (SQLSTATE P0001); 7 increments are kept in rejected_increments and not counted. ' +
      'List them with `npm run journal -- rejected`',
  ]);
});

test('there is one line a second, and it has the count of everything since the last one', () => {
  const { clock, log, lines } = scene();
  for (let flush = 0; flush < 20; flush += 1) {
    log.note(3, refused(1, `bad ${flush}`));
    clock.advance(100);
  }
  assert.equal(lines.length, 2 + 1);
  assert.match(lines[1] ?? '', /"keys":9,"key":"bad 9".*; 27 increments are kept/);
  clock.advance(5000);
  const total = lines.reduce((sum, line) => sum + Number(/"increments":(\d+)/.exec(line)?.[1]), 0);
  assert.equal(total, 60);
  log.note(1, refused(1, 'later'));
  assert.match(lines.at(-1) ?? '', /refused a key \(SQLSTATE P0001\); 1 increment is kept/);
});

test('the end of a shard writes what was not logged yet', () => {
  const { log, lines } = scene();
  log.note(1, refused(1, 'first'));
  log.note(4, refused(1, 'second'));
  assert.equal(lines.length, 1);
  log.close();
  assert.equal(lines.length, 2);
  log.close();
  assert.equal(lines.length, 2);
});
