import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import pg from 'pg';
import { parseDatabaseUrl, type Session, type Statement } from '#product/db/connection.js';
import { OutcomeUnknownError, StatementRefusedError } from '#product/db/database-errors.js';
import { RESET_TIMEOUTS, SET_TIMEOUTS } from '#product/db/session-statements.js';
import { FlushStatement, type FlushRequest } from '#product/db/flush-statement.js';
import { ShardConnection } from '#product/db/shard-connection.js';

/** The outcome of a statement: a row, a SQLSTATE, or a lost connection. */
type Fate = 'done' | 'lost' | { readonly refused: string };

/** A server that answers flushes as the test says, and records what it received. */
class ScriptedServer {
  readonly flushes: Fate[] = [];
  /** The limits that were set, 'reset', and the client's time limit of each flush. */
  readonly heard: string[] = [];
  resetFate: Fate = 'done';
  connections = 0;

  readonly flush = new FlushStatement(
    new ShardConnection(parseDatabaseUrl('postgres://u@localhost/d'), {
      applicationName: 'scripted',
      connect: () => Promise.resolve(this.#session()),
    }),
  );

  #session(): Session {
    this.connections += 1;
    const session = {
      backend: { pid: 1, startedAt: '1' },
      lost: false,
      query: async (statement: Statement) => this.#answer(this.#fateOf(statement), session),
      close: () => Promise.resolve(),
      destroy: () => void (session.lost = true),
    };
    return session as unknown as Session;
  }

  #fateOf({ text, values = [], timeoutMs }: Statement): Fate {
    if (text === SET_TIMEOUTS) {
      this.heard.push(values.join(' '));
      return 'done';
    }
    if (text === RESET_TIMEOUTS) {
      this.heard.push('reset');
      return this.resetFate;
    }
    this.heard.push(timeoutMs === undefined ? 'flush' : `flush, ${timeoutMs} ms`);
    return this.flushes.shift() ?? 'done';
  }

  #answer(fate: Fate, session: { lost: boolean }): Promise<object[]> {
    if (fate === 'done') return Promise.resolve([{ fenced: 1, claimed: 0, keys: 1, unclaimed: null }]);
    if (fate === 'lost') {
      session.lost = true;
      return Promise.reject(new Error('Connection terminated unexpectedly'));
    }
    const error = new pg.DatabaseError('refused', 0, 'error');
    error.code = fate.refused;
    error.severity = 'ERROR';
    return Promise.reject(error);
  }
}

function request(keyBytes = 100): FlushRequest {
  const at = { stream: randomUUID(), epoch: 0, fromLsn: 0, toLsn: 1, acceptedThrough: 0 };
  return { ...at, keys: Buffer.alloc(keyBytes), amounts: Buffer.alloc(0) };
}

/** A flush that may take 60 s. */
const LARGE_BYTES = 6_000_000;

test('a large flush has limits of its own, which end with it, whatever its outcome', async () => {
  const server = new ScriptedServer();
  const { flush, heard } = server;
  await flush.run(request(LARGE_BYTES));
  assert.deepEqual(heard.splice(0), ['60s 90s', 'flush, 70000 ms', 'reset']);
  server.flushes.push({ refused: '55P03' });
  await assert.rejects(flush.run(request(LARGE_BYTES)), StatementRefusedError);
  assert.deepEqual(heard.splice(0), ['60s 90s', 'flush, 70000 ms', 'reset']);
  assert.equal(server.connections, 1);
});

test('a connection that refuses the usual limits is dropped, and a lost one is not reopened for them', async () => {
  const server = new ScriptedServer();
  const { flush, heard } = server;
  server.resetFate = { refused: '57014' };
  await flush.run(request(LARGE_BYTES));
  await flush.run(request());
  assert.equal(server.connections, 2);
  heard.splice(0);
  server.flushes.push('lost');
  await assert.rejects(flush.run(request(LARGE_BYTES)), OutcomeUnknownError);
  assert.deepEqual(heard, ['60s 90s', 'flush, 70000 ms']);
  assert.equal(server.connections, 2);
});

test('each timeout doubles the limit of a flush, up to an hour, and each success halves it', async () => {
  const server = new ScriptedServer();
  const { flush, heard } = server;
  const limits = (): readonly string[] => heard.splice(0).filter((line) => line !== 'reset' && !line.includes(','));
  const tooLong = async (bytes?: number): Promise<void> => {
    server.flushes.push({ refused: '57014' });
    await assert.rejects(flush.run(request(bytes)), StatementRefusedError);
  };
  await tooLong();
  await tooLong();
  await flush.run(request());
  await flush.run(request());
  await flush.run(request());
  assert.deepEqual(limits(), ['flush', '60s 90s', '120s 150s', '60s 90s', 'flush']);
  for (let attempt = 1; attempt <= 9; attempt += 1) await tooLong(LARGE_BYTES);
  assert.equal(limits().at(-1), '3600s 3630s');
  server.flushes.push({ refused: '55P03' });
  await assert.rejects(flush.run(request()), StatementRefusedError);
  assert.deepEqual(limits(), ['1920s 1950s'], 'a lock timeout does not change the limit');
});
