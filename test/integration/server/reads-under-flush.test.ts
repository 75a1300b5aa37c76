import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { parseCounter } from '../../support/counters.js';
import { flushAll, increment, send } from '../../support/http.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { SuiteServer } from '../../support/suite-server.js';

const LOAD_MS = 3000;
const WRITERS = 8;
const READERS = 4;
const KEYS = 3;

interface Tally {
  attempted: bigint;
  acknowledged: bigint;
}

describe('reads during flushes', () => {
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: '20', SHARDS: '3' });

  test('a reader never sees less than was acknowledged, more than was attempted, or a decrease', async (context) => {
    const seed = Number(process.env['SEED'] ?? randomInt(2 ** 32));
    context.diagnostic(`SEED=${seed}`);
    const random = new Mulberry32(seed);
    const agent = new Agent({ keepAlive: true });
    const tallies = Array.from({ length: KEYS }, (): Tally => ({ attempted: 0n, acknowledged: 0n }));
    const tallyOf = (key: number): Tally => {
      const tally = tallies[key];
      assert.ok(tally);
      return tally;
    };
    const until = performance.now() + LOAD_MS;
    const end = (): boolean => performance.now() >= until;

    const write = async (): Promise<void> => {
      while (!end()) {
        const amounts = tallies.map(() => BigInt(random.below(1000)));
        tallies.forEach((tally, key) => (tally.attempted += amounts[key] ?? 0n));
        const body = `{${amounts.map((amount, key) => `"watched-${key}":${amount}`).join(',')}}`;
        const answer = await increment(node.url, body, { agent });
        assert.equal(answer.status, 202, answer.body);
        tallies.forEach((tally, key) => (tally.acknowledged += amounts[key] ?? 0n));
      }
    };
    let reads = 0;
    let mixed = 0;
    const check = (key: number, document: string, acknowledged: bigint, last: bigint[]): void => {
      const { attempted } = tallyOf(key);
      const { sum, committed, pending } = parseCounter(document);
      assert.ok(sum >= acknowledged, `${sum} is less than the ${acknowledged} acknowledged`);
      assert.ok(sum <= attempted, `${sum} is more than the ${attempted} attempted`);
      assert.ok(sum >= (last[key] ?? 0n), `${sum} is less than the ${last[key]} read before`);
      last[key] = sum;
      reads += 1;
      if (committed > 0n && pending > 0n) mixed += 1;
    };
    const read = async (): Promise<void> => {
      const last = tallies.map(() => 0n);
      while (!end()) {
        const key = random.below(KEYS);
        const acknowledged = tallyOf(key).acknowledged;
        const answer = await send(node.url, `/counters/watched-${key}`, { agent });
        if (answer.status === 404 && acknowledged === 0n) continue;
        assert.equal(answer.status, 200, answer.body);
        check(key, answer.body, acknowledged, last);
      }
    };
    const query = tallies.map((_, key) => `key=watched-${key}`).join('&');
    const readAll = async (): Promise<void> => {
      const last = tallies.map(() => 0n);
      while (!end()) {
        const acknowledged = tallies.map((tally) => tally.acknowledged);
        const answer = await send(node.url, `/counters?${query}`, { agent });
        assert.equal(answer.status, 200, answer.body);
        const documents = /^\{"counters":\[(.*)\]\}$/.exec(answer.body)?.[1]?.split(/(?<=\}),/) ?? [];
        assert.equal(documents.length, KEYS, answer.body);
        documents.forEach((document, key) => {
          if (!document.includes('"sum":null')) check(key, document, acknowledged[key] ?? 0n, last);
          else assert.equal(acknowledged[key], 0n);
        });
      }
    };
    const readers = Array.from({ length: READERS }, (_, reader) => (reader % 2 === 0 ? read : readAll));
    await Promise.all([...Array.from({ length: WRITERS }, write), ...readers.map((reader) => reader())]);
    agent.destroy();
    assert.ok(mixed > 0, `of ${reads} reads none was made of committed and pending parts`);
    await flushAll(node.url);
    const table = await node.table();
    tallies.forEach((tally, key) => {
      assert.equal(tally.acknowledged, tally.attempted);
      assert.equal(table.get(`watched-${key}`), tally.attempted);
    });
  });
});
