/**
 * Recomputes the sums from the postgres journal and compares them with `counters`. Main thread of the journal command.
 *
 * Reads everything in one snapshot, while servers go on. Sums can only be recomputed if the journal still holds everything that
 * was ever counted. Otherwise the command lists what is missing and compares nothing.
 */
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import {
  BEGIN_RECOUNT,
  DRIFT,
  END_RECOUNT,
  LOG_HISTORY,
  RECOUNT_TIMEOUTS,
  STREAMS_ELSEWHERE,
  STREAMS_NOT_KEPT,
  UNDECIDED_KEYS,
} from '../db/recount-statements.js';
import { reasonOf, StartError } from '../core/errors.js';
import { EXIT_TEMPORARY } from './command-exit.js';

/** Most streams that are named one by one. */
const NAMED_MAX = 20;
/** Longer than any statement of an audit. */
const TIMEOUT_MS = 24 * 3_600_000;

/** What an audit found. */
export interface Recount {
  /** Why the sums cannot be recomputed; empty if they were. */
  readonly missing: readonly string[];
  /** Counters whose sum differs. */
  readonly drifted: number;
}

interface DriftRow extends Record<string, unknown> {
  readonly key: string;
  readonly stored: string | null;
  readonly recomputed: string;
}

interface NamedStream extends Record<string, unknown> {
  readonly stream: string;
  readonly lsn: string;
  readonly streams: number;
}

/** Compares the counters whose keys begin with `prefix`. Calls back with each that differs, as one line of JSON. */
export async function recount(
  target: DatabaseTarget,
  prefix: string,
  windowHours: number,
  print: (line: string) => void,
): Promise<Recount> {
  try {
    const options = { applicationName: 'summing-counters journal', queryTimeoutMs: TIMEOUT_MS };
    const connection = await connect(target, options);
    try {
      await connection.query({ text: RECOUNT_TIMEOUTS });
      await connection.query({ text: BEGIN_RECOUNT });
      const missing = await missingIn(connection, windowHours);
      const rows = missing.length > 0 ? [] : await connection.query<DriftRow>({ text: DRIFT, values: [prefix] });
      await connection.query({ text: END_RECOUNT });
      for (const { key, stored, recomputed } of rows)
        print(`{"key":${JSON.stringify(key)},"stored":${stored ?? 'null'},"recomputed":${recomputed}}`);
      return { missing, drifted: rows.length };
    } finally {
      await connection.close();
    }
  } catch (cause) {
    const problem = `The audit of ${describeTarget(target)} failed: ${reasonOf(cause)}. Run the command again.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

async function missingIn(connection: DatabaseConnection, windowHours: number): Promise<readonly string[]> {
  const [history] = await connection.query<{ incomplete_because: string | null }>({ text: LOG_HISTORY });
  const reason = history?.incomplete_because ?? null;
  const values = [NAMED_MAX];
  const elsewhere = await connection.query<NamedStream & { journal: string }>({ text: STREAMS_ELSEWHERE, values });
  const notKept = await connection.query<NamedStream & { first_kept: string }>({ text: STREAMS_NOT_KEPT, values });
  const [undecided] = await connection.query<{ keys: number }>({ text: UNDECIDED_KEYS, values: [windowHours] });
  const keys = undecided?.keys ?? 0;
  return [
    ...(reason === null ? [] : [`${reason}.`]),
    ...elsewhere.map(
      ({ stream, journal, lsn }) => `Stream ${stream} counted ${lsn} records and is in the ${journal} journal.`,
    ),
    ...notKept.map(({ stream, lsn, first_kept: first }) => notKeptSentence(stream, Number(lsn), Number(first))),
    ...more(elsewhere),
    ...more(notKept),
    ...(keys === 0
      ? []
      : [
          `${keys} idempotency keys came again after their window or with other content; the journal does not tell which request counted.`,
        ]),
  ];
}

function notKeptSentence(stream: string, lsn: number, firstKept: number): string {
  const missing = firstKept > 1 ? `LSN 1 to ${Math.min(firstKept - 1, lsn)}` : 'some records';
  return `Stream ${stream} counted LSN 1 to ${lsn}; ${missing} of it are no longer kept in increment_log.`;
}

function more(streams: readonly NamedStream[]): readonly string[] {
  const rest = (streams[0]?.streams ?? 0) - streams.length;
  return rest <= 0 ? [] : [`${rest} more streams like these.`];
}
