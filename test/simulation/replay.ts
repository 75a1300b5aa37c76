/** Runs one history or walk again and shows its steps. */
import { runHistory } from './history.js';
import type { Mutations } from './mutations.js';
import type { SqsWalkMutations } from './walk/sqs/sqs-mutations.js';
import { sqsWalk, type SqsWalkResult } from './walk/sqs/sqs-walk.js';
import { runSharedHistory } from './shared-history.js';

const TRACE_LINES = 80;

/** Histories by the journal of their servers, and walks. */
export const HISTORIES = {
  file: runHistory,
  postgres: runSharedHistory,
  nats: (seed: number, mutations?: Mutations, trace?: string[]) => runSharedHistory(seed, mutations, trace, 'nats'),
  sqs: (seed: number, mutations?: Mutations, trace?: string[]) => runSharedHistory(seed, mutations, trace, 'sqs'),
  'sqs-walk': (seed: number, mutations: SqsWalkMutations = {}, trace?: string[]): Promise<SqsWalkResult> =>
    sqsWalk(seed, mutations, {}, trace),
} as const;

/** A journal that has histories. */
export type HistoryKind = keyof typeof HISTORIES;

/** Replays a seed and prints its last steps, or all of them; false if it violates something. */
export async function replay(seed: number, whole = false, journal: HistoryKind = 'file'): Promise<boolean> {
  const trace: string[] = [];
  const { violation } = await HISTORIES[journal](seed, {}, trace);
  for (const line of whole ? trace : trace.slice(-TRACE_LINES)) console.log(line);
  if (violation === undefined) return true;
  console.log(`SEED=${seed}: ${violation.stack ?? violation.message}`);
  return false;
}
