/**
 * Checks the subjects of streams without an open row. Shard thread.
 *
 * ```text
 * a stream without a row ──first record is LSN 1──► its row is made ──► taken like any other
 *                         └──a later one──► not counted, with an alert
 * a retired stream ──a record above its checkpoint──► opened again
 *                   └──nothing but fences, long after──► its row is removed
 * ```
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import {
  COUNT_STREAMS_ELSEWHERE,
  FORGET_STREAM,
  JOIN_STORE,
  KNOWN_STREAMS,
  REOPEN_STREAM,
} from '../../../db/stream-statements.js';
import { lockedRow, type StreamRows } from '../shared/stream-rows.js';
import { isUuid } from '../../../core/uuid.js';
import type { Broker } from './broker.js';
import { Errand, type WriteLine } from './errand.js';
import { isFence } from './nats-message.js';
import type { StreamGrowth } from './stream-growth.js';
import type { SubjectScan } from './subject-content.js';
import type { SubjectPurge } from './subject-purge.js';

/** Added to the interval between two lists for each subject. */
const LIST_INTERVAL_A_SUBJECT_MS = 2;
/** Between two counts of streams in other stores. */
const COUNT_INTERVAL_MS = 60_000;
/** Most subjects that are checked after one list. */
const CHECKS_MAX = 100;

/** Intervals that a simulation shortens, in ms. */
export interface DiscoveryIntervals {
  /** Shortest time between two lists; each subject adds to it. At most the time between two surveys. */
  readonly listMs: number;
  /** How long a subject is not checked again while its number of messages stays the same. */
  readonly checkedMs: number;
}

/** Collaborators and limits of the discovery. */
export interface SubjectDiscoveryDeps {
  readonly broker: Pick<Broker, 'store' | 'streams'>;
  readonly rows: StreamRows;
  readonly scan: SubjectScan;
  readonly purge: SubjectPurge;
  readonly growth: StreamGrowth;
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly intervals: DiscoveryIntervals;
  /** JOURNAL_KEEP_SECONDS. */
  readonly keepSeconds: number;
  /** IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHours: number;
  readonly log: WriteLine;
}

interface KnownRow {
  readonly stream: string;
  readonly epoch: string;
  readonly lsn: string;
  readonly retired: boolean;
  readonly due: boolean;
  readonly old: boolean;
  /** Null: of an earlier version. */
  readonly store: string | null;
}

/** Checks a subject. True where nothing is left to do for now. */
type StreamCheck = (stream: string) => Promise<boolean>;

/** Checks all subjects now and then. */
export class SubjectDiscovery {
  readonly #deps: SubjectDiscoveryDeps;
  readonly #checked = new Map<string, { readonly messages: number; readonly at: number }>();
  #lastChecked: string | undefined;
  #dueAt = Number.NEGATIVE_INFINITY;
  #countDueAt: number;
  #elsewhere = 0;
  readonly #listing: Errand;
  readonly #discovering: Errand;
  readonly #checking: Errand;
  readonly #counting: Errand;
  #isClosing = false;

  constructor(deps: SubjectDiscoveryDeps) {
    this.#deps = deps;
    const unchecked = 'Cannot check NATS for streams without an open row now; retrying';
    this.#listing = new Errand(deps.log, 'Cannot list the subjects in NATS now; retrying');
    this.#discovering = new Errand(deps.log, unchecked);
    this.#checking = new Errand(deps.log, unchecked);
    this.#counting = new Errand(deps.log, 'Cannot count the streams of other stores now; retrying');
    // Streams of an earlier version join the store before.
    this.#countDueAt = deps.clock.monotonic() + COUNT_INTERVAL_MS;
  }

  /** Lists and checks subjects where that is due. `open`: streams with an open row; `beginning`: the one that this thread begins. */
  run(open: ReadonlySet<string>, beginning: string | undefined): void {
    if (this.#deps.clock.monotonic() < this.#dueAt) return;
    this.#listing.run(() => this.#look(open, beginning));
  }

  /** Resolves after the current check. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await Promise.all([this.#listing, this.#discovering, this.#checking, this.#counting].map(({ ended }) => ended));
  }

  async #look(open: ReadonlySet<string>, beginning: string | undefined): Promise<void> {
    const { broker, clock, growth, intervals } = this.#deps;
    const askedAt = clock.monotonic();
    const subjects = await broker.streams();
    const now = clock.monotonic();
    this.#dueAt = askedAt + intervals.listMs + LIST_INTERVAL_A_SUBJECT_MS * subjects.size;
    growth.noteList(subjects, open, askedAt);
    if (now >= this.#countDueAt) this.#counting.run(() => this.#countElsewhere(now));
    const due: string[] = [];
    for (const [stream, messages] of fromNext(subjects, this.#lastChecked)) {
      if (open.has(stream) || !isUuid(stream) || stream === beginning) continue;
      const checked = this.#checked.get(stream);
      if (checked?.messages === messages && now - checked.at < intervals.checkedMs) continue;
      due.push(stream);
      if (due.length === CHECKS_MAX) break;
    }
    this.#lastChecked = due.at(-1);
    for (const stream of this.#checked.keys()) if (!subjects.has(stream)) this.#checked.delete(stream);
    if (due.length === 0) return;
    const known = await this.#known(due);
    const runChecks = (errand: Errand, streams: readonly string[], check: StreamCheck): void => {
      errand.run(() => this.#checkAll(streams, check, subjects, now));
    };
    const isKnown = (stream: string): boolean => known.has(stream);
    // New streams first, because nobody flushes them. A retired one may have many messages, and can wait.
    runChecks(
      this.#discovering,
      due.filter((stream) => !isKnown(stream)),
      (stream) => this.#discover(stream),
    );
    runChecks(this.#checking, due.filter(isKnown), (stream) => this.#check(stream, known.get(stream)));
  }

  /** Nobody finishes streams of other stores here, and they hold the pruning of idempotency keys back. */
  async #countElsewhere(now: number): Promise<void> {
    const { broker, log, rows } = this.#deps;
    const [{ streams } = { streams: 0 }] = await rows.run<{ streams: number }>(COUNT_STREAMS_ELSEWHERE, [
      'nats',
      broker.store.id,
    ]);
    this.#countDueAt = now + COUNT_INTERVAL_MS;
    if (streams === this.#elsewhere) return;
    this.#elsewhere = streams;
    if (streams === 0) log('info', {}, 'All open streams of this database have their records in this broker');
    else
      log(
        'warn',
        { streams, store: broker.store.id },
        `${streams} open ${streams === 1 ? 'stream has its' : 'streams have their'} records in another broker or stream of JetStream; ` +
          'servers that reach it finish them. `npm run journal -- stores` lists them',
      );
  }

  async #checkAll(
    streams: readonly string[],
    check: StreamCheck,
    subjects: ReadonlyMap<string, number>,
    now: number,
  ): Promise<void> {
    for (const stream of streams) {
      if (this.#isClosing) return;
      const isDone = await check(stream);
      if (isDone) this.#checked.set(stream, { messages: subjects.get(stream) ?? 0, at: now });
    }
  }

  async #known(streams: readonly string[]): Promise<ReadonlyMap<string, KnownRow>> {
    const { keepSeconds, windowHours, rows } = this.#deps;
    const known = await rows.run<KnownRow>(KNOWN_STREAMS, [streams, keepSeconds, windowHours]);
    return new Map(known.map((row) => [row.stream, row]));
  }

  /** Checks the subject of a stream that has a row, and is not an open one of this store. */
  async #check(stream: string, known: KnownRow | undefined): Promise<boolean> {
    if (known === undefined) return false;
    const { broker, log, purge, rows, scan, windowHours } = this.#deps;
    if (known.store === null) {
      await rows.run(JOIN_STORE, [stream, broker.store.id]);
      return false;
    }
    if (known.store !== broker.store.id) {
      const what = `Stream ${stream} belongs to the store ${known.store} and has messages in another one, a copy: they are not counted`;
      log('error', { stream, store: broker.store.id }, what);
      return true;
    }
    if (!known.retired || !known.due) return false;
    const checkpoint = Number(known.lsn);
    const content = await scan.content(stream, checkpoint);
    if (content === 'unread') return false;
    if (content === 'unreadable') return true;
    if (content.lastLsn > checkpoint) {
      await this.#reopen(stream, checkpoint, content.lastLsn);
      return false;
    }
    if (content.gapAt !== undefined) {
      const what = 'A retired stream has a record behind a gap in NATS; the record is not counted';
      log('error', { stream, checkpoint, lsn: content.gapAt }, what);
      return true;
    }
    // All records are at or below the checkpoint.
    if (content.hasRecords) {
      if (content.firstFence === undefined) return true;
      return purge.below(stream, content.firstFence, ({ data }) => isFence(data));
    }
    if (known.old) await rows.run(FORGET_STREAM, [stream, known.epoch, windowHours]);
    return true;
  }

  /** Makes the row of a stream that has none. */
  async #discover(stream: string): Promise<boolean> {
    const { broker, log, rows, scan } = this.#deps;
    const first = await scan.firstRecord(stream);
    if (first === undefined) return true;
    const { lsn: firstLsn, isBehindFence, node, shard, database } = first;
    const origin = { node, shard };
    const { databaseId, isAdopted } = broker.store;
    if (database !== databaseId && !(database === undefined && isAdopted)) {
      log('error', { stream, database, ...origin }, foreignSentence(stream, database));
      return true;
    }
    if (firstLsn !== 1 || isBehindFence) {
      // Another thread may have made its row since, flushed records and removed them.
      if ((await this.#known([stream])).has(stream)) return false;
      const what =
        `Stream ${stream} has no row in journal_checkpoints and begins with ${isBehindFence ? 'a fence' : `LSN ${firstLsn}`} in NATS: ` +
        'how much of it is counted is unknown, so its records are neither counted nor removed';
      log('error', { stream, firstLsn, ...origin }, what);
      return true;
    }
    if (await rows.makeFound(stream, origin))
      log('info', { stream, ...origin }, 'Found a stream in NATS without a row in PostgreSQL; made its row');
    return false;
  }

  async #reopen(stream: string, checkpoint: Lsn, lastLsn: Lsn): Promise<void> {
    const { log, rows } = this.#deps;
    const reopened = await rows.takeLocked(async (run) => {
      await lockedRow(run, stream);
      return (await run({ text: REOPEN_STREAM, values: [stream, null] }))[0];
    });
    if (reopened === undefined) return;
    const what = 'A retired stream has records above its checkpoint; opened it again';
    log('warn', { stream, checkpoint, lastLsn }, what);
  }
}

function foreignSentence(stream: string, database: string | undefined): string {
  const neither = 'its records are neither counted nor removed';
  if (database !== undefined) return `Stream ${stream} in NATS belongs to the database ${database}: ${neither}`;
  return (
    `Stream ${stream} in NATS names no database, because a server of an earlier version writes it, and it has no row in ` +
    `journal_checkpoints: ${neither} until \`npm run journal -- pair-store\` says that such streams belong to this database`
  );
}

/** All subjects, beginning behind the last checked one, so that each has its turn. */
function fromNext(
  subjects: ReadonlyMap<string, number>,
  last: string | undefined,
): readonly (readonly [string, number])[] {
  const all = [...subjects];
  const next = all.findIndex(([stream]) => stream === last) + 1;
  return [...all.slice(next), ...all.slice(0, next)];
}
