/** The shard's collaborators with a bug of `mutations.ts` in between; without one they are unchanged. */
import type {
  Journal,
  JournalRecord,
  JournalStreams,
  RecordBytes,
  RecoverableJournal,
} from '#product/shard-worker/journal/journal.js';
import type { OwnershipClaim } from '#product/shard-worker/journal/ownership-claim.js';
import type { Disk } from '#product/shard-worker/journal/file/disk.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import type { FlushAttempt, ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import type { Mutations } from './mutations.js';

/** The shard's streams and database, with the requested mutations. */
export function mutate(
  streams: JournalStreams,
  database: ShardDatabase,
  mutations: Mutations,
): { readonly streams: JournalStreams; readonly database: ShardDatabase } {
  const journals = new Map<string, Journal>();
  const { pruneBeforeCommit, pruneByClock, ignoreCheckpoint, freezeUnsynced } = mutations;
  const touched = pruneBeforeCommit ?? pruneByClock ?? ignoreCheckpoint ?? freezeUnsynced ?? false;
  return {
    streams: touched ? mutateStreams(streams, journals, mutations) : streams,
    database:
      mutations.pruneBeforeCommit === true ||
      mutations.mergeAfterLostReply === true ||
      mutations.ignoreClaims === true ||
      mutations.acceptedThroughAhead === true
        ? mutateDatabase(database, journals, mutations)
        : database,
  };
}

/** The disk of a shard, with the requested mutations. */
export function mutateDisk(disk: Disk, { trustLaterSync, forgetUnsynced }: Mutations): Disk {
  if (trustLaterSync === true) {
    const openWritable = disk.openWritable.bind(disk);
    disk.openWritable = (path) => ({ ...openWritable(path), write: (bytes) => bytes.byteLength });
  }
  if (forgetUnsynced === true) {
    const create = disk.create.bind(disk);
    let hasFailed = false;
    disk.create = (path) => {
      const file = create(path);
      const isForgetful = hasFailed;
      hasFailed = false;
      return {
        ...file,
        write: (bytes, offset) =>
          isForgetful && offset === SEGMENT_HEADER_BYTES ? bytes.byteLength : file.write(bytes, offset),
        sync: () => {
          hasFailed = true;
          file.sync();
          hasFailed = false;
        },
      };
    };
  }
  return disk;
}

function mutateStreams(streams: JournalStreams, journals: Map<string, Journal>, mutations: Mutations): JournalStreams {
  const keep = (journal: Journal): MutatedJournal => {
    const mutated = new MutatedJournal(journal as RecoverableJournal, mutations);
    journals.set(journal.stream, mutated);
    return mutated;
  };
  return {
    endsWithThread: streams.endsWithThread,
    keepMs: streams.keepMs,
    existing: () => streams.existing(),
    create: () => keep(streams.create()),
    open: (stream) => keep(streams.open(stream)),
    remove: (journal) => streams.remove(journal),
    tend: () => streams.tend(),
    setDatabaseId: (id) => streams.setDatabaseId(id),
  };
}

class MutatedJournal implements RecoverableJournal {
  readonly #inner: RecoverableJournal;
  readonly #mutations: Mutations;
  #prunedTo = 0;

  constructor(inner: RecoverableJournal, mutations: Mutations) {
    this.#inner = inner;
    this.#mutations = mutations;
  }

  get stream(): string {
    return this.#inner.stream;
  }

  get endLsn(): number {
    return this.#inner.endLsn;
  }

  get syncedLsn(): number {
    return this.#mutations.freezeUnsynced === true ? this.#inner.endLsn : this.#inner.syncedLsn;
  }

  get unsyncedIncrements(): number {
    return this.#inner.unsyncedIncrements;
  }

  get bytes(): number {
    return this.#inner.bytes;
  }

  get isPruneDue(): boolean {
    return this.#inner.isPruneDue;
  }

  get takesRecords(): boolean {
    return this.#inner.takesRecords;
  }

  get location(): string {
    return this.#inner.location;
  }

  claims(): readonly OwnershipClaim[] {
    return this.#inner.claims();
  }

  keepClaim(claim: OwnershipClaim, inDatabase: readonly OwnershipClaim[]): void {
    this.#inner.keepClaim(claim, inDatabase);
  }

  findEnd(checkpoint: number): number {
    return this.#inner.findEnd(checkpoint);
  }

  recover(checkpoint: number): ReturnType<RecoverableJournal['recover']> {
    return this.#inner.recover(checkpoint);
  }

  append(group: readonly RecordBytes[]): number | Promise<number> {
    if (this.#mutations.pruneByClock === true && this.#inner.isPruneDue) this.#inner.prune(this.#prunedTo);
    return this.#inner.append(group);
  }

  reserve(bytes: number): void {
    this.#inner.reserve(bytes);
  }

  sync(): void | Promise<void> {
    return this.#inner.sync();
  }

  replay(after: number): AsyncIterable<JournalRecord> {
    return this.#inner.replay(this.#mutations.ignoreCheckpoint === true ? 0 : after);
  }

  prune(upTo: number): void {
    this.#prunedTo = upTo;
    this.#inner.prune(upTo);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

function mutateDatabase(
  database: ShardDatabase,
  journals: ReadonlyMap<string, Journal>,
  { pruneBeforeCommit, mergeAfterLostReply, ignoreClaims, acceptedThroughAhead }: Mutations,
): ShardDatabase {
  // More than the product's margin.
  const aheadMs = acceptedThroughAhead === true ? 2000 : 0;
  const frozenFrom = new Map<string, number>();
  const lost = new Set<string>();
  return {
    databaseId: () => database.databaseId(),
    ensureStream: (stream) => database.ensureStream(stream),
    async readClaims(stream) {
      const row = await database.readClaims(stream);
      return ignoreClaims === true ? { ...row, claims: [] } : row;
    },
    claimStream: (stream, at, claims) => database.claimStream(stream, at, claims),
    retire: (stream, at) => database.retire(stream, at),
    close: () => database.close(),
    touch: (stream, at, acceptedThroughMs) =>
      database.touch(stream, at, acceptedThroughMs === undefined ? undefined : acceptedThroughMs + aheadMs),
    flushSettingAside: (range) => database.flushSettingAside(range),
    async flush(range): Promise<FlushAttempt> {
      const { stream } = range;
      if (pruneBeforeCommit === true) journals.get(stream)?.prune(range.toLsn);
      let { fromLsn } = range;
      frozenFrom.set(stream, fromLsn);
      if (lost.delete(stream)) fromLsn = (await database.readBack(stream))?.lsn ?? fromLsn;
      const acceptedThroughMs = range.acceptedThroughMs + aheadMs;
      const attempt = await database.flush({ ...range, fromLsn, acceptedThroughMs });
      if (attempt.kind === 'unknown' && mergeAfterLostReply === true) lost.add(stream);
      return attempt;
    },
    async readBack(stream) {
      const row = await database.readBack(stream);
      if (row === undefined || !lost.has(stream)) return row;
      return { ...row, lsn: frozenFrom.get(stream) ?? row.lsn };
    },
  };
}
