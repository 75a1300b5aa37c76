/**
 * The tables of the simulated database. Times are in ms of the database's clock; -infinity is the number of that name. Rows
 * are never changed, only replaced, so a copy of the maps is a snapshot.
 */

/** A row of journal_checkpoints. */
export interface CheckpointRow {
  readonly epoch: number;
  readonly lsn: number;
  readonly acceptedThrough: number;
  readonly coveredFrom: number;
  readonly heardAt: number;
  readonly closedAt: number | undefined;
  readonly retiredAt: number | undefined;
  readonly node: string;
  readonly shard: number;
  readonly journal: string;
  /** Who flushes the stream; undefined: nobody, or the journal is another one. */
  readonly owner: string | undefined;
  /** Null: an earlier version made the row, or the records are in the database or a directory. */
  readonly store: string | null;
}

/** A row of journal_streams. */
export interface StreamRow {
  readonly epoch: number;
  readonly node: string;
  readonly shard: number;
  readonly flusher: string | undefined;
  readonly retiredAt: number | undefined;
}

/** A row of increment_log. */
export interface LogRow {
  readonly lsn: number;
  readonly acceptedAt: number;
  readonly acceptedAfter: number;
  readonly loggedAt: number;
  readonly keys: readonly string[];
  readonly amounts: readonly bigint[];
  /** By increment, '' for none. Undefined: the record has no idempotent request. */
  readonly idempotencyKeys: readonly string[] | undefined;
  /** By request. */
  readonly requestIncrements: readonly number[] | undefined;
  readonly digests: readonly Buffer[] | undefined;
}

/** A row of journal_heartbeats. */
interface HeartbeatRow {
  readonly flushes: boolean;
  readonly aliveAt: number;
  readonly acceptedThrough: number;
}

/** A row of journal_claims. */
export interface ClaimRow {
  readonly epoch: number;
  readonly claim: string;
  readonly lsn: number;
}

/** A row of idempotency_keys. */
interface TokenRow {
  readonly digest: Buffer;
  readonly claimedAt: number;
}

/** The row of idempotency_pruning. */
export interface PruningRow {
  readonly prunedBefore: number;
  readonly prunedAt: number;
  readonly gapAt: number;
}

/** A row of rejected_increments without a SQLSTATE: an increment of an idempotent request that its stream does not cover. */
export interface UncoveredRow {
  readonly stream: string;
  readonly lsn: number;
  readonly key: string;
  readonly amount: bigint;
  readonly token: string;
  readonly digest: Buffer;
  /** -infinity: a record of before times were recorded. */
  readonly acceptedAfter: number;
}

/** Everything committed, and the sequence. */
export interface Tables {
  readonly checkpoints: Map<string, CheckpointRow>;
  /** By stream, in order of epochs. */
  readonly claims: Map<string, readonly ClaimRow[]>;
  readonly streams: Map<string, StreamRow>;
  /** By stream, in order of LSNs. */
  readonly log: Map<string, readonly LogRow[]>;
  /** By id. */
  readonly heartbeats: Map<string, HeartbeatRow>;
  readonly counters: Map<string, bigint>;
  /** The sums in rejected_increments by key, without the uncovered ones. */
  readonly rejected: Map<string, bigint>;
  readonly uncovered: UncoveredRow[];
  /** By idempotency key. */
  readonly tokens: Map<string, TokenRow>;
  /** By stream: the LSN of a row that somebody has deleted. Not a table: what an operator knows of it. */
  readonly deleted: Map<string, number>;
  pruning: PruningRow;
  /** The last value of journal_epochs. No transaction takes it back. */
  epochs: number;
}

/** The tables after the migrations, on a new database. */
export function newTables(now: number): Tables {
  return {
    checkpoints: new Map(),
    claims: new Map(),
    streams: new Map(),
    log: new Map(),
    heartbeats: new Map(),
    counters: new Map(),
    rejected: new Map(),
    uncovered: [],
    tokens: new Map(),
    deleted: new Map(),
    pruning: { prunedBefore: Number.NEGATIVE_INFINITY, prunedAt: now, gapAt: now },
    epochs: 1,
  };
}

/** A snapshot. */
export function copyTables(tables: Tables): Tables {
  return {
    checkpoints: new Map(tables.checkpoints),
    claims: new Map(tables.claims),
    streams: new Map(tables.streams),
    log: new Map(tables.log),
    heartbeats: new Map(tables.heartbeats),
    counters: new Map(tables.counters),
    rejected: new Map(tables.rejected),
    uncovered: [...tables.uncovered],
    tokens: new Map(tables.tokens),
    deleted: new Map(tables.deleted),
    pruning: tables.pruning,
    epochs: tables.epochs,
  };
}

/** Adds to a sum. */
export function add(table: Map<string, bigint>, key: string, amount: bigint): void {
  table.set(key, (table.get(key) ?? 0n) + amount);
}

/** Neither closed nor retired: the row holds the pruning of idempotency keys up, and a flush applies to it. */
export function isOpen(row: CheckpointRow): boolean {
  return row.closedAt === undefined && row.retiredAt === undefined;
}
