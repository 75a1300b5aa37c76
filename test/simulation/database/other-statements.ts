/** The statements that belong to no transaction of several statements and to no owner. */
import { END_IDLE_BACKEND, IS_BACKEND_IDLE, RESET_TIMEOUTS, SET_TIMEOUTS } from '#product/db/session-statements.js';
import * as sql from '#product/db/statements.js';
import { decodeTexts } from '../binary-arrays.js';
import type { Plan, StatementContext, StatementMeaning } from './statement.js';
import { COUNTERS, isDropped, isPoison, notWritten, refusal, secondsOf, type Row } from './values.js';

/** By text. */
export const otherStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.DATABASE_ID, ({ server }) => ({ run: () => [{ database_id: server.databaseId }] })],
  [sql.LOOK, ({ arrivedAt }) => ({ run: () => [{ database_time: secondsOf(arrivedAt) }] })],
  [sql.READ_DIGESTS, readDigests],
  [sql.PROBE_CONSTRAINTS, () => ({ run: () => [] })],
  [sql.PROBE, probe],
  [IS_BACKEND_IDLE, isBackendIdle],
  [END_IDLE_BACKEND, endIdleBackend],
  [SET_TIMEOUTS, () => ({ run: () => [] })],
  [RESET_TIMEOUTS, () => ({ run: () => [] })],
];

function readDigests({ server, values }: StatementContext): Plan {
  const [tokens] = values as [readonly string[]];
  const run = (): Row[] =>
    tokens.flatMap((token) => {
      const row = server.tables.tokens.get(token);
      return row === undefined ? [] : [{ token, digest: row.digest }];
    });
  return { run };
}

function probe({ server, values }: StatementContext): Plan {
  const keys = decodeTexts(values[0] as Buffer);
  const run = (): Row[] => {
    if (keys.some((key) => isPoison(key) && !isDropped(key))) throw refusal('54000');
    const { dropsRows, mutations } = server;
    const written = keys.filter((key) => {
      if (key.startsWith('summing-counters:') && mutations.noOwnKey === true) return true;
      return !dropsRows && !isDropped(key);
    });
    if (written.length < keys.length) throw notWritten(written.length, COUNTERS);
    return [];
  };
  return { run };
}

function isBackendIdle({ server, values }: StatementContext): Plan {
  const run = (): Row[] => {
    const backend = server.backend(values[0]);
    return [{ idle: backend === undefined || server.isIdle(backend) }];
  };
  return { run };
}

function endIdleBackend({ server, transaction, values }: StatementContext): Plan {
  const run = (): Row[] => {
    transaction.atCommit(() => {
      const backend = server.backend(values[0]);
      if (backend !== undefined && backend.idleSince !== Number.POSITIVE_INFINITY) server.endSession(backend);
    });
    return [];
  };
  return { run };
}
