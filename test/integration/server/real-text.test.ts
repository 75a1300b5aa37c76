import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, dirname } from 'node:path';
import { test } from 'node:test';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { flushAll, increment } from '../../support/http.js';
import { startServer } from '../../support/server.js';
import { own } from '../../support/own.js';

/** A text from a dependency: some thousand words with punctuation. */
const text = join(
  dirname(createRequire(import.meta.url).resolve('typescript/package.json')),
  'ThirdPartyNoticeText.txt',
);

test('the words of a real text, one increment each, have the same counts as with sort and uniq', async (t) => {
  const words = readFileSync(text, 'latin1').match(/[A-Za-z]+/g) ?? [];
  assert.ok(words.length > 1000);
  const database = own(t, await createTestDatabase());
  const server = own(t, await startServer({ env: { DATABASE_URL: database.url, SHARDS: '3' } }));
  const lines = words.map((word) => `{"${word}":1}`);
  for (let from = 0; from < lines.length; from += 500) {
    const body = lines.slice(from, from + 500).join('\n');
    const headers = { 'content-type': 'application/x-ndjson', 'content-length': String(body.length) };
    assert.equal((await increment(server.url, body, { headers })).status, 202);
  }
  await flushAll(server.url);
  const connection = await connectTo(database.url);
  const rows = await connection.query<{ key: string; sum: string }>({ text: 'select key, sum::text from counters' });
  await connection.close();
  const counted = rows.map(({ key, sum }) => `${sum} ${key}`).sort();
  assert.deepEqual(counted, countIndependently());
  assert.deepEqual(await server.stop(), { code: 0, signal: null });
});

/** "COUNT WORD" lines, made by sort and uniq. */
function countIndependently(): readonly string[] {
  const pipeline = `LC_ALL=C tr -cs A-Za-z '\\n' < "$1" | grep . | LC_ALL=C sort | uniq -c`;
  const output = execFileSync('sh', ['-c', pipeline, 'sh', text]).toString();
  return output
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .sort();
}
