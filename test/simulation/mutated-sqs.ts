/** The sqs journal with the bugs of {@link SqsMutations} between it and its shard, its queue and the database. */
import { crc32 } from 'node:zlib';
import type { Lsn } from '#product/core/checkpoint.js';
import type { Queue } from '#product/shard-worker/journal/sqs/queue.js';
import { decodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import type { SqsJournalDeps } from '#product/shard-worker/journal/sqs/sqs-journal.js';
import { sqsWriter } from '#product/shard-worker/journal/sqs/sqs-transport.js';
import type { QueueLog, StreamWriter, StreamWriterDeps } from '#product/shard-worker/journal/stream-log.js';
import type { ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { beginBeforeRow, isInDoubt, refusing } from './mutated-writer.js';
import type { Mutations } from './mutations.js';
import { overridden } from './overridden.js';
import type { PostgresModel } from './postgres-model.js';

/** Bugs between a shard and the sqs journal. {@link NatsMutations} has some that are bugs here, too. */
export interface SqsMutations {
  /** What a flush covers is deleted before its commit is known. */
  readonly deletesBeforeCommit?: boolean;
  /** What is received is deleted at once. */
  readonly deletesReceived?: boolean;
  /** Nobody looks at the LSN that a message names. */
  readonly ignoresPredecessor?: boolean;
  /** What cannot be counted is deleted, and not kept. */
  readonly deletesUncounted?: boolean;
  /** The LSNs of a message of unknown outcome are used again. */
  readonly reusesLsns?: boolean;
  /** A consumer whose row was taken sends its range again, on top of what the row says. */
  readonly flushesOnTop?: boolean;
  /** A flush that does not apply counts as applied. */
  readonly missIsOurs?: boolean;
  /** A stream is retired after its last message is deleted. */
  readonly deletesCloseFirst?: boolean;
  /** The library that sends requests repeats them by itself, and reports the last outcome. */
  readonly libraryRepeats?: boolean;
  /** A first message without an answer is taken for sent. */
  readonly helloGivenUp?: boolean;
  /** The deduplication id is the LSN alone. */
  readonly sharedDeduplicationId?: boolean;
  /** A message names the last LSN that was used, not the last that was acknowledged. */
  readonly namesLastUsed?: boolean;
}

const PREVIOUS_LSN_AT = 16;
const CRC_AT = 8;
const CRC_FROM = 12;

/** The connection of what is written. */
function mutateSends(queue: Queue, mutations: Mutations): Queue {
  const { unknownIsRefused, libraryRepeats, helloGivenUp, sharedDeduplicationId, namesLastUsed } = mutations;
  return {
    ...queue,
    async send(stream, deduplicationId, data) {
      const id = sharedDeduplicationId === true ? deduplicationId.slice(stream.length) : deduplicationId;
      const { firstLsn } = decodeQueueMessage(data);
      const bytes = namesLastUsed === true ? naming(data, firstLsn - 1) : data;
      const outcome = await queue.send(stream, id, bytes);
      if (outcome.kind !== 'unknown') return outcome;
      if (libraryRepeats === true) return queue.send(stream, id, bytes);
      if (helloGivenUp === true && firstLsn === 1) return { kind: 'sent' };
      return unknownIsRefused === true ? { ...outcome, kind: 'refused', isThrottled: false } : outcome;
    },
  };
}

/** The message with another LSN before it. */
function naming(data: Uint8Array, previousLsn: Lsn): Uint8Array {
  const copy = Buffer.from(data);
  copy.writeBigUInt64LE(BigInt(previousLsn), PREVIOUS_LSN_AT);
  copy.writeUInt32LE(crc32(copy.subarray(CRC_FROM)), CRC_AT);
  return copy;
}

/** What the log of a shard is made of. */
export function mutateSqsDeps(deps: SqsJournalDeps, mutations: Mutations): SqsJournalDeps {
  const appends = mutateSends(deps.appends, mutations);
  return { ...deps, appends };
}

/** The log of a shard. */
export class MutatedSqsLog {
  /** With the bugs. */
  readonly log: QueueLog;
  readonly #sound: QueueLog;
  readonly #mutations: Mutations;
  readonly #deps: SqsJournalDeps;
  readonly #database: PostgresModel;
  /** By stream, what was received and not deleted, by LSN. */
  readonly #receipts = new Map<string, Map<Lsn, string>>();
  #afterRemoval: (() => Promise<unknown>) | undefined;

  constructor(log: QueueLog, mutations: Mutations, deps: SqsJournalDeps, database: PostgresModel) {
    this.#sound = log;
    this.#mutations = mutations;
    this.#deps = deps;
    this.#database = database;
    this.log = overridden(log, this.#overrides());
  }

  /** Deletes what it has received of a stream up to an LSN. */
  readonly remove = (stream: string, lsn: Lsn): void => {
    const receipts = [...(this.#receipts.get(stream) ?? [])].filter(([lastLsn]) => lastLsn <= lsn);
    this.#sound.remove(receipts.map(([, receipt]) => receipt)).catch(ignore);
  };

  #overrides(): Partial<QueueLog> {
    const { acceptBeforeRow, sentIsRefused, reusesLsns, deletesCloseFirst, deletesUncounted, neverReopens } =
      this.#mutations;
    const log = this.#sound;
    return {
      receive: () => this.#receive(),
      ...(deletesUncounted === true && { setAside: () => Promise.resolve(0) }),
      ...(acceptBeforeRow === true && { begin: (stream) => beginBeforeRow(log, stream) }),
      ...((sentIsRefused === true || reusesLsns === true) && {
        makeWriter: (begun, deps) => {
          const writer = log.makeWriter(begun, deps);
          return sentIsRefused === true ? refusing(writer) : this.#reusing(writer, deps);
        },
      }),
      ...(neverReopens === true && {
        takeReceived: async (first, lastLsn) => {
          const row = this.#database.tables.checkpoints.get(first.stream);
          return row?.retiredAt === undefined ? log.takeReceived(first, lastLsn) : { kind: 'ended', lsn: row.lsn };
        },
      }),
      ...(deletesCloseFirst === true && {
        retire: (...args) => {
          this.#afterRemoval = () => log.retire(...args);
          return Promise.resolve(true);
        },
        remove: async (receipts) => {
          await log.remove(receipts);
          const then = this.#afterRemoval;
          this.#afterRemoval = undefined;
          await then?.();
        },
      }),
    };
  }

  async #receive(): ReturnType<QueueLog['receive']> {
    const { deletesReceived, ignoresPredecessor } = this.#mutations;
    const received = await this.#sound.receive();
    for (const { stream, lastLsn, receipt } of received) {
      const receipts = this.#receipts.get(stream) ?? new Map<Lsn, string>();
      this.#receipts.set(stream, receipts.set(lastLsn, receipt));
    }
    if (deletesReceived === true) await this.#sound.remove(received.map(({ receipt }) => receipt)).catch(ignore);
    if (ignoresPredecessor !== true) return received;
    return received.map((message) => ({ ...message, previousLsn: 0 }));
  }

  /** Begins behind what is acknowledged again. */
  #reusing(writer: StreamWriter, deps: StreamWriterDeps): StreamWriter {
    const { stream } = writer;
    const { appends, owner, times } = this.#deps;
    let current = writer;
    return new Proxy(writer, {
      get: (_, name) => {
        if (name !== 'append') return Reflect.get(overridden(current, {}), name) as unknown;
        return (...args: Parameters<StreamWriter['append']>) =>
          current.append(...args).catch((error: unknown) => {
            if (isInDoubt(error) && !current.isOver)
              current = sqsWriter(
                { stream, lsn: current.endLsn },
                { ...deps, ...{ queue: appends, origin: owner, times } },
              );
            throw error;
          });
      },
    });
  }
}

/** What flushes. `remove`: deletes what was received of a stream up to an LSN. */
export function mutateSqsDatabase(
  database: ShardDatabase,
  mutations: Mutations,
  remove: (stream: string, lsn: Lsn) => void,
): ShardDatabase {
  const { deletesBeforeCommit, flushesOnTop, missIsOurs } = mutations;
  if (deletesBeforeCommit !== true && flushesOnTop !== true && missIsOurs !== true) return database;
  return overridden(database, {
    async flush(range) {
      const { stream, toLsn } = range;
      if (deletesBeforeCommit === true) remove(stream, toLsn);
      const attempt = await database.flush(range);
      if (attempt.kind !== 'fenced') return attempt;
      if (missIsOurs === true) return { kind: 'committed', keys: range.sums.size };
      const row = flushesOnTop === true ? await database.readBack(stream) : undefined;
      if (row === undefined || row.lsn >= toLsn) return attempt;
      return database.flush({ ...range, epoch: row.epoch, fromLsn: row.lsn });
    },
  });
}

function ignore(): void {
  // It is received again.
}
