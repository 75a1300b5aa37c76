/** The shard's collaborators with a bug of `mutations.ts` in between; without one they are unchanged. */
import { randomUUID } from 'node:crypto';
import type { Checkpoint } from '#product/core/checkpoint.js';
import type {
  Journal,
  JournalStreams,
  RecordBytes,
  RecoverableJournal,
} from '#product/shard-worker/journal/journal.js';
import type { KeptClaim, OwnershipClaim, StreamOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import type {
  FlushAttempt,
  LockedStream,
  ShardDatabase,
  Taking,
} from '#product/shard-worker/thread/flush/shard-database.js';
import type { Disk } from '#product/shard-worker/journal/file/disk.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import type { Mutations } from './mutations.js';
import { overridden } from './overridden.js';

/** The shard's streams and database, with the requested mutations. `startId`: an id of the process. */
export function mutate(
  streams: JournalStreams,
  database: ShardDatabase,
  mutations: Mutations,
  startId: string,
): { readonly streams: JournalStreams; readonly database: ShardDatabase } {
  if (Object.keys(mutations).length === 0) return { streams, database };
  const journals = new Map<string, MutatedJournal>();
  return {
    streams: mutateStreams(streams, journals, mutations, startId, (journal) => registerAtStart(journal, database)),
    database: mutateDatabase(database, journals, mutations, startId),
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

function mutateStreams(
  streams: JournalStreams,
  journals: Map<string, MutatedJournal>,
  mutations: Mutations,
  startId: string,
  created: (journal: Journal) => void,
): JournalStreams {
  const keep = (journal: Journal): RecoverableJournal => {
    const mutated = mutateJournal(journal as RecoverableJournal, mutations, startId);
    journals.set(journal.stream, mutated);
    return mutated.journal;
  };
  return overridden(streams, {
    create: (cover) => {
      const journal = keep(streams.create(cover));
      if (mutations.registerAtStart === true) created(journal);
      return journal;
    },
    open: (stream) => keep(streams.open(stream)),
    ...(mutations.timeNotNoted === true && { notedTime: () => 0, noteTime: () => undefined }),
  });
}

/** A journal with bugs, and what the bugs of its database need of it. */
interface MutatedJournal {
  readonly journal: RecoverableJournal;
  /** Set while the taker decides about a row that is missing or new. */
  forgetsClaims: boolean;
}

function mutateJournal(inner: RecoverableJournal, mutations: Mutations, startId: string): MutatedJournal {
  let prunedTo = 0;
  let seenEnd: number | undefined;
  const mutated = { journal: inner, forgetsClaims: false };
  mutated.journal = overridden(inner, {
    get syncedLsn(): number {
      return mutations.freezeUnsynced === true ? inner.endLsn : inner.syncedLsn;
    },
    get firstLsn(): number {
      return mutated.forgetsClaims ? 1 : inner.firstLsn;
    },
    ownership(): StreamOwnership {
      const ownership = inner.ownership();
      if (mutated.forgetsClaims) return { ...ownership, claims: [] };
      const noted = ownership.claims.filter(({ epoch }) => epoch !== undefined);
      if (mutations.onlyNotedClaims === true) return { ...ownership, claims: noted };
      if (mutations.trustCopiedIds !== true) return ownership;
      // No noted claim is later than any other.
      const others = ownership.claims.filter(({ epoch }) => epoch === undefined);
      return { ...ownership, claims: [...noted, ...others] };
    },
    keepOwnership(ownership: StreamOwnership): void {
      if (ownership.mark === 'open') seenEnd = undefined;
      const { claims } = ownership;
      const last = claims.at(-1);
      if (mutations.claimOfStart !== true || last === undefined) {
        inner.keepOwnership(ownership);
        return;
      }
      const own: KeptClaim = { ...last, id: startId };
      const others = claims.slice(0, -1).filter(({ id }) => id !== startId);
      inner.keepOwnership({ ...ownership, claims: [...others, own] });
    },
    findEnd(): number {
      if (mutations.noSecondLook !== true) return inner.findEnd();
      seenEnd ??= inner.findEnd();
      return seenEnd;
    },
    append(group: readonly RecordBytes[], databaseTime: number): number {
      if (mutations.pruneByClock === true && inner.isPruneDue) inner.prune(prunedTo);
      return inner.append(group, databaseTime);
    },
    replay: (after: number) => inner.replay(mutations.ignoreCheckpoint === true ? 0 : after),
    prune(upTo: number): void {
      prunedTo = upTo;
      inner.prune(upTo);
    },
  });
  return mutated;
}

function mutateDatabase(
  database: ShardDatabase,
  journals: ReadonlyMap<string, MutatedJournal>,
  mutations: Mutations,
  startId: string,
): ShardDatabase {
  const frozenFrom = new Map<string, number>();
  const lost = new Set<string>();
  /** By stream. */
  const checkpoints = new Map<string, Checkpoint>();
  let reads = 0;
  return overridden(database, {
    get time() {
      reads += 1;
      const { time } = database;
      if (mutations.touchUnflushed === true && reads % TOUCH_EVERY === 0) {
        for (const [stream, at] of checkpoints) database.touch(stream, at, time).catch(() => undefined);
      }
      return mutations.lastTimeHeard === true ? Math.max(0, time - (reads % 3) * STALE_SECONDS) : time;
    },
    async take(stream, decide, committing) {
      const journal = journals.get(stream);
      const taken = await database.take(
        stream,
        (found) => decideWrongly(seenWrongly(found, journal, mutations), decide, journal, mutations, startId),
        committing,
      );
      if (taken === undefined) return undefined;
      checkpoints.set(stream, taken.row);
      const before = seenWrongly(taken.before, journal, mutations);
      const isOpen = taken.before.row !== undefined && !taken.before.row.isOver;
      const coversAll = mutations.nothingPutAside === true || (mutations.coverInMemory === true && isOpen);
      return { before, row: coversAll ? { ...taken.row, coveredFrom: 0 } : taken.row };
    },
    ...(mutations.closeNothing === true && { closeStream: () => Promise.resolve(true) }),
    async flush(range): Promise<FlushAttempt> {
      const { stream } = range;
      if (mutations.pruneBeforeCommit === true) journals.get(stream)?.journal.prune(range.toLsn);
      let { fromLsn } = range;
      frozenFrom.set(stream, fromLsn);
      if (lost.delete(stream)) fromLsn = (await database.readBack(stream))?.lsn ?? fromLsn;
      const attempt = await database.flush({ ...range, fromLsn });
      if (attempt.kind === 'committed') checkpoints.set(stream, { epoch: range.epoch, lsn: range.toLsn });
      if (attempt.kind === 'unknown' && mutations.mergeAfterLostReply === true) lost.add(stream);
      return attempt;
    },
    async readBack(stream) {
      const row = await database.readBack(stream);
      if (row === undefined || !lost.has(stream)) return row;
      return { ...row, lsn: frozenFrom.get(stream) ?? row.lsn };
    },
  });
}

/** How far the replies of {@link Mutations.lastTimeHeard} are apart. */
const STALE_SECONDS = 20;
/** Looks at the time for each touch of {@link Mutations.touchUnflushed}. */
const TOUCH_EVERY = 4;
/** Ids of the claims of {@link Mutations.registerAtStart}. */
const STARTS = new Set<string>();

/** Makes a row for a stream of which the directory does not say anything yet. */
function registerAtStart({ stream }: Journal, database: ShardDatabase): void {
  const id = randomUUID();
  STARTS.add(id);
  const taking = { claims: [{ id, lsn: 0 }], lsn: 0 };
  database
    .take(
      stream,
      () => taking,
      () => undefined,
    )
    .catch(() => undefined);
}

/** What a less careful taker would have seen. */
function seenWrongly(found: LockedStream, mutated: MutatedJournal | undefined, mutations: Mutations): LockedStream {
  if (mutated === undefined) return found;
  const { mark, claims: own } = mutated.journal.ownership();
  const isOwn = ({ id }: OwnershipClaim): boolean => own.some((claim) => claim.id === id);
  if (mutations.ignoreClaims === true) return { ...found, claims: found.claims.filter(isOwn) };
  if (mutations.registerBlindly === true && mark === 'unregistered') return { ...found, claims: [] };
  if (mutations.registerAtStart === true) return { ...found, claims: found.claims.filter(({ id }) => !STARTS.has(id)) };
  if (mutations.lastClaim !== true) return found;
  const lsn = found.claims.findLast((claim) => !isOwn(claim))?.lsn ?? 0;
  return { ...found, claims: found.claims.map((claim) => (isOwn(claim) ? claim : { ...claim, lsn })) };
}

/** The taker's decision, changed to what a less careful one would have made of it. */
function decideWrongly(
  found: LockedStream,
  decide: (found: LockedStream) => Taking,
  mutated: MutatedJournal | undefined,
  mutations: Mutations,
  startId: string,
): Taking {
  if (mutated !== undefined) mutated.forgetsClaims = mutations.makeMissingRow === true && found.row === undefined;
  try {
    const taking = decide(found);
    const own = taking.claims.at(-1);
    if (own === undefined) return taking;
    const id = mutations.claimOfStart === true ? startId : own.id;
    const lsn = mutations.claimEndOfJournal === true && mutated !== undefined ? mutated.journal.findEnd() : own.lsn;
    return { ...taking, claims: [...taking.claims.slice(0, -1), { id, lsn }] };
  } finally {
    if (mutated !== undefined) mutated.forgetsClaims = false;
  }
}
