import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { test } from 'node:test';
import { createTestDatabase, connectTo } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { startServer } from '../../support/server.js';

test('1,001 concurrent posts of 0 to 1000 to one key sum to 500500, in reads and in the table', async () => {
  const database = await createTestDatabase();
  const server = await startServer({ env: { DATABASE_URL: database.url } });
  const agent = new Agent({ keepAlive: true, maxSockets: 1001 });
  try {
    const amounts = Array.from({ length: 1001 }, (_, amount) => amount);
    const answers = await Promise.all(amounts.map((amount) => increment(server.url, { hits: amount }, { agent })));
    for (const answer of answers) assert.equal(answer.status, 202, answer.body);
    assert.equal((await send(server.url, '/key_sum?name=hits')).body, '500500');
    assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
    const connection = await connectTo(database.url);
    const rows = await connection.query<{ sum: string }>({ text: `select sum::text from counters where key = 'hits'` });
    await connection.close();
    assert.deepEqual(rows, [{ sum: '500500' }]);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  } finally {
    agent.destroy();
    await server.dispose();
    await database.drop();
  }
});
