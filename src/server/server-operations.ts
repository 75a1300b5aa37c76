/**
 * A node's operations besides taking increments: reads, flushes, readiness. Main thread.
 *
 * A read is exact without a lock: one statement fetches the committed sum and the checkpoints of this node's streams,
 * so both are of one snapshot; the shards add what they hold above those checkpoints. Where a shard has meanwhile let go
 * of sums above them, the snapshot is too old, and the read is made again.
 */
import type { CounterStore } from '../db/counter-store.js';
import type { CounterDeleteStore } from '../db/counter-delete-store.js';
import type { Checkpoint } from '../core/checkpoint.js';
import { CounterError, type ErrorCode } from '../core/errors.js';
import { addSums, type Sum } from '../core/increment.js';
import type {
  CounterListPage,
  CounterListQuery,
  CounterOperations,
  CounterReading,
  Readiness,
} from '../core/counter-operations.js';

import type { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** Snapshots that a read tries: each further one means that a flush committed within the last. */
const SNAPSHOTS_MAX = 20;

type Store = Pick<CounterStore, 'available' | 'readCounter' | 'list'>;
type Supervisor = Pick<ShardSupervisor, 'isRecovered' | 'streams' | 'pendingOf' | 'flush'>;

/** What the operations are made of; the store is there once the database's address is known. */
export interface ServerOperationsDeps {
  readonly store: () => Store | undefined;
  readonly deletes: () => Pick<CounterDeleteStore, 'delete'> | undefined;
  readonly supervisor: () => Supervisor | undefined;
  /** Why increments are refused, or undefined. */
  readonly refusal: () => ErrorCode | undefined;
  /** False while the database does not take the flushes of a shard, though it may answer reads. */
  readonly flushing: () => boolean;
}

/** The operations of this node. */
export class ServerOperations implements CounterOperations {
  readonly #deps: ServerOperationsDeps;
  #streams: readonly string[] = [];
  /** Rises when a removal begins and when it ends. */
  #deletes = 0;

  constructor(parts: ServerOperationsDeps) {
    this.#deps = parts;
  }

  async read(key: Uint8Array): Promise<CounterReading | undefined> {
    const { store, supervisor } = this.#ready();
    if (!supervisor.isRecovered) {
      throw new CounterError('database-unavailable', NOT_RECOVERED);
    }
    for (let snapshot = 0; snapshot < SNAPSHOTS_MAX; snapshot += 1) {
      const streams = this.#streamsOf(supervisor);
      const deletes = this.#deletes;
      const { committed, exists, updatedAt, checkpoints } = await store.readCounter(key, streams);
      const seen = new Map<string, Checkpoint | null>();
      for (const stream of streams) seen.set(stream, checkpoints.get(stream) ?? null);
      const pending = total(await supervisor.pendingOf(key, seen));
      // A removal in between may have taken the committed sum away from under what is pending now; of a stream that is gone
      // meanwhile a thread that came later need not know that the snapshot is from before its end.
      if (pending === 'again' || deletes !== this.#deletes || streams !== this.#streamsOf(supervisor)) continue;
      if (!exists && pending === undefined) return undefined;
      return { sum: addSums(committed, pending ?? 0), committed, pending: pending ?? 0, updatedAt };
    }
    throw new CounterError('overloaded', 'The counter changed faster than it could be read.');
  }

  async delete(key: Uint8Array, id: string | undefined): Promise<Sum | undefined> {
    const deletes = this.#deps.deletes();
    if (deletes === undefined) throw new CounterError('starting', 'The server is recovering.');
    // What was acknowledged before the call belongs to the closing sum.
    await this.flush();
    this.#deletes += 1;
    try {
      return await deletes.delete(id, key);
    } finally {
      this.#deletes += 1;
    }
  }

  async list(query: CounterListQuery): Promise<CounterListPage> {
    return this.#ready().store.list(query);
  }

  async flush(): Promise<number> {
    const { store, supervisor } = this.#ready();
    if (!store.available() || !supervisor.isRecovered) {
      throw new CounterError('database-unavailable', 'The database cannot be reached; what is pending stays pending.');
    }
    return supervisor.flush();
  }

  readiness(): Readiness {
    const code = this.#deps.refusal();
    if (code !== undefined) return { state: 'refusing', code, reason: REFUSALS[code] ?? 'Increments are refused.' };
    const store = this.#deps.store();
    if (store?.available() !== true) {
      return { state: 'degraded', reason: 'The database is away; increments are kept in the journal.' };
    }
    if (this.#deps.supervisor()?.isRecovered !== true) return { state: 'degraded', reason: NOT_RECOVERED };
    if (!this.#deps.flushing()) {
      return { state: 'degraded', reason: 'The database takes no flushes; increments are kept in the journal.' };
    }
    return { state: 'ok' };
  }

  #ready(): { readonly store: Store; readonly supervisor: Supervisor } {
    const store = this.#deps.store();
    const supervisor = this.#deps.supervisor();
    if (store === undefined || supervisor === undefined) {
      throw new CounterError('starting', 'The server is recovering.');
    }
    return { store, supervisor };
  }

  /** The same array while nothing changed, so that reads of one moment share a statement. */
  #streamsOf(supervisor: Supervisor): readonly string[] {
    const streams = supervisor.streams;
    if (streams.length !== this.#streams.length || streams.some((stream, index) => stream !== this.#streams[index])) {
      this.#streams = streams;
    }
    return this.#streams;
  }
}

const NOT_RECOVERED =
  'Journals of earlier runs are not recovered yet: they need the database, and are read one after the other.';

const REFUSALS: Partial<Record<ErrorCode, string>> = {
  starting: 'The server is recovering.',
  draining: 'The server is shutting down.',
  'journal-unavailable': 'A shard is being restarted, or its journal cannot be written.',
  overloaded: 'Pending keys or bytes, or the journal, are at their bound.',
};

/** Sum of what the shards hold; undefined where none holds the key. */
function total(parts: readonly (Sum | 'again' | null)[]): Sum | undefined | 'again' {
  let sum: Sum | undefined;
  for (const part of parts) {
    if (part === 'again') return 'again';
    if (part !== null) sum = addSums(sum ?? 0, part);
  }
  return sum;
}
