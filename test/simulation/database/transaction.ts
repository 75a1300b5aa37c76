/**
 * A transaction: what it has changed and not yet committed. Its statements see the committed tables and these changes.
 */
import type { FlushEffect } from './flush-effect.js';
import type { CheckpointRow, ClaimRow, PruningRow, StreamRow, Tables } from './tables.js';

interface ClaimChange {
  readonly stream: string;
  /** Older claims are forgotten. */
  readonly from: number;
  readonly added: readonly ClaimRow[];
}

/** From `begin`, or from the arrival of a statement outside of a transaction, to its end. */
export class Transaction {
  /** `now()`. */
  readonly beganAt: number;
  /** A statement was refused: only a rollback may follow. */
  isAborted = false;
  /** {@link DatabaseMutations.prunedBeforeReadFirst}, {@link DatabaseMutations.horizonBeforeLock}. */
  readEarly: number | undefined;
  /** What its flush did, once it has committed. */
  flushed: FlushEffect | undefined;
  readonly #tables: () => Tables;
  readonly #checkpoints = new Map<string, CheckpointRow>();
  readonly #streams = new Map<string, StreamRow>();
  readonly #claims: ClaimChange[] = [];
  readonly #effects: (() => void)[] = [];
  #pruning: PruningRow | undefined;

  constructor(beganAt: number, tables: () => Tables) {
    this.beganAt = beganAt;
    this.#tables = tables;
  }

  checkpoint(stream: string): CheckpointRow | undefined {
    return this.#checkpoints.get(stream) ?? this.#tables().checkpoints.get(stream);
  }

  setCheckpoint(stream: string, row: CheckpointRow): void {
    this.#checkpoints.set(stream, row);
  }

  /** The streams whose rows this transaction has made or changed. */
  get changedStreams(): Iterable<string> {
    return this.#checkpoints.keys();
  }

  /** The row of journal_streams. */
  stream(stream: string): StreamRow | undefined {
    return this.#streams.get(stream) ?? this.#tables().streams.get(stream);
  }

  setStream(stream: string, row: StreamRow): void {
    this.#streams.set(stream, row);
  }

  /** Of a stream, in order of epochs. */
  claims(stream: string): readonly ClaimRow[] {
    const changes = this.#claims.filter((change) => change.stream === stream);
    return changes.reduce(changed, this.#tables().claims.get(stream) ?? []);
  }

  /** Adds claims and forgets those of an epoch below `from`. */
  addClaims(stream: string, added: readonly ClaimRow[], from: number): void {
    this.#claims.push({ stream, added, from });
  }

  get pruning(): PruningRow {
    return this.#pruning ?? this.#tables().pruning;
  }

  set pruning(row: PruningRow) {
    this.#pruning = row;
  }

  /** `effect` happens with the commit, at once with all other changes. */
  atCommit(effect: () => void): void {
    this.#effects.push(effect);
  }

  /** Applies all changes. */
  commit(): void {
    const tables = this.#tables();
    for (const [stream, row] of this.#checkpoints) tables.checkpoints.set(stream, row);
    for (const [stream, row] of this.#streams) tables.streams.set(stream, row);
    for (const change of this.#claims) {
      tables.claims.set(change.stream, changed(tables.claims.get(change.stream) ?? [], change));
    }
    if (this.#pruning !== undefined) tables.pruning = this.#pruning;
    for (const effect of this.#effects) effect();
  }
}

function changed(claims: readonly ClaimRow[], { added, from }: ClaimChange): readonly ClaimRow[] {
  return [...claims.filter(({ epoch }) => epoch >= from), ...added].sort((a, b) => a.epoch - b.epoch);
}
