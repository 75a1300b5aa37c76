import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CommittedFlush } from '#product/shard-worker/thread/flush/range-flush.js';
import { SetAsideLog } from '#product/shard-worker/thread/flush/set-aside-log.js';
import { ManualClock } from '../../../../support/manual-clock.js';

/** A log on a manual clock, with its lines. */
function scene(): { readonly clock: ManualClock; readonly log: SetAsideLog; readonly lines: string[] } {
  const clock = new ManualClock();
  const lines: string[] = [];
  const log = new SetAsideLog(clock, (fields, message) => {
    lines.push(`${JSON.stringify(fields)} ${message}`);
  });
  return { clock, log, lines };
}

/** A flush with rows that PostgreSQL refused. */
function refused(rejected: number, keys: number, key: string): CommittedFlush {
  const rejectedKeys = { keys, key, reason: 'no', sqlState: 'P0001' };
  const uncovered = { requests: 0, increments: 0 };
  const counts = { keys: 0, increments: rejected, deduplicated: 0, recorded: 0, mismatches: 0 };
  return { ...counts, rejected, rejectedKeys, uncovered };
}

test('rows that are set aside are logged at once with key, SQLSTATE and count', () => {
  const { log, lines } = scene();
  log.note('stream', refused(7, 2, 'bad'), 0);
  assert.deepEqual(lines, [
    '{"keys":2,"key":"bad","reason":"no","sqlState":"P0001","increments":7} ' +
      'PostgreSQL refused 2 keys (SQLSTATE P0001); 7 increments are kept in rejected_increments and not counted. ' +
      'List them with `npm run journal -- rejected`',
  ]);
});

test('there is one line a second, and it has the count of everything since the last one', () => {
  const { clock, log, lines } = scene();
  for (let flush = 0; flush < 20; flush += 1) {
    log.note('stream', refused(3, 1, `bad ${flush}`), 0);
    clock.advance(100);
  }
  assert.equal(lines.length, 2 + 1);
  assert.match(lines[1] ?? '', /"keys":9,"key":"bad 9".*; 27 increments are kept/);
  clock.advance(5000);
  const total = lines.reduce((sum, line) => sum + Number(/"increments":(\d+)/.exec(line)?.[1]), 0);
  assert.equal(total, 60);
  log.note('stream', refused(1, 1, 'later'), 0);
  assert.match(lines.at(-1) ?? '', /refused a key \(SQLSTATE P0001\); 1 increment is kept/);
});

test('the end of a shard writes what was not logged yet', () => {
  const { log, lines } = scene();
  log.note('stream', refused(1, 1, 'first'), 0);
  log.note('stream', refused(4, 1, 'second'), 0);
  assert.equal(lines.length, 1);
  log.close();
  assert.equal(lines.length, 2);
  log.close();
  assert.equal(lines.length, 2);
});

test('idempotent requests that cannot be checked any more are said with their stream', () => {
  const { log, lines } = scene();
  log.note(
    's',
    { ...refused(0, 0, ''), rejectedKeys: undefined as never, uncovered: { requests: 2, increments: 5 } },
    9,
  );
  assert.match(lines[0] ?? '', /"acceptedThrough":9} 2 idempotent requests of stream s with 5 increments/);
});
