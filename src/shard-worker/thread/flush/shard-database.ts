/**
 * The database as a shard uses it: turns ledgers into statements and replies into what the flusher can know. Shard thread.
 */
import { SumArrayEncoder, IdempotentArrayEncoder, type IdempotentFlushArrays } from '../../../db/binary-array.js';
import type { CheckpointStore, FlushResult } from '../../../db/checkpoint-store.js';
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import type { FlushRequest } from '../../../db/flush-request.js';
import { CounterError } from '../../../core/errors.js';
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { ClaimedRow, FlushAttempt, OwnedRow, ShardDatabase } from './stream-database.js';
import { DIGEST_BYTES } from '../../protocol/record-layout.js';
import { findPoison, rejectedIncrements, rejectedRows } from './poison-search.js';
import type { OwnershipClaim } from '../../journal/ownership-claim.js';
import type { FrozenRange, PendingSums } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';
import type { IdempotentRequests } from '../idempotency/idempotent-requests.js';

/** Whose streams these are, kept in their rows for operators. */
export interface StreamOwner {
  readonly node: string;
  readonly shard: number;
  readonly journal: string;
}

/** One shard's statements, one at a time over one connection. */
export class PostgresShardDatabase implements ShardDatabase {
  readonly #store: CheckpointStore;
  readonly #owner: StreamOwner;
  readonly #ensured = new Set<string>();
  readonly #encoder = new SumArrayEncoder();
  readonly #idempotentEncoder = new IdempotentArrayEncoder();
  #last: Promise<unknown> = Promise.resolve();

  constructor(store: CheckpointStore, owner: StreamOwner) {
    this.#store = store;
    this.#owner = owner;
  }

  databaseId(): Promise<string> {
    return this.#inTurn(() => asUnavailable(() => this.#store.databaseId()));
  }

  ensureStream(stream: string): Promise<void> {
    return this.#inTurn(() => asUnavailable(() => this.#ensure(stream)));
  }

  readClaims(stream: string): Promise<ClaimedRow> {
    return this.#inTurn(() =>
      asUnavailable(async () => {
        await this.#ensure(stream);
        const row = await this.#store.readClaims(stream);
        if (row === undefined) throw new TypeError('a checkpoint row vanished');
        return row;
      }),
    );
  }

  claimStream(stream: string, at: Checkpoint, claims: readonly OwnershipClaim[]): Promise<OwnedRow | undefined> {
    return this.#inTurn(() => asUnavailable(() => this.#store.claim(stream, at.epoch, at.lsn, claims)));
  }

  flush(pendingSums: PendingSums, range: FrozenRange): Promise<FlushAttempt> {
    return this.#inTurn(() =>
      attempt(async () => {
        // A stream that began while the database was away has no row yet; a flush never makes one.
        if (!this.#ensured.has(pendingSums.stream)) await asUnavailable(() => this.#ensure(pendingSums.stream));
        this.#encode(range.sums, new Set());
        const idempotencyKeys = this.#encodeIdempotent(range.idempotent, new Set());
        return this.#outcome(
          range,
          await this.#store.flush({ ...this.#request(pendingSums, range), ...idempotencyKeys }),
          0,
        );
      }),
    );
  }

  /** Halves the range until each key that PostgreSQL refuses is found; flushes the others and keeps these apart. */
  flushSettingAside(pendingSums: PendingSums, range: FrozenRange): Promise<FlushAttempt> {
    return this.#inTurn(() =>
      attempt(async () => {
        const { sums, idempotent } = range;
        const poison = await asUnavailable(() => findPoison(this.#store, this.#encoder, range));
        const entries = new Set(poison.map(({ key }) => key.entry));
        const increments = new Set(
          poison.flatMap(({ key }) => key.requestSums.map(({ requestSum }) => requestSum.number)),
        );
        this.#encode(sums, entries);
        const idempotencyKeys = this.#encodeIdempotent(idempotent, increments);
        const rejected = poison.flatMap((row) => rejectedRows(sums, row));
        const result = await this.#store.flush({ ...this.#request(pendingSums, range), ...idempotencyKeys, rejected });
        return this.#outcome(range, result, rejectedIncrements(range, poison, result.unclaimed));
      }),
    );
  }

  readBack(stream: string): Promise<Checkpoint | undefined> {
    return this.#inTurn(() => asUnavailable(() => this.#store.readBack(stream)));
  }

  async touch(pendingSums: PendingSums, acceptedThroughMs: number | undefined): Promise<boolean> {
    const { stream, epoch, checkpoint } = pendingSums;
    return this.#inTurn(() =>
      asUnavailable(async () => {
        if (this.#ensured.has(stream)) return this.#store.touch(stream, epoch, checkpoint, acceptedThroughMs);
        await this.#ensure(stream);
        return true;
      }),
    );
  }

  retire(stream: string, epoch: number, lsn: Lsn): Promise<boolean> {
    return this.#inTurn(() => asUnavailable(() => this.#store.retire(stream, epoch, lsn)));
  }

  async close(): Promise<void> {
    await this.#store.close();
  }

  async #ensure(stream: string): Promise<void> {
    await this.#store.ensureStream(stream, this.#owner);
    this.#ensured.add(stream);
  }

  /** Streams of a shard share the connection, and a probe is a transaction: statements must not interleave. */
  #inTurn<T>(statement: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(statement, statement);
    this.#last = turn.then(
      () => undefined,
      () => undefined,
    );
    return turn;
  }

  /** What a flush came to; looks at tokens that were claimed before for other content. */
  async #outcome(range: FrozenRange, result: FlushResult, rejected: number): Promise<FlushAttempt> {
    const { fenced, keys, unclaimed } = result;
    if (fenced !== 1) return { kind: 'fenced' };
    return { kind: 'committed', keys, rejected, unclaimed, mismatches: await this.#mismatches(range, unclaimed) };
  }

  async #mismatches({ idempotent }: FrozenRange, unclaimed: readonly string[]): Promise<number> {
    if (unclaimed.length === 0) return 0;
    try {
      const digests = await this.#store.readDigests(unclaimed);
      return unclaimed.filter((idempotencyKey) => {
        const digest = digests.get(idempotencyKey);
        const own = idempotent.get(idempotencyKey)?.digest;
        return digest !== undefined && own !== undefined && !digest.equals(own);
      }).length;
    } catch (error) {
      // The flush is committed; what is lost is a number for the metrics.
      if (
        error instanceof CounterError ||
        error instanceof OutcomeUnknownError ||
        error instanceof StatementRefusedError
      )
        return 0;
      throw error;
    }
  }

  #encode(sums: SummingMap, without: ReadonlySet<number>): void {
    const encoder = this.#encoder;
    const { arena } = sums;
    encoder.reset(sums.size, sums.arenaBytes);
    for (let entry = 0; entry < sums.size; entry += 1) {
      if (without.size > 0 && without.has(entry)) continue;
      encoder.append(arena, sums.keyStart(entry), sums.keyBytes(entry), sums.sum(entry));
    }
  }

  /** The parameters for requests with tokens, if there are any; `without` are numbers of pairs. */
  #encodeIdempotent(
    idempotent: IdempotentRequests,
    without: ReadonlySet<number>,
  ): { idempotencyKeys?: IdempotentFlushArrays } {
    if (idempotent.size === 0) return {};
    const encoder = this.#idempotentEncoder;
    const { idempotencyKeys, totals, digests } = idempotent;
    encoder.reset();
    for (let request = 0; request < idempotent.size; request += 1) {
      const [idempotencyKey, idempotencyKeyBytes] = [
        idempotencyKeys.keyStart(request),
        idempotencyKeys.keyBytes(request),
      ];
      encoder.appendRequest(
        idempotencyKeys.arena,
        idempotencyKey,
        idempotencyKeyBytes,
        digests,
        request * DIGEST_BYTES,
        DIGEST_BYTES,
      );
      const end = idempotent.sumsEnd(request);
      for (let requestSum = idempotent.sumsStart(request); requestSum < end; requestSum += 1) {
        if (without.size > 0 && without.has(requestSum)) continue;
        const entry = idempotent.sumEntry(requestSum);
        encoder.appendSum(
          totals.arena,
          totals.keyStart(entry),
          totals.keyBytes(entry),
          idempotent.sumAmount(requestSum),
        );
      }
    }
    return { idempotencyKeys: encoder.finish() };
  }

  #request(pendingSums: PendingSums, range: FrozenRange): FlushRequest {
    return {
      stream: pendingSums.stream,
      epoch: pendingSums.epoch,
      fromLsn: range.fromLsn,
      toLsn: range.toLsn,
      acceptedThrough: new Date(range.acceptedThroughMs),
      keys: this.#encoder.keys(),
      amounts: this.#encoder.amounts(),
    };
  }
}

/** For statements that can be repeated without harm: every failure of the database is "away, try again". */
async function asUnavailable<T>(statement: () => Promise<T>): Promise<T> {
  try {
    return await statement();
  } catch (error) {
    if (error instanceof OutcomeUnknownError || error instanceof StatementRefusedError) {
      throw new CounterError('database-unavailable', `The database did not answer: ${error.message}.`, {
        cause: error,
      });
    }
    throw error;
  }
}

/** Runs a flush and says what can be known of its outcome. */
async function attempt(flush: () => Promise<FlushAttempt>): Promise<FlushAttempt> {
  try {
    return await flush();
  } catch (error) {
    if (error instanceof OutcomeUnknownError) return { kind: 'unknown', error };
    if (error instanceof StatementRefusedError) {
      const kind = error.kind === 'poison' ? 'poison' : 'refused';
      return { kind, error: new Error(`${error.message} (SQLSTATE ${error.sqlState})`, { cause: error }) };
    }
    if (error instanceof CounterError && error.code === 'database-unavailable') return { kind: 'unreachable', error };
    throw error;
  }
}
