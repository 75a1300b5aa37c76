/** The log with the bugs of {@link SharedMutations} between it and its shard. */
import type { JournalRecord } from '#product/shard-worker/journal/journal.js';
import type { IncrementLog } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import { postgresWriter, type LogOutcome } from '#product/shard-worker/journal/postgres/postgres-transport.js';
import type { TakenLogStream } from '#product/shard-worker/journal/stream-log.js';
import type { Mutations } from './mutations.js';
import { overridden } from './overridden.js';
import type { PostgresModel } from './postgres-model.js';

/** Bugs between a shard and the postgres journal. */
export interface SharedMutations {
  /** An adopter reads the log before it has the stream. */
  readonly adoptionReadsFirst?: boolean;
  /** A server that has only taken the flushes of a stream retires it. */
  readonly followerRetires?: boolean;
  /** The writer gives its word when it sends a group. */
  readonly advanceWithGroup?: boolean;
  /** The last LSN is that of the log alone. */
  readonly forgetsPrunedLsn?: boolean;
  /** A record with this LSN is there: it is taken for another one, and the group is refused. */
  readonly duplicateIsRefused?: boolean;
  /** A writer whose taking had no reply writes that stream, under the append epoch that it reads. */
  readonly writesUntoldStream?: boolean;
  /** Batches that were opened before the stream began are appended to it. */
  readonly staleBatches?: boolean;
  /** A group whose predecessor a failover has taken back is treated as one of a stream that another writer has. */
  readonly gapIsFence?: boolean;
  /** A group that got no answer is refused. */
  readonly unknownIsRefused?: boolean;
}

const RECORDS_MAX = 1000;

/** Puts the bugs in. */
export function mutateIncrementLog(log: IncrementLog, mutations: Mutations, database: PostgresModel): IncrementLog {
  /** Append epochs of streams that a writer writes although their taking had no reply. */
  const untold = new Map<string, string>();
  const early = new Map<string, readonly JournalRecord[]>();
  const appendEpoch = (stream: string): string | undefined => {
    const row = database.tables.streams.get(stream);
    return row === undefined ? undefined : String(row.epoch);
  };
  const mutated: IncrementLog = overridden(log, {
    makeWriter: ({ stream, lsn }, deps) => {
      const epoch = untold.get(stream) ?? log.appendEpochOf(stream);
      return postgresWriter({ stream, lsn, appendEpoch: epoch }, mutated, deps);
    },
    async begin(stream) {
      try {
        return await log.begin(stream);
      } catch (error) {
        const row = database.tables.checkpoints.get(stream);
        const epoch = appendEpoch(stream);
        if (mutations.writesUntoldStream !== true || row === undefined || epoch === undefined) throw error;
        const { lsn, coveredFrom } = row;
        const seconds = Math.ceil(Math.max(0, coveredFrom) / 1000);
        const time = Math.floor(database.clock.now() / 1000);
        untold.set(stream, epoch);
        return { stream, epoch: row.epoch, lsn, coveredFrom: seconds, time, isRegistered: true };
      }
    },
    async append(stream, epoch, time, firstLsn, group) {
      if (mutations.advanceWithGroup === true)
        void log.advanceAcceptedThrough(stream, epoch, time).catch(() => undefined);
      const outcome = await log.append(stream, epoch, time, firstLsn, group);
      return mutateOutcome(outcome, mutations);
    },
    lastLsn: (stream) => (mutations.forgetsPrunedLsn === true ? Promise.resolve(0) : log.lastLsn(stream)),
    async read(positions, recordsMax) {
      const found = new Map(await log.read(positions, recordsMax));
      for (const { stream, lsn } of positions) {
        const records = early.get(stream);
        if (records === undefined) continue;
        const left = records.filter((record) => record.lsn > lsn);
        found.set(stream, left);
        if (left.length === 0) early.delete(stream);
      }
      return found;
    },
    async take(stream, epoch, adopt): Promise<TakenLogStream | undefined> {
      if (mutations.adoptionReadsFirst === true && adopt) {
        const found = await log.read([{ stream, lsn: 0 }], RECORDS_MAX);
        early.set(stream, found.get(stream) ?? []);
      }
      const taken = await log.take(stream, epoch, adopt);
      if (taken === undefined) early.delete(stream);
      if (taken === undefined || mutations.followerRetires !== true) return taken;
      return { ...taken, isAdopted: true };
    },
    retire(stream, at) {
      const epoch = mutations.followerRetires === true ? appendEpoch(stream) : untold.get(stream);
      return epoch === undefined ? log.retire(stream, at) : log.retireUnder(epoch, stream, at);
    },
  });
  return mutated;
}

function mutateOutcome(outcome: LogOutcome, mutations: Mutations): LogOutcome {
  if (mutations.duplicateIsRefused === true && outcome.kind === 'present') return { kind: 'fenced' };
  if (mutations.gapIsFence === true && outcome.kind === 'gap') return { kind: 'fenced' };
  if (mutations.unknownIsRefused === true && outcome.kind === 'unknown')
    return { kind: 'refused', error: outcome.error };
  return outcome;
}
