/**
 * Says where the database is, and records an operator's decision about a database that was restored, copied or upgraded. Main
 * thread of the journal command.
 *
 * Servers do not flush into a database that is no longer where it was recorded: a restored dump would count the records of its
 * journals a second time beside the original.
 */
import { reasonOf, StartError } from '../core/errors.js';
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { COPY_DATABASE, IDENTITY, MOVE_DATABASE } from '../db/identity-statements.js';
import { raisedEpochs } from '../db/schema/epochs.js';
import { EXIT_TEMPORARY } from './command-exit.js';

/** `moved`: servers count in this database from now on. `copy`: it is another database than the one that was copied. */
export type IdentityDecision = 'moved' | 'copy';

interface IdentityRow extends Record<string, unknown> {
  readonly id: string;
  readonly recorded: string | null;
  readonly present: string;
  readonly open_streams: number;
}

/** What the command did, for the operator. */
export interface IdentityReport {
  readonly sentences: readonly string[];
  /** Servers may use the database. */
  readonly isInPlace: boolean;
}

/** Describes the database, after a decision if there is one. Throws StartError if the database does not answer. */
export async function identify(
  target: DatabaseTarget,
  decision: IdentityDecision | undefined,
): Promise<IdentityReport> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal', isMoved: true });
    try {
      return await report(connection, decision);
    } finally {
      await connection.close();
    }
  } catch (cause) {
    const problem = `The query to ${describeTarget(target)} failed: ${reasonOf(cause)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}

async function report(connection: DatabaseConnection, decision: IdentityDecision | undefined): Promise<IdentityReport> {
  const before = await identityOf(connection);
  const isInPlace = before.recorded === null || before.recorded === before.present;
  if (decision === undefined) {
    const where = isInPlace
      ? `It is where it was recorded: ${before.present} (system identifier/oid).`
      : `It was at ${before.recorded} and is at ${before.present} (system identifier/oid). Servers do not count in it: decide ` +
        'with --moved or --copy.';
    return { sentences: [`The id of the database is ${before.id}.`, where], isInPlace };
  }
  if (isInPlace && decision === 'moved')
    return { sentences: ['The database is where it was recorded; nothing to do.'], isInPlace };
  // Running servers go on after the decision, without a start.
  const behind = await raisedEpochs(connection);
  await connection.query({ text: decision === 'moved' ? MOVE_DATABASE : COPY_DATABASE });
  const said = behind === undefined ? [] : [`${behind}.`];
  const after = await identityOf(connection);
  if (decision === 'moved')
    return { sentences: [...said, `Servers may count in database ${after.id} at ${after.present}.`], isInPlace: true };
  const streams = before.open_streams === 1 ? '1 open stream is' : `${before.open_streams} open streams are`;
  return {
    sentences: [
      ...said,
      `This database is ${after.id} now; the one that was copied is ${before.id}.`,
      `${streams} retired here: the journals belong to ${before.id}, which counts their records.`,
    ],
    isInPlace: true,
  };
}

async function identityOf(connection: DatabaseConnection): Promise<IdentityRow> {
  const [row] = await connection.query<IdentityRow>({ text: IDENTITY });
  if (row === undefined) throw new Error('the table database_identity has no row');
  return row;
}
