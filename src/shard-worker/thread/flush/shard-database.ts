/**
 * The database as a shard uses it: turns ledgers into statements and replies into what the flusher can know. Shard thread.
 */
import { PairArrayEncoder, TokenArrayEncoder, type FlushTokens } from '../../../db/binary-array.js';
import type { CheckpointStore, FlushResult } from '../../../db/checkpoint-store.js';
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import type { FlushRequest } from '../../../db/flush-request.js';
import { CounterError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/increment.js';
import { DIGEST_BYTES } from '../../protocol/messages.js';
import { findPoison, rejectedIncrements, rejectedRows } from './poison-search.js';
import type { StreamClaim } from '../../journal/ownership-claim.js';
import type { CheckpointRow, ClaimedRow, FlushAttempt, OwnedRow, ShardDatabase } from './stream-database.js';
import type { FrozenRange, StreamLedger } from '../pending-sums.js';
import type { SummingMap } from '../summing-map.js';
import type { TokenedRequests } from '../idempotency/idempotent-requests.js';

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
  readonly #encoder = new PairArrayEncoder();
  readonly #tokenEncoder = new TokenArrayEncoder();
  #last: Promise<unknown> = Promise.resolve();

  constructor(store: CheckpointStore, owner: StreamOwner) {
    this.#store = store;
    this.#owner = owner;
  }

  databaseId(): Promise<string> {
    return this.#inTurn(() => orAway(() => this.#store.databaseId()));
  }

  ensureStream(stream: string): Promise<void> {
    return this.#inTurn(() => orAway(() => this.#ensure(stream)));
  }

  readClaims(stream: string): Promise<ClaimedRow> {
    return this.#inTurn(() =>
      orAway(async () => {
        await this.#ensure(stream);
        const row = await this.#store.readClaims(stream);
        if (row === undefined) throw new TypeError('a checkpoint row vanished');
        return row;
      }),
    );
  }

  claimStream(stream: string, at: CheckpointRow, claims: readonly StreamClaim[]): Promise<OwnedRow | undefined> {
    return this.#inTurn(() => orAway(() => this.#store.claim(stream, at.epoch, at.lsn, claims)));
  }

  flush(ledger: StreamLedger, range: FrozenRange): Promise<FlushAttempt> {
    return this.#inTurn(() =>
      attempt(async () => {
        // A stream that began while the database was away has no row yet; a flush never makes one.
        if (!this.#ensured.has(ledger.stream)) await orAway(() => this.#ensure(ledger.stream));
        this.#encode(range.sums, new Set());
        const tokens = this.#encodeTokens(range.tokened, new Set());
        return this.#outcome(range, await this.#store.flush({ ...this.#request(ledger, range), ...tokens }), 0);
      }),
    );
  }

  /** Halves the range until each key that PostgreSQL refuses is found; flushes the others and keeps these apart. */
  flushSettingAside(ledger: StreamLedger, range: FrozenRange): Promise<FlushAttempt> {
    return this.#inTurn(() =>
      attempt(async () => {
        const { sums, tokened } = range;
        const poison = await orAway(() => findPoison(this.#store, this.#encoder, range));
        const entries = new Set(poison.map(({ key }) => key.entry));
        const pairs = new Set(poison.flatMap(({ key }) => key.pairs.map(({ pair }) => pair.number)));
        this.#encode(sums, entries);
        const tokens = this.#encodeTokens(tokened, pairs);
        const rejected = poison.flatMap((row) => rejectedRows(sums, row));
        const result = await this.#store.flush({ ...this.#request(ledger, range), ...tokens, rejected });
        return this.#outcome(range, result, rejectedIncrements(range, poison, result.unclaimed));
      }),
    );
  }

  readBack(stream: string): Promise<CheckpointRow | undefined> {
    return this.#inTurn(() => orAway(() => this.#store.readBack(stream)));
  }

  async touch(ledger: StreamLedger, acceptedThroughMs: number | undefined): Promise<boolean> {
    const { stream, epoch, checkpoint } = ledger;
    return this.#inTurn(() =>
      orAway(async () => {
        if (this.#ensured.has(stream)) return this.#store.touch(stream, epoch, checkpoint, acceptedThroughMs);
        await this.#ensure(stream);
        return true;
      }),
    );
  }

  retire(stream: string, epoch: number, lsn: Lsn): Promise<boolean> {
    return this.#inTurn(() => orAway(() => this.#store.retire(stream, epoch, lsn)));
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

  async #mismatches({ tokened }: FrozenRange, unclaimed: readonly string[]): Promise<number> {
    if (unclaimed.length === 0) return 0;
    try {
      const digests = await this.#store.readDigests(unclaimed);
      return unclaimed.filter((token) => {
        const digest = digests.get(token);
        const own = tokened.get(token)?.digest;
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
  #encodeTokens(tokened: TokenedRequests, without: ReadonlySet<number>): { tokens?: FlushTokens } {
    if (tokened.size === 0) return {};
    const encoder = this.#tokenEncoder;
    const { tokens, sums, digests } = tokened;
    encoder.reset();
    for (let request = 0; request < tokened.size; request += 1) {
      const [token, tokenBytes] = [tokens.keyStart(request), tokens.keyBytes(request)];
      encoder.appendRequest(tokens.arena, token, tokenBytes, digests, request * DIGEST_BYTES, DIGEST_BYTES);
      const end = tokened.pairsEnd(request);
      for (let pair = tokened.pairsStart(request); pair < end; pair += 1) {
        if (without.size > 0 && without.has(pair)) continue;
        const entry = tokened.pairEntry(pair);
        encoder.appendPair(sums.arena, sums.keyStart(entry), sums.keyBytes(entry), tokened.pairSum(pair));
      }
    }
    return { tokens: encoder.finish() };
  }

  #request(ledger: StreamLedger, range: FrozenRange): FlushRequest {
    return {
      stream: ledger.stream,
      epoch: ledger.epoch,
      fromLsn: range.fromLsn,
      toLsn: range.toLsn,
      acceptedThrough: new Date(range.acceptedThroughMs),
      keys: this.#encoder.keys(),
      amounts: this.#encoder.amounts(),
    };
  }
}

/** For statements that can be repeated without harm: every failure of the database is "away, try again". */
async function orAway<T>(statement: () => Promise<T>): Promise<T> {
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
