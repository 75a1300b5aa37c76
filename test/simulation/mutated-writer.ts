/** Bugs that the nats and the sqs journal can both have between a shard and its log. */
import { JournalError } from '#product/core/errors.js';
import type { SharedLog, StreamWriter } from '#product/shard-worker/journal/stream-log.js';
import { overridden } from './overridden.js';

/** {@link NatsMutations.sentIsRefused} */
export function refusing(writer: StreamWriter): StreamWriter {
  return overridden(writer, {
    append: (...args) =>
      writer.append(...args).catch((error: unknown) => {
        if (!isInDoubt(error)) throw error;
        throw new JournalError('journal-unavailable', 'refused', { cause: error });
      }),
  });
}

/** Whether the outcome of an append that failed with this is in doubt. */
export function isInDoubt(error: unknown): boolean {
  return error instanceof JournalError && error.code === 'journal-failed';
}

/** {@link NatsMutations.acceptBeforeRow}: the stream begins as if its row were made. */
export async function beginBeforeRow(log: Pick<SharedLog, 'begin'>, name: string): ReturnType<SharedLog['begin']> {
  return { ...(await log.begin(name)), isRegistered: true };
}
