/**
 * The operations of the server besides taking increments: read, delete, list, flush. Main thread.
 *
 * A read is exact without a lock. One statement reads the committed sum and the checkpoints of this server's streams, so both
 * come from one snapshot. The shards add the sums that they hold above those checkpoints. If a shard has meanwhile committed
 * sums above them, the snapshot is too old and the read starts again.
 */
import type { Role } from '../config/journal-kind.js';
import type { CommittedCounter, CounterStore } from '../db/counter-store.js';
import type { CounterDeleteStore } from '../db/counter-delete-store.js';
import type { Checkpoint } from '../core/checkpoint.js';
import { CounterError } from '../core/errors.js';
import { addSums, type Sum } from '../core/increment.js';
import type {
  CounterListPage,
  CounterListQuery,
  CounterOperations,
  DashboardUpdate,
  ReadResult,
  Readiness,
  UnreadableCounter,
} from '../core/counter-operations.js';
import { NOT_RECOVERED } from './server-readiness.js';
import type { PendingAnswer } from '../shard-worker/protocol/control-messages.js';
import type { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** Most snapshots that a read tries. Each new one means that a flush committed during the last. */
const SNAPSHOTS_MAX = 20;

type Store = Pick<CounterStore, 'available' | 'readCounters' | 'list'>;
type Supervisor = Pick<ShardSupervisor, 'isRecovered' | 'streams' | 'pendingOf' | 'flush'>;

/** The collaborators. The stores are undefined until the address of the database is known. */
export interface ServerOperationsDeps {
  readonly store: () => Store | undefined;
  readonly deletes: () => Pick<CounterDeleteStore, 'delete'> | undefined;
  readonly supervisor: () => Supervisor | undefined;
  /** ROLE. */
  readonly role: Role;
  readonly readiness: () => Readiness;
  /** The page of metrics. */
  readonly metrics: () => Promise<string>;
  readonly dashboard: (since: number) => Promise<DashboardUpdate>;
}

/** The operations of this server. */
export class ServerOperations implements CounterOperations {
  readonly #deps: ServerOperationsDeps;
  #streams: readonly string[] = [];
  /** Increases at the begin and at the end of each delete. */
  #deletes = 0;

  constructor(deps: ServerOperationsDeps) {
    this.#deps = deps;
  }

  async read(keys: readonly Uint8Array[]): Promise<readonly ReadResult[]> {
    const { store, supervisor } = this.#ready();
    for (let snapshot = 0; snapshot < SNAPSHOTS_MAX; snapshot += 1) {
      // Again for each snapshot: a stream may have been handed over meanwhile.
      if (!supervisor.isRecovered) throw new CounterError('database-unavailable', NOT_RECOVERED);
      const streams = this.#streamsOf(supervisor);
      const deletes = this.#deletes;
      const { counters, checkpoints } = await store.readCounters(keys, streams);
      const seen = new Map<string, Checkpoint | null>();
      for (const stream of streams) seen.set(stream, checkpoints.get(stream) ?? null);
      const held = await supervisor.pendingOf(keys, seen);
      // A concurrent delete may have moved sums from `counters`. If a stream has ended meanwhile, a newer shard thread may not
      // know that the snapshot is older.
      if (held.includes('again') || deletes !== this.#deletes || streams !== this.#streamsOf(supervisor)) continue;
      const isIngest = this.#deps.role === 'ingest';
      return counters.map((counter, index) => readingOf(counter, isIngest ? null : totalOf(held, index)));
    }
    throw new CounterError('overloaded', 'The counters changed faster than they could be read; try again.');
  }

  async delete(key: Uint8Array, id: string | undefined): Promise<Sum | undefined> {
    const deletes = this.#deps.deletes();
    if (deletes === undefined) throw new CounterError('starting', 'The server is starting; try again later.');
    // The last sum includes everything acknowledged before the call.
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
      throw new CounterError(
        'database-unavailable',
        'The database is unavailable; pending increments stay pending. Try again later.',
      );
    }
    return supervisor.flush();
  }

  metrics(): Promise<string> {
    return this.#deps.metrics();
  }

  dashboard(since: number): Promise<DashboardUpdate> {
    return this.#deps.dashboard(since);
  }

  readiness(): Readiness {
    return this.#deps.readiness();
  }

  #ready(): { readonly store: Store; readonly supervisor: Supervisor } {
    const store = this.#deps.store();
    const supervisor = this.#deps.supervisor();
    if (store === undefined || supervisor === undefined) {
      throw new CounterError('starting', 'The server is starting; try again later.');
    }
    return { store, supervisor };
  }

  /** The same array until the streams change, so that concurrent reads share a statement. */
  #streamsOf(supervisor: Supervisor): readonly string[] {
    const streams = supervisor.streams;
    if (streams.length !== this.#streams.length || streams.some((stream, index) => stream !== this.#streams[index])) {
      this.#streams = streams;
    }
    return this.#streams;
  }
}

/** The pending total of the key at `index` in all shards; undefined if none holds it. */
function totalOf(held: readonly PendingAnswer[], index: number): Sum | undefined {
  let sum: Sum | undefined;
  for (const answer of held) {
    const part = answer === 'again' ? null : (answer[index] ?? null);
    if (part !== null) sum = addSums(sum ?? 0, part);
  }
  return sum;
}

/** `pending`: undefined if no shard holds the key, null if none could. */
function readingOf(counter: CommittedCounter | UnreadableCounter, pending: Sum | undefined | null): ReadResult {
  if ('unreadable' in counter) return counter;
  const { committed, exists, updatedAt } = counter;
  if (!exists && (pending ?? undefined) === undefined) return undefined;
  const sum = addSums(committed, pending ?? 0);
  return { sum, committed, pending: pending === null ? null : (pending ?? 0), updatedAt };
}
