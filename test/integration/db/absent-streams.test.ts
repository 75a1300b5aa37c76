import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import { AbsentStreams, type FinishedStream } from '#product/db/absent-streams.js';
import type { Logger } from '#product/core/logger.js';
import { connectTo } from '../../support/database.js';
import { SuiteDatabase } from '../../support/migrated-database.js';

const NODE = randomUUID();

describe('Open rows of streams that are not in the data directory', () => {
  const database = new SuiteDatabase();

  /** Makes an open row of this node at LSN 42, silent for an hour, with a claim or none. Returns stream and claim. */
  async function makeRow({ isClaimed = true } = {}): Promise<{ stream: string; claim: string }> {
    const [stream, claim] = [randomUUID(), randomUUID()];
    await database.query(
      `insert into journal_checkpoints (stream, node, epoch, lsn, shard, journal, heard_at)
       values ($1, $2, $3, 42, 0, 'file', now() - interval '1 hour')`,
      stream,
      NODE,
      isClaimed ? 7 : 0,
    );
    if (isClaimed)
      await database.query(
        'insert into journal_claims (stream, epoch, claim, lsn) values ($1, 7, $2, 0)',
        stream,
        claim,
      );
    return { stream, claim };
  }

  /** Looks as often as asked. Returns what was said, and whether the row is retired. */
  async function look(
    stream: string,
    {
      finished,
      here = () => [],
      rounds = 1,
    }: { finished?: FinishedStream; here?: () => readonly string[] | undefined; rounds?: number },
  ): Promise<{ readonly said: readonly string[]; readonly isRetired: boolean }> {
    const said: string[] = [];
    const log = (level: string) => (fields: { stream: string }, message: string) => {
      if (fields.stream === stream) said.push(`${level}: ${message}`);
    };
    const logger = { info: log('info'), warn: log('warn'), error: log('error') } as unknown as Logger;
    const known = new Map(finished === undefined ? [] : [[stream, finished]]);
    const streams = new AbsentStreams({ node: NODE, here, finished: () => known, logger });
    const connection = await connectTo(database.url);
    try {
      for (let round = 0; round < rounds; round += 1) await streams.look(connection);
    } finally {
      await connection.close();
    }
    const [row] = await database.query<{ retired: boolean }>(
      'select retired_at is not null as retired from journal_checkpoints where stream = $1',
      stream,
    );
    return { said, isRetired: row?.retired === true };
  }

  test('a stream that was finished at the LSN of its row is retired again, and nothing is lost', async () => {
    const { stream, claim } = await makeRow();
    const { said, isRetired } = await look(stream, { finished: { lsn: 42, claims: [claim] } });
    assert.match(said.join('\n'), /^info: Retired a finished stream again/);
    assert.ok(isRetired);
  });

  test('a stream that was finished above the LSN of its row is retired, and the loss is said', async () => {
    const { stream, claim } = await makeRow();
    const { said, isRetired } = await look(stream, { finished: { lsn: 50, claims: [claim] } });
    assert.match(said.join('\n'), /^error: .* LSN 43 to 50 are lost/);
    assert.ok(isRetired);
  });

  for (const [what, finishedAt, owner] of [
    ['beyond what was finished here', 41, 'ours'],
    ['of another owner', 42, 'theirs'],
    ['of an epoch whose claim is missing', 42, 'none'],
  ] as const) {
    test(`a row ${what} stays, with one warning`, async () => {
      const { stream, claim } = await makeRow();
      if (owner === 'none') await database.query('delete from journal_claims where stream = $1', stream);
      const finished = { lsn: finishedAt, claims: [owner === 'theirs' ? randomUUID() : claim] };
      const { said, isRetired } = await look(stream, { finished, rounds: 2 });
      assert.equal(said.length, 1);
      assert.match(said.join('\n'), /^warn: .* has no journal here/);
      assert.ok(!isRetired);
    });
  }

  test('a row that was never claimed is ours at epoch 0', async () => {
    const { stream } = await makeRow({ isClaimed: false });
    assert.ok((await look(stream, { finished: { lsn: 42, claims: [] } })).isRetired);
  });

  test('while the directory cannot be read, and for streams that are there, nothing is said', async () => {
    const { stream, claim } = await makeRow();
    for (const here of [() => undefined, () => [stream]]) {
      const { said, isRetired } = await look(stream, { here, finished: { lsn: 42, claims: [claim] } });
      assert.deepEqual(said, []);
      assert.ok(!isRetired);
    }
  });
});
