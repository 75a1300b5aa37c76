/**
 * A database that went back behind what a broker still has: streams with missing records end, with the LSNs in the log. In a file of its
 * own: the tests wait half a minute for a limit of time of the product, and other files run meanwhile.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { incrementTaken } from '../../support/http.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { committedSum, rowsOf, type Environment } from '../../support/journal-servers.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { own } from '../../support/own.js';
import { assertCreated } from '../../support/problem.js';
import { startServer } from '../../support/server.js';

/** More than the product waits for a replica that is behind. */
const ENDED_MS = 120_000;
const REQUESTS = 12;

describe('a database that went back beyond the keep time', { skip: natsServerMissing() }, () => {
  test('a stream whose records were removed ends where it is counted to; its living writer begins another, and skip counts the rest', async (t) => {
    const database = own(t, await createTestDatabase());
    const broker = own(t, await NatsServer.start());
    const env: Environment = {
      ...{ DATABASE_URL: database.url, JOURNAL: broker.journal, SHARDS: '1' },
      ...{ FLUSH_INTERVAL_MS: '100', JOURNAL_KEEP_SECONDS: '0' },
    };
    const ingest = own(t, await startServer({ env: { ...env, ROLE: 'ingest' } }));
    const first = own(t, await startServer({ env: { ...env, ROLE: 'roll-up' } }));
    for (let count = 1; count <= REQUESTS; count += 1) {
      assertCreated(await incrementTaken(ingest.url, { gone: 1 }));
      // A flush for each, so that all but the last message can go.
      await eventually('its sum', async () => (await committedSum(database.url, 'gone')) === count);
    }
    await first.stop();
    await rowsOf(database.url, `update journal_checkpoints set lsn = 2`);
    await rowsOf(database.url, 'delete from counters');
    const [row] = await rowsOf<{ stream: string }>(database.url, 'select stream::text from journal_checkpoints');
    const stream = row?.stream ?? '';
    const second = own(t, await startServer({ env: { ...env, ROLE: 'roll-up' } }));
    await second.waitFor(`Stream ${stream} is ended at LSN 2: LSNs 3 to `, ENDED_MS);
    // The writer finds the fence with its next message. Whatever it still appends is behind the gap.
    await eventually('what the writer takes is counted', async () => {
      assertCreated(await incrementTaken(ingest.url, { after: 1 }));
      return (await committedSum(database.url, 'after')) > 0;
    });
    const command = /journal -- skip --stream (\S+) --above (\d+)/.exec(second.output);
    assert.equal(command?.[1], stream);
    const above = command[2] ?? '';
    const wrong = await runJournalCommand(['skip', '--stream', stream, '--above', '3'], env);
    assert.equal(wrong.code, 1, wrong.output);
    assert.match(
      wrong.output,
      new RegExp(`NATS has no record at LSN 4; the next one is \\d+: use --above ${above}\\.`),
    );
    const asked = await runJournalCommand(['skip', '--stream', stream, '--above', above], env);
    assert.equal(asked.code, 1, asked.output);
    assert.match(asked.output, new RegExp(`LSNs 3 to ${above} stay uncounted`));
    assert.equal(await committedSum(database.url, 'gone'), 0);
    const done = await runJournalCommand(['skip', '--stream', stream, '--above', above, '--yes'], env);
    assert.equal(done.code, 0, done.output);
    await eventually('what follows the gap', async () => (await committedSum(database.url, 'gone')) >= 1);
    const open = `select 1 from journal_checkpoints where stream = '${stream}' and retired_at is null`;
    await eventually('its end', async () => (await rowsOf(database.url, open)).length === 0);
  });

  test('a stream of a writer that stopped, of which only the end is left, is not said to be counted', async (t) => {
    const database = own(t, await createTestDatabase());
    const broker = own(t, await NatsServer.start());
    const env: Environment = {
      ...{ DATABASE_URL: database.url, JOURNAL: broker.journal, SHARDS: '1' },
      ...{ FLUSH_INTERVAL_MS: '100', JOURNAL_KEEP_SECONDS: '0' },
    };
    const first = own(t, await startServer({ env: { ...env, ROLE: 'serve' } }));
    for (let count = 0; count < REQUESTS; count += 1) assertCreated(await incrementTaken(first.url, { gone: 1 }));
    await eventually('its sum', async () => (await committedSum(database.url, 'gone')) === REQUESTS);
    await first.stop();
    // The next server removes what is committed, down to the fence.
    const keeper = own(t, await startServer({ env: { ...env, ROLE: 'roll-up' } }));
    const [row] = await rowsOf<{ stream: string }>(database.url, 'select stream::text from journal_checkpoints');
    const stream = row?.stream ?? '';
    const manager = await jetstreamManager(own(t, await connect({ servers: broker.address })));
    await eventually('its records are removed', async () => {
      const { state } = await manager.streams.info('summing-counters', {
        subjects_filter: `summing-counters.${stream}`,
      });
      return Object.values(state.subjects ?? {}).join() === '1';
    });
    await keeper.stop();
    await rowsOf(database.url, `update journal_checkpoints set lsn = 2, retired_at = null where stream = '${stream}'`);
    const second = own(t, await startServer({ env: { ...env, ROLE: 'roll-up' } }));
    await second.waitFor(`Stream ${stream} is ended at LSN 2: LSN`, ENDED_MS);
    assert.doesNotMatch(second.output, /all of it is in counters/);
  });
});
