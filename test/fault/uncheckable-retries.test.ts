/**
 * Idempotent requests around clean stops, starts without the database, wrong clocks and streams that have expired: each counts
 * once, or is refused, or is put aside, and never counts twice.
 */
import assert from 'node:assert/strict';
import type { CountedNode } from '../support/counted-node.js';
import { runStatements } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { fastClockEnvironment } from '../support/fast-clock.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand } from '../support/journal-command.js';
import { imbalances, scrape } from '../support/metrics.js';
import { assertCreated } from '../support/problem.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, kill, NEVER_MS, testNode } from '../support/node-test.js';
import { rowsOf } from '../support/journal-servers.js';

const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };

function once(node: CountedNode, idempotencyKey: string): ReturnType<typeof increment> {
  return increment(node.url, { once: 1 }, { headers: { 'Idempotency-Key': idempotencyKey } });
}

testNode(
  'after a clean stop, a start without the database takes plain requests and refuses idempotent ones',
  env,
  async ({ node, databaseUrl, proxy }) => {
    const first = await node.start();
    assertCreated(await once(node, 'a'));
    assert.deepEqual(await first.stop(), CLEAN, first.output);
    await proxy.refuse();
    const second = await node.start();
    assertCreated(await increment(node.url, { plain: 1 }));
    const refused = await once(node, 'b');
    assert.equal(refused.status, 503, refused.body);
    assert.match(refused.body, /"code":"starting"/);
    assert.ok(refused.headers['retry-after'] !== undefined);
    const readiness = await send(node.url, '/readyz');
    assert.equal(readiness.status, 200);
    assert.match(
      readiness.body,
      /Requests with an Idempotency-Key are refused until rows of journal_checkpoints cover them/,
    );
    await proxy.accept();
    await eventually('taken', async () => (await once(node, 'b')).status === 202);
    assertCreated(await once(node, 'a'));
    await eventually('ready', async () => (await send(node.url, '/readyz')).body === '{"status":"ok"}');
    assert.deepEqual(await second.stop(), CLEAN, second.output);
    assert.deepEqual(
      await committedSums(databaseUrl),
      new Map([
        ['once', 2n],
        ['plain', 1n],
      ]),
    );
  },
);

testNode(
  'idempotent requests that came while the row of a new stream could not be made are taken once it can',
  env,
  async ({ node, databaseUrl, proxy }) => {
    const server = await node.start();
    await proxy.refuse();
    const refused = await once(node, 'a');
    assert.equal(refused.status, 503, refused.body);
    assert.match(refused.body, /"code":"starting"/);
    await proxy.accept();
    await eventually('taken', async () => (await once(node, 'a')).status === 202);
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['once', 1n]]));
  },
);

testNode(
  'after a kill, a start without the database takes idempotent requests under the open row, and each counts once',
  env,
  async ({ node, databaseUrl, proxy }) => {
    const first = await node.start();
    assertCreated(await once(node, 'a'));
    await kill(first);
    await proxy.refuse();
    // A second start without the database is covered by the same row.
    for (const idempotencyKey of ['a', 'b']) {
      const server = await node.start();
      assertCreated(await once(node, idempotencyKey));
      assertCreated(await once(node, 'c'));
      await kill(server);
    }
    await proxy.accept();
    const last = await node.start();
    assert.deepEqual(await last.stop(), CLEAN, last.output);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['once', 3n]]));
  },
);

/** Three hours pass in the database. */
const THREE_HOURS_PASS = `
  update journal_checkpoints set accepted_through = accepted_through - interval '3 hours',
    covered_from = covered_from - interval '3 hours', heard_at = heard_at - interval '3 hours';
  update idempotency_pruning set pruned_before = pruned_before - interval '3 hours', pruned_at = pruned_at - interval '3 hours';
  update idempotency_keys set claimed_at = claimed_at - interval '3 hours'`;

testNode(
  'a fast clock moves no time in the database, and a retry elsewhere counts once',
  env,
  async ({ node, makeNode, databaseUrl, proxy }) => {
    const other = await makeNode();
    const window = { IDEMPOTENCY_WINDOW_HOURS: '1' };
    const fast = await node.start({ ...fastClockEnvironment(2), ...window });
    assertCreated(await once(node, 'a'));
    await node.flush();
    const ahead = `select count(*)::int as rows from journal_checkpoints
                   where greatest(accepted_through, covered_from, heard_at, created_at) > now()`;
    assert.deepEqual(await rowsOf(databaseUrl, ahead), [{ rows: 0 }]);
    // The node is cut off with a retry in its journal, which another node counts.
    await proxy.refuse();
    assertCreated(await once(node, 'b'));
    const right = await other.start(window);
    assertCreated(await once(other, 'b'));
    assert.deepEqual(await right.stop(), CLEAN, right.output);
    await runStatements(databaseUrl, THREE_HOURS_PASS);
    const pruning = await other.start(window);
    const keys = async (): Promise<unknown> => rowsOf(databaseUrl, 'select token from idempotency_keys order by token');
    await eventually('the pruner has run', async () => {
      const [row] = await rowsOf(
        databaseUrl,
        `select pruned_at > now() - interval '1 hour' as ran from idempotency_pruning`,
      );
      return row?.['ran'] === true;
    });
    assert.deepEqual(await keys(), [{ token: 'a' }, { token: 'b' }], 'the node that is cut off holds the pruning up');
    await proxy.accept();
    assert.deepEqual(await fast.stop(), CLEAN, fast.output);
    assert.deepEqual(await pruning.stop(), CLEAN, pruning.output);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['once', 2n]]));
  },
);

/** The stream of the node has not been heard of for longer than STREAM_EXPIRY_DAYS, and the pruner has run for long. */
const AGE = `
  update journal_checkpoints set heard_at = now() - interval '7 days 1 minute', accepted_through = accepted_through - interval '7 days';
  update idempotency_pruning set gap_at = now() - interval '61 minutes'`;

testNode(
  'an expired stream is retired with a line; when its directory turns up, plain requests count and others are put aside',
  env,
  async ({ node, makeNode, databaseUrl, proxy }) => {
    const other = await makeNode();
    const first = await node.start();
    assertCreated(await increment(node.url, { plain: 1 }));
    assertCreated(await once(node, 'a'));
    await kill(first);
    await proxy.refuse();
    // Times in journals and of coverage are whole seconds, so the pruner must come in a later one.
    const [later] = await rowsOf(databaseUrl, 'select clock_timestamp()::text as at from pg_sleep(1)');
    await runStatements(databaseUrl, AGE);
    const pruning = await other.start();
    await pruning.waitFor('it no longer delays the pruning of idempotency keys');
    await eventually('pruned_before has moved past the stream', async () => {
      const text = `select pruned_before > '${String(later?.['at'])}' as moved from idempotency_pruning`;
      return (await rowsOf(databaseUrl, text))[0]?.['moved'] === true;
    });
    assert.deepEqual(await pruning.stop(), CLEAN, pruning.output);
    await proxy.accept();
    const back = await node.start();
    await node.flush();
    const page = await scrape(node.url);
    const counts = ['recovered', 'flushed', 'rejected'].map((name) => page.total(`increments_${name}_total`));
    assert.deepEqual([...counts, ...imbalances(page).values()], [2, 1, 1, 0]);
    const end = await back.stop();
    assert.deepEqual(end, { code: 1, signal: null }, back.output);
    assert.match(back.output, /1 idempotent requests of stream \S+ with 1 increments can no longer be checked/);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['plain', 1n]]));
    const [row] = await rowsOf(
      databaseUrl,
      `select convert_from(key, 'UTF8') as key, amount, token, sqlstate, lsn::int, accepted_after < now() as timed
       from rejected_increments`,
    );
    assert.deepEqual(row, { key: 'once', amount: '1', token: 'a', sqlstate: null, lsn: 2, timed: true });
    // Counting it again by hand is the operator's decision, so --retry leaves it.
    const retried = await runJournalCommand(['rejected', '--retry'], { DATABASE_URL: databaseUrl });
    assert.match(retried.output, /0 rows counted, 0 rows refused again/);
    const listed = await runJournalCommand(['rejected'], { DATABASE_URL: databaseUrl });
    assert.match(listed.output, /"idempotencyKey":"a"/);
    const counting = ['rejected', '--retry', '--idempotent', '--prefix', 'a'];
    const counted = await runJournalCommand(counting, { DATABASE_URL: databaseUrl });
    assert.match(counted.output, /^1 request counted/m);
    const again = await runJournalCommand(counting, { DATABASE_URL: databaseUrl });
    assert.match(again.output, /^0 requests counted/m);
    assert.deepEqual(
      await committedSums(databaseUrl),
      new Map([
        ['once', 1n],
        ['plain', 1n],
      ]),
    );
    assert.deepEqual(await rowsOf(databaseUrl, 'select * from rejected_increments'), []);
  },
);

testNode(
  'after a gap between two rounds of the pruner nothing expires for an hour',
  env,
  async ({ node, makeNode, databaseUrl }) => {
    const other = await makeNode();
    const first = await node.start();
    assertCreated(await once(node, 'a'));
    await kill(first);
    await runStatements(databaseUrl, AGE);
    await runStatements(databaseUrl, `update idempotency_pruning set pruned_at = now() - interval '11 minutes'`);
    const pruning = await other.start();
    assert.deepEqual(await pruning.stop(), CLEAN, pruning.output);
    const open = 'select count(*)::int as rows from journal_checkpoints where retired_at is null';
    assert.deepEqual(await rowsOf(databaseUrl, open), [{ rows: 1 }]);
  },
);
