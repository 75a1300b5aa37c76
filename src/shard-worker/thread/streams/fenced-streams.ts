/**
 * Handles a row of a stream that is not where this process left it. Shard thread.
 *
 * ```text
 * row of another epoch, claimed by another process ──► over: the process ends
 * the journal is in memory                         ──► the row is taken again, and the sums are kept if it allows that
 * else                                             ──► over: the shard starts again, and recovers from its journal
 * ```
 */
import type { Checkpoint } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import type { JournalStreams } from '../../journal/journal.js';
import { isTakenByOthers } from '../../journal/ownership-claim.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { PendingSums } from '../pending-sums.js';
import type { ShardContext } from '../shard-context.js';
import type { OwnedStream } from './owned-stream.js';
import type { StreamTaker } from './stream-taker.js';

/** Wait between attempts to take a stream of memory again. */
const TAKE_AGAIN_BACKOFF_MS = 500;

/** Decides for the streams of one shard. */
export class FencedStreams {
  readonly #context: ShardContext;
  readonly #journals: JournalStreams;
  readonly #taker: StreamTaker;
  #isDeciding = false;

  constructor(context: ShardContext, journals: JournalStreams, taker: StreamTaker) {
    this.#context = context;
    this.#journals = journals;
    this.#taker = taker;
  }

  /** Nothing may be appended until the owner of the stream is known. */
  get isDeciding(): boolean {
    return this.#isDeciding;
  }

  /** A compare-and-set did not match. `row`: as found; undefined if it is missing or could not be read. */
  async decide(owned: OwnedStream, row: Checkpoint | undefined): Promise<'over' | 'same' | 'committed'> {
    const { pendingSums } = owned;
    this.#isDeciding = true;
    try {
      const isVolatile = this.#journals.endsWithThread;
      if (row !== undefined && row.epoch !== pendingSums.epoch && (await this.#isTakenByOthers(owned))) {
        const detail = takenOver(pendingSums, row, isVolatile);
        this.#context.deps.tell({ kind: 'fenced', detail });
        this.#context.fail(new JournalError('journal-fenced', detail));
        return 'over';
      }
      const outcome = isVolatile && row !== undefined ? await this.#takeAgain(owned) : 'elsewhere';
      if (outcome !== 'elsewhere') return outcome;
      this.#context.fail(new JournalError('journal-fenced', movedBack(pendingSums, row, isVolatile)));
      return 'over';
    } finally {
      this.#isDeciding = this.#context.phase === 'failed';
    }
  }

  /** False also if the database does not answer. Then the recovery decides. */
  async #isTakenByOthers({ journal, pendingSums }: OwnedStream): Promise<boolean> {
    try {
      const claims = await this.#context.deps.database.readClaims(pendingSums.stream);
      return isTakenByOthers(journal.ownership().claims, pendingSums.epoch, claims);
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      return false;
    }
  }

  /** Takes a stream again that was retired while its process lives. Keeps its sums, because no journal has them. */
  async #takeAgain({ journal, pendingSums }: OwnedStream): Promise<'same' | 'committed' | 'elsewhere'> {
    const { log } = this.#context.deps;
    for (;;) {
      try {
        const outcome = pendingSums.take(await this.#taker.take(journal));
        log('warn', { stream: pendingSums.stream, outcome }, 'Took a stream again that had been retired');
        return outcome;
      } catch (error) {
        if (error instanceof JournalError) return 'elsewhere';
        if (!isDatabaseUnavailable(error) || this.#context.phase === 'draining') throw error;
        await this.#context.pauses.pause(TAKE_AGAIN_BACKOFF_MS);
      }
    }
  }
}

/** For the operator: `row` has a later epoch, so the stream has another owner or none. */
function takenOver(pendingSums: PendingSums, row: Checkpoint, isVolatile: boolean): string {
  return (
    `Journal stream ${pendingSums.stream} no longer belongs to this process: ${positions(pendingSums, row)}. Another ` +
    'process took it, because this data directory is a copy or was copied, or an operator retired it. This ' +
    'process ends, because its next flush could count twice. ' +
    (isVolatile
      ? 'Its acknowledged increments that were not flushed are lost.'
      : 'Its acknowledged increments that were not flushed stay in its journal: start it again. If only this journal holds ' +
        'those records, the start names the command that moves them to a stream of their own.')
  );
}

/** For the operator: no other process owns the stream, but its row is not what this process made it. */
function movedBack(pendingSums: PendingSums, row: Checkpoint | undefined, isVolatile: boolean): string {
  return (
    `The checkpoint of stream ${pendingSums.stream} is not where this process left it: ${positions(pendingSums, row)}. ` +
    (isVolatile
      ? 'The shard starts again without the increments that were pending in its memory.'
      : 'The shard drops its sums and recovers them from the journal.')
  );
}

function positions({ epoch, checkpointLsn }: PendingSums, row: Checkpoint | undefined): string {
  const inDatabase =
    row === undefined ? 'the row is missing or cannot be read' : `the row has epoch ${row.epoch} and LSN ${row.lsn}`;
  return `the shard had epoch ${epoch} and LSN ${checkpointLsn}, ${inDatabase}`;
}
