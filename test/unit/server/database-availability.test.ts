import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { databaseCauses, databaseProblem, type DatabaseProblem } from '#product/db/database-problem.js';
import { CounterError } from '#product/core/errors.js';
import { DatabaseAvailability } from '#product/server/database-availability.js';
import { ManualClock } from '../../support/manual-clock.js';

const refused: DatabaseProblem = { cause: 'connection-refused', reason: 'refused' };
const silent: DatabaseProblem = { cause: 'no-answer', reason: 'silent' };

interface Line {
  readonly fields: object;
  readonly message: string;
}

function scene() {
  const lines: Line[] = [];
  const say = (fields: object, message: string): void => void lines.push({ fields, message });
  const clock = new ManualClock();
  const logger = { debug: say, info: say, warn: say, error: say };
  return { lines, clock, availability: new DatabaseAvailability(clock, logger, 'buffering', () => 7) };
}

test('an outage of four shards is one line when it begins and one when the last shard is back', () => {
  const { lines, clock, availability } = scene();
  for (const shard of [2, 0, 3, 1]) {
    availability.unavailable(shard, shard === 2 ? silent : refused);
    availability.unavailable(shard, refused);
    clock.advance(100);
  }
  assert.equal(availability.isAvailable, false);
  clock.advance(30_000);
  for (const shard of [0, 1, 2, 3]) {
    assert.equal(availability.isAvailable, false);
    availability.available(shard, 10);
  }
  assert.equal(availability.isAvailable, true);
  assert.deepEqual(lines, [
    {
      fields: { cause: 'connection-refused', shards: [0, 1, 2, 3] },
      message: 'PostgreSQL unavailable; buffering (reason: refused)',
    },
    {
      fields: { shards: [0, 1, 2, 3], seconds: 30.4, pending: 40 },
      message: 'PostgreSQL available again after 30.4 s; 40 pending increments waited for it',
    },
  ]);
});

test('each minute of an outage has a line that says how long it has lasted and what is pending', () => {
  const { lines, clock, availability } = scene();
  availability.unavailable(0, refused);
  clock.advance(130_000);
  availability.available(0, 10);
  clock.advance(600_000);
  assert.deepEqual(
    lines.map(({ message }) => message),
    [
      'PostgreSQL unavailable; buffering (reason: refused)',
      'PostgreSQL still unavailable after 61 s; buffering; 7 are pending (reason: refused)',
      'PostgreSQL still unavailable after 121 s; buffering; 7 are pending (reason: refused)',
      'PostgreSQL available again after 130 s; 10 pending increments waited for it',
    ],
  );
  assert.equal(clock.timers, 0);
});

test('another cause is one more line, and causes that alternate do not fill the log', () => {
  const { lines, clock, availability } = scene();
  for (let second = 0; second < 60; second += 1) {
    for (const shard of [0, 1]) availability.unavailable(shard, second % 4 < 2 ? refused : silent);
    clock.advance(1_000);
  }
  assert.match(lines[1]?.message ?? '', /^PostgreSQL still unavailable after 3 s, now for another reason; .*silent/);
  assert.ok(lines.length > 2 && lines.length <= 12, `${lines.length} lines in a minute`);
});

test('a shard that is available and was so before says nothing, and an outage of a moment says both lines', () => {
  const { lines, availability } = scene();
  availability.available(0, 5);
  assert.deepEqual(lines, []);
  availability.unavailable(0, refused);
  availability.available(1);
  availability.available(0, 5);
  assert.deepEqual(
    lines.map(({ message }) => message),
    [
      'PostgreSQL unavailable; buffering (reason: refused)',
      'PostgreSQL available again after 0 s; 5 pending increments waited for it',
    ],
  );
});

/** How a connection to this URL fails, as a shard would see it. */
async function problemAt(url: string): Promise<DatabaseProblem> {
  try {
    await connect(parseDatabaseUrl(url), { applicationName: 'test', connectTimeoutMs: 500 });
  } catch (cause) {
    return databaseProblem(new CounterError('database-unavailable', 'The database is unavailable.', { cause }));
  }
  throw new Error(`${url} answers`);
}

test('a refused connection, an unknown host and a server that does not answer have causes of their own', async () => {
  const server = createServer((socket) => void socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const url = `postgres://u:p@127.0.0.1:${address.port}/d`;
  assert.deepEqual(await problemAt(url), { cause: 'no-answer', reason: 'no answer of PostgreSQL came in time' });
  await new Promise((resolve) => server.close(resolve));
  assert.deepEqual(await problemAt(url), {
    cause: 'connection-refused',
    reason: `no server listens at this address (connect ECONNREFUSED 127.0.0.1:${address.port})`,
  });
  assert.equal((await problemAt('postgres://u:p@no-such-host.invalid:5432/d')).cause, 'unknown-host');
});

test('docs/errors.md lists every cause of an unavailable database', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../../docs/errors.md'), 'utf8');
  const [, section = ''] = text.split('## Causes of an unavailable database\n');
  const listed = Array.from(section.split('\n## ')[0]?.matchAll(/^\| `([a-z-]+)` \|/gm) ?? [], ([, cause]) => cause);
  assert.deepEqual(listed, Object.keys(databaseCauses));
});
