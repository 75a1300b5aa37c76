/** The nats journal with the bugs of {@link NatsMutations} between it and its shard, its broker and the database. */
import type { Checkpoint, Lsn } from '#product/core/checkpoint.js';
import type { Clock } from '#product/core/clock.js';
import type { Broker, BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import { decodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { isFence } from '#product/shard-worker/journal/nats/nats-message.js';
import type { SharedLog, StreamWriter } from '#product/shard-worker/journal/stream-log.js';
import type { ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { beginBeforeRow, refusing } from './mutated-writer.js';
import type { Mutations } from './mutations.js';
import { overridden } from './overridden.js';
import type { PostgresModel } from './postgres-model.js';
import type { Life } from './scheduler.js';
import { ANY_SEQUENCE, STORE, type SimulatedBroker } from './simulated-broker.js';

/** Bugs between a shard and the nats journal. */
export interface NatsMutations {
  /** A group that a look does not find is refused. */
  readonly missingIsRefused?: boolean;
  /** A group whose outcome is not known is refused, and its stream is over. */
  readonly sentIsRefused?: boolean;
  /** A writer that begins without its row takes idempotent requests. */
  readonly acceptBeforeRow?: boolean;
  /** The whole stream goes. */
  readonly purgesWithoutSequence?: boolean;
  /** What was committed goes after its time, though a failover may have taken the commit back since. */
  readonly purgesTakenBack?: boolean;
  /** What a flush covers goes before its commit is known. */
  readonly purgesBeforeCommit?: boolean;
  /** Every message is taken for one of this database. */
  readonly countsForeign?: boolean;
  /** What stands behind a fence is not read. */
  readonly stopsAtFence?: boolean;
  /** A stream is retired without a fence. */
  readonly retiresUnfenced?: boolean;
  /** A fence expects nothing, and its answer counts as having read up to it. */
  readonly fenceReplyEnds?: boolean;
  /** A retired stream is never opened again. */
  readonly neverReopens?: boolean;
  /** A read that fails for one stream does not wait for the others. */
  readonly readsAtOnce?: boolean;
  /** A tombstone goes while its stream still holds records. */
  readonly dropsTombstoneEarly?: boolean;
  /** A writer takes any message with the sequence of its last record for that record. */
  readonly trustsOwnSequence?: boolean;
  /** A reader, and whoever purges, takes any message with a sequence for what they have read there before. */
  readonly trustsReadSequence?: boolean;
  /** A writer whose last record is gone goes on behind what is left. */
  readonly goesOnBehindLoss?: boolean;
  /** What was pending in memory goes with the stream of which the broker has lost records. */
  readonly dropsPending?: boolean;
  /** A writer says what is lost by the checkpoint that it knows. */
  readonly saysLostAtOnce?: boolean;
  /** Nobody looks what has become of streams that were left. */
  readonly saysNoLoss?: boolean;
}

/** The connection of what is written. */
export function mutateAppends(broker: Broker, mutations: Mutations): Broker {
  /** By stream and sequence. */
  const published = new Map<string, Uint8Array>();
  return {
    ...broker,
    async publish(stream, data, expectedSequence, endLsn) {
      let outcome = await broker.publish(stream, data, expectedSequence, endLsn);
      if (mutations.goesOnBehindLoss === true && outcome.kind === 'mismatch' && data.length > 0) {
        const last = await broker.last(stream);
        if (last !== undefined && last.sequence < expectedSequence && !isFence(last.data))
          outcome = await broker.publish(stream, data, last.sequence);
      }
      if (outcome.kind === 'published') published.set(`${stream} ${outcome.sequence}`, data);
      if (mutations.unknownIsRefused === true && outcome.kind === 'unknown') return { ...outcome, kind: 'refused' };
      if (mutations.missingIsRefused !== true || outcome.kind !== 'mismatch') return outcome;
      const found = await broker.read(stream, expectedSequence + 1, 16);
      const isThere = found.some((message) => Buffer.from(message.data).equals(data));
      return isThere ? outcome : { kind: 'refused', error: new Error('not found') };
    },
    async read(stream, fromSequence, messagesMax) {
      const messages = await broker.read(stream, fromSequence, messagesMax);
      if (mutations.trustsOwnSequence === true)
        return messages.map(({ sequence, data, ...rest }) => ({
          ...rest,
          sequence,
          data: (sequence === fromSequence ? published.get(`${stream} ${sequence}`) : undefined) ?? data,
        }));
      return messages;
    },
  };
}

/** The connection of readers. */
export function mutateReads(broker: Broker, mutations: Mutations, database: PostgresModel): Broker {
  const { stopsAtFence, retiresUnfenced, fenceReplyEnds, neverReopens, dropsTombstoneEarly } = mutations;
  const { purgesWithoutSequence } = mutations;
  const isRetired = (stream: string): boolean => database.tables.checkpoints.get(stream)?.retiredAt !== undefined;
  /** What was read first, by stream and sequence. */
  const seen = new Map<string, BrokerMessage>();
  /** Fences that are taken for read, by stream. */
  const fences = new Map<string, BrokerMessage>();
  return {
    ...broker,
    async publish(stream, data, expectedSequence, endLsn) {
      if (retiresUnfenced === true) {
        // Between two messages.
        const sequence = expectedSequence + 0.5;
        fences.set(stream, { sequence, data });
        return { kind: 'published', sequence };
      }
      const outcome = await broker.publish(
        stream,
        data,
        fenceReplyEnds === true ? ANY_SEQUENCE : expectedSequence,
        endLsn,
      );
      if (fenceReplyEnds === true && outcome.kind === 'published')
        fences.set(stream, { sequence: outcome.sequence, data });
      return outcome;
    },
    async read(stream, fromSequence, messagesMax) {
      const fence = fences.get(stream);
      fences.delete(stream);
      if (fence !== undefined) return [fence];
      const read = await broker.read(stream, Math.floor(fromSequence), messagesMax);
      const messages =
        mutations.countsForeign === true ? read.map((each) => ({ ...each, database: STORE.databaseId })) : read;
      if (mutations.trustsReadSequence === true) {
        const known = seen.get(`${stream} ${fromSequence}`);
        if (messagesMax === 1 && known !== undefined) return [known];
        for (const message of messages) seen.set(`${stream} ${message.sequence}`, message);
      }
      const first = messages.findIndex(({ data }) => isFence(data));
      if (stopsAtFence === true && first >= 0) return messages.slice(0, first + 1);
      if (dropsTombstoneEarly === true && isRetired(stream)) return messages.filter(({ data }) => isFence(data));
      return messages;
    },
    async purge(stream, beforeSequence) {
      if (purgesWithoutSequence === true) return broker.purge(stream, Number.POSITIVE_INFINITY);
      return broker.purge(stream, beforeSequence);
    },
    async streams() {
      const streams = await broker.streams();
      return neverReopens === true ? new Map([...streams].filter(([stream]) => !isRetired(stream))) : streams;
    },
  };
}

/** The log of a shard. `purge`: removes the records of a stream up to an LSN but the last one. */
export function mutateNatsLog(
  log: SharedLog,
  mutations: Mutations,
  { clock, keepSeconds }: { readonly clock: Clock; readonly keepSeconds: number },
  purge: (stream: string, lsn: Lsn) => void,
  writers: Map<string, StreamWriter>,
): SharedLog {
  const { acceptBeforeRow, sentIsRefused, readsAtOnce, purgesTakenBack, saysLostAtOnce, saysNoLoss, dropsPending } =
    mutations;
  if (Object.keys(mutations).length === 0) return log;
  let commits: { readonly stream: string; readonly lsn: Lsn; readonly dueAt: number }[] = [];
  return overridden(log, {
    ...(acceptBeforeRow === true && { begin: (stream) => beginBeforeRow(log, stream) }),
    ...(purgesTakenBack === true && {
      committed: (stream: string, { lsn }: Checkpoint) => {
        commits.push({ stream, lsn, dueAt: clock.monotonic() + 1000 * keepSeconds });
      },
      survey: async () => {
        const survey = await log.survey();
        const isDue = ({ dueAt }: { readonly dueAt: number }): boolean => dueAt <= clock.monotonic();
        for (const { stream, lsn } of commits.filter(isDue)) purge(stream, lsn);
        commits = commits.filter((commit) => !isDue(commit));
        return survey;
      },
    }),
    ...(dropsPending === true && {
      makeWriter: (begun, deps) => {
        const writer = log.makeWriter(begun, deps);
        writers.set(begun.stream, writer);
        return writer;
      },
    }),
    ...(saysNoLoss === true && { fates: { countedTo: () => Promise.resolve(undefined) } }),
    ...(saysLostAtOnce === true && { fates: undefined }),
    ...(readsAtOnce === true && {
      read: async (positions, recordsMax) => {
        const found = await Promise.all(positions.map((position) => log.read([position], recordsMax)));
        return new Map(found.flatMap((records) => [...records]));
      },
    }),
    ...(sentIsRefused === true && { makeWriter: (...args) => refusing(log.makeWriter(...args)) }),
  });
}

/** Removes the records of a stream up to an LSN but the last one. */
export function purgeTo(broker: SimulatedBroker, life: Life, stream: string, lsn: Lsn): void {
  const records = broker.messages(stream).filter(({ data }) => !isFence(data));
  let last: BrokerMessage | undefined;
  let reached = 0;
  // A copy of a committed record may be behind others.
  for (const message of records) {
    const { lastLsn } = decodeMessage(message.data);
    if (lastLsn > lsn) break;
    if (lastLsn > reached) [last, reached] = [message, lastLsn];
  }
  if (last === undefined) return;
  broker
    .connect(life)
    .purge(stream, last.sequence)
    .catch(() => undefined);
}

/** What flushes. */
export function mutateNatsDatabase(
  database: ShardDatabase,
  mutations: Mutations,
  purge: (stream: string, lsn: Lsn) => void,
  writers: ReadonlyMap<string, StreamWriter>,
): ShardDatabase {
  if (mutations.purgesBeforeCommit !== true && mutations.dropsPending !== true) return database;
  return overridden(database, {
    flush: (range) => {
      if (writers.get(range.stream)?.isOver === true) return Promise.resolve({ kind: 'committed', keys: 0 });
      if (mutations.purgesBeforeCommit === true) purge(range.stream, range.toLsn);
      return database.flush(range);
    },
  });
}
