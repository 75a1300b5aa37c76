/** Bugs of the processes of a walk: each is the *Else* of a rule on the postgres journal that lies outside of SQL. */
import type { DatabaseMutations } from '../../database/database-mutations.js';
import type { PlantedBug } from '../planted-bugs.js';

/** All bugs of a walk. */
export interface PostgresWalkMutations extends DatabaseMutations, WriterMutations, RollUpMutations {}

/** Bugs of writers. */
interface WriterMutations {
  /** A group whose reply was lost is sent again with the requests that have come since. */
  readonly groupGrows?: boolean;
  /** A group whose reply was lost is unknown, and another one is sent at its LSN; a conflict leads to the next LSN. */
  readonly otherRecordsAtLsn?: boolean;
  /** The same, and a conflict acknowledges what was sent. */
  readonly conflictAcknowledgesAny?: boolean;
  /** An append that hits nothing refuses the group, also one that was sent before. */
  readonly zeroRowsRefuse?: boolean;
  /** A group that was sent before and does not follow the log any more is refused. */
  readonly gapRefuses?: boolean;
  /** A fenced writer appends what it has to its new stream. */
  readonly fencedAppendsAgain?: boolean;
  /** Requests are taken before the row of their stream is made. */
  readonly acceptBeforeRow?: boolean;
  /** A writer whose taking had no reply goes on under the append epoch that it reads. */
  readonly goOnUnderReadEpoch?: boolean;
  /** A writer that finds its rows gone makes them again. */
  readonly remakeRow?: boolean;
  /** A writer sends a heartbeat with requests in hand. */
  readonly wordWithHand?: boolean;
  /** A group carries the time that is known when it is sent, though older requests are still in hand behind it. */
  readonly timeOfSending?: boolean;
  /** A writer that flushes sends the last time heard, not that of its records. */
  readonly flushSendsTimeHeard?: boolean;
  /** The window of idempotency keys goes on with the new stream. */
  readonly windowStays?: boolean;
}

/** Bugs of roll-ups. */
interface RollUpMutations {
  /** An adopter reads the log before it has the lock on the stream. */
  readonly readBeforeLock?: boolean;
  /** A roll-up that has only taken the flushes retires the stream. */
  readonly tailingRetires?: boolean;
  /** An adopter retires a stream that it has not read to the end. */
  readonly retireUnread?: boolean;
}

/** The bugs that walks find. */
export const POSTGRES_BUGS: readonly PlantedBug<PostgresWalkMutations>[] = [
  { name: 'an append without the fence', mutations: { appendWithoutFence: true }, from: 9 },
  { name: 'an append without the lock on the fence', mutations: { appendWithoutLock: true } },
  { name: 'an append over a gap', mutations: { appendOverGap: true } },
  { name: 'an adoption that keeps the append epoch', mutations: { adoptionKeepsAppendEpoch: true }, from: 390 },
  {
    name: 'an adoption that reads the log before its lock, and a retirement that does not look at the log',
    mutations: { readBeforeLock: true, retireIgnoresLog: true },
    from: 60,
  },
  { name: 'a roll-up that has only taken the flushes and retires', mutations: { tailingRetires: true } },
  {
    name: 'an adopter that retires without having read, and a retirement that does not look at the log',
    mutations: { retireUnread: true, retireIgnoresLog: true },
  },
  {
    name: 'a writer that goes on under the append epoch that it reads, and a retirement that does not look at the log',
    mutations: { goOnUnderReadEpoch: true, retireIgnoresLog: true },
    from: 326,
  },
  { name: 'a group that grows before it is sent again', mutations: { groupGrows: true } },
  { name: 'other records at the LSN of a group in doubt', mutations: { otherRecordsAtLsn: true }, from: 20 },
  { name: 'a conflict that acknowledges another group', mutations: { conflictAcknowledgesAny: true } },
  { name: '503 for a fenced group in doubt', mutations: { zeroRowsRefuse: true }, from: 380 },
  { name: 'the last LSN from the log alone', mutations: { lastLsnOfLogAlone: true }, from: 1362 },
  { name: 'a fenced writer that appends again', mutations: { fencedAppendsAgain: true }, from: 126 },
  { name: 'requests that are taken before the row is made', mutations: { acceptBeforeRow: true } },
  {
    name: 'known idempotency keys that a writer carries to its new stream',
    mutations: { windowStays: true },
    from: 64,
  },
  {
    name: 'the clock of the roll-up for the time that the writer has heard',
    mutations: { wordOfRollUp: true },
    from: 55,
  },
  { name: 'the heartbeat of a writer though the log goes on', mutations: { wordOverLog: true }, from: 126 },
  { name: 'a heartbeat with requests in hand', mutations: { wordWithHand: true }, from: 35 },
  { name: 'an accepted_through of now() in a flush', mutations: { acceptedThroughCapped: true } },
  { name: 'a flush that sends the last time heard', mutations: { flushSendsTimeHeard: true }, from: 1396 },
  {
    name: 'a group with the time of its sending, while older requests wait',
    mutations: { timeOfSending: true },
    from: 40,
  },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true }, from: 13 },
];
