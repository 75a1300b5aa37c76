/**
 * One history: processes that start and end, clients, faults, and at the end a healthy start, a drain and the last
 * check. The seed determines everything.
 */
import { JournalError } from '#product/core/errors.js';
import { MissingRowsError } from '#product/shard-worker/journal/missing-rows.js';
import type { Disk } from '#product/shard-worker/journal/file/disk.js';
import { acceptCheckpoint, acceptGaps } from '#product/shard-worker/journal/file/stream-files.js';
import { findSegments, scanStream } from '#product/shard-worker/journal/file/stream-scan.js';
import { rebindStream } from '#product/shard-worker/journal/file/stream-rebind.js';
import { type ClientRequest, Violation, type ExpectedCounter, type Fate } from './expectations.js';
import type { Mutations } from './mutations.js';
import { POISON_PREFIX } from './database/values.js';
import { clockOf } from './scheduler.js';
import { SimulatedNode } from './simulated-node.js';
import { Emphasis } from './emphasis.js';
import { Faults } from './faults.js';
import { type HistoryResult, RandomHistory, textOf } from './random-history.js';
import { randomSettings } from './random-settings.js';
import type { Storage } from './storage.js';
import { World } from './world.js';

/** Virtual time limit that no history reaches, in ms. */
const TIME_MAX_MS = 900_000;
const HEAL_MAX_MS = 120_000;
const SHUTDOWN_MAX_MS = 30_000;
/** For how long the last check waits for the pruner. */
const UPKEEP_MAX_MS = 20_000;
/** Time for which the start of a process waits for the database. */
const START_WAIT_MS = 3000;

/** Runs the history of `seed`; `trace` gets a line for each event. */
export async function runHistory(seed: number, mutations: Mutations = {}, trace?: string[]): Promise<HistoryResult> {
  return new History(seed, mutations, trace).run(TIME_MAX_MS);
}

class History extends RandomHistory {
  readonly #emphasis: Emphasis;
  readonly #faults: Faults;
  readonly #settings;
  readonly #nodeId: string;
  #node: SimulatedNode | undefined;
  /** The data directory, and its copy if there is one. */
  #storages: readonly Storage[];
  /** The process on the other directory, if there is one. */
  #other: SimulatedNode | undefined;
  readonly #copyBeforeLife: number;
  #nodes = 0;
  /** Whether pauses are long enough for windows to pass. */
  readonly #isLong: boolean;
  #expiryDays: number;

  constructor(seed: number, mutations: Mutations, trace: string[] | undefined) {
    const emphasis = new Emphasis(seed);
    super(new World(seed, mutations, trace, emphasis.scale));
    this.#emphasis = emphasis;
    const { random } = this.world;
    this.#settings = this.#emphasis.settingsOf(randomSettings(this.world));
    this.world.circumstances.deferredSync = this.#settings.syncPolicy === 'everysec';
    this.#faults = new Faults(this.world, this.life, () => this.#node, this.#settings.keepSeconds);
    this.#nodeId = this.world.uuid();
    this.#storages = [this.world.storage];
    const copyBeforeLife = random.below(6) === 0 ? 1 + random.below(3) : 0;
    // What an operator knows of a deleted row says nothing of which copy it was about.
    this.#copyBeforeLife = this.#faults.has('row-deleted') ? 0 : copyBeforeLife;
    this.makeKeys(1 + random.below(6), this.#faults.has('poison'));
    this.#isLong = random.below(3) === 0;
    this.#expiryDays = random.below(2);
    this.world.note(() => `settings ${JSON.stringify(this.#settings)}, faults ${this.#faults.names.join(' ')}`);
  }

  protected override checkBalances(): void {
    this.#node?.checkBalance();
  }

  protected override get onWindows(): boolean {
    return this.#emphasis.onWindows;
  }

  /** A standby may take over that lacks what another node counts now. */
  protected override get isElsewhereUnsafe(): boolean {
    return this.world.database.isDead || this.#faults.isFailoverPending;
  }

  protected override prunerSettings(paceMs?: number): { readonly expiryDays: number; readonly paceMs: number } {
    return { expiryDays: this.#expiryDays, paceMs: paceMs ?? this.world.random.pick([20, 200, 1500]) };
  }

  protected override async main(): Promise<void> {
    const { random } = this.world;
    if (random.below(3) > 0 || this.#emphasis.onWindows) this.replacePruner();
    const all = 1 + random.below(4) + (this.#emphasis.onCopies ? 3 : 0);
    const isCopied = this.#emphasis.onCopies && !this.#faults.has('row-deleted');
    const copyBeforeLife = isCopied ? this.#emphasis.copyBeforeLife(all) : this.#copyBeforeLife;
    for (let lives = all; lives > 0; lives -= 1) {
      if (lives === copyBeforeLife) this.#copy();
      const isLastBeforeCopy = lives > 1 && lives - 1 === copyBeforeLife;
      const outageMs = isLastBeforeCopy && this.#emphasis.copiesWithoutDatabase ? this.#takeDatabaseAway() : 0;
      const node = this.#start(this.#freeStorage());
      await this.#live(node, outageMs + 20 + random.below(random.below(4) === 0 ? 2000 : 300));
      // The process whose directory is copied next may keep running beside its copy.
      const staysBeside = isLastBeforeCopy && random.below(2) === 0;
      if (staysBeside && this.#other === undefined) {
        this.#other = node;
        continue;
      }
      await this.#endLife(node);
      await this.#rest();
    }
    await this.#finish();
  }

  /** The database is away while a process starts, and until some time later. Returns for how long a start waits for it. */
  #takeDatabaseAway(): number {
    const { database, scheduler } = this.world;
    database.network = 'gone';
    database.cut();
    scheduler.after(START_WAIT_MS + this.#emphasis.random.below(2500), this.life, () => (database.network = 'fine'));
    return START_WAIT_MS;
  }

  /** No process runs. Other nodes count, and in some histories windows pass. */
  async #rest(): Promise<void> {
    const { random, onWindows } = this.#emphasis;
    if (!onWindows) return this.pause(this.world.random.below(300));
    for (let rests = random.below(4); rests > 0; rests -= 1) {
      await this.pause(random.below(this.windowMs));
      this.retryElsewhere();
    }
  }

  /** A directory that no process uses. */
  #freeStorage(): Storage {
    const other = this.#other?.end === undefined ? this.#other?.storage : undefined;
    return this.world.random.pick(this.#storages.filter((storage) => storage !== other));
  }

  #start(storage: Storage): SimulatedNode {
    const node = this.#makeNode(storage);
    this.#node = node;
    void node.start();
    return node;
  }

  #makeNode(storage: Storage): SimulatedNode {
    this.#nodes += 1;
    const world = this.world;
    const shards = 1 + world.random.below(3);
    this.#lookAtTime();
    const node = new SimulatedNode(world, storage, this.#settings, shards, this.#nodeId, `process ${this.#nodes}`);
    const where = this.#storages.indexOf(storage);
    world.note(() => `${node.name} starts with ${shards} shards${where > 0 ? ' on the copy' : ''}`);
    return node;
  }

  /** A recovery refuses a database that went back further than committed segments are kept. */
  #lookAtTime(): void {
    if (this.#faults.isTooLate) this.world.circumstances.tooLate = true;
  }

  /**
   * The data directory is copied while its process runs, or after its end. From here on processes start on either, one
   * after the other and both at once, however an earlier process ended.
   */
  #copy(): void {
    const world = this.world;
    if (this.#storages.length > 1) return;
    world.note(() => 'the data directory is copied');
    world.circumstances.copied = true;
    this.#storages = [world.storage, world.storage.copy()];
  }

  /** Starts the process on the other directory, again or for the first time, if none runs there. */
  #startOther(node: SimulatedNode): void {
    const storage = this.#storages.find((other) => other !== node.storage);
    if (storage === undefined || (this.#other !== undefined && this.#other.end === undefined)) return;
    if (this.#other !== undefined) this.#checkEnd(this.#other);
    this.#other = this.#makeNode(storage);
    void this.#other.start();
  }

  /** The action of an operator who reads why a process does not start. False if the reason is another one. */
  #rebind({ storage, reason, name }: SimulatedNode): boolean {
    if (!(reason instanceof JournalError) || reason.code !== 'journal-copied') return false;
    const [, stream = '', above = ''] =
      /journal -- rebind --stream (\S+) --above (\d+) --data-dir \/data`/.exec(reason.message) ?? [];
    const disk = storage.diskOf(() => undefined);
    if (stream === '') {
      this.#moveAway(disk, reason);
      return true;
    }
    const { scheduler } = this.world;
    const clock = clockOf(scheduler, this.life);
    const newStreamId = (): string => this.world.uuid();
    storage.full = false;
    const directory = `/data/journal/${stream}`;
    // The journal need not reach back that far if the database went back too far, or behind records that a copy never
    // had.
    const { missing } = scanStream(disk, findSegments(disk, directory), Number(above));
    if (missing.length > 0 && this.#faults.failedOverTo !== undefined)
      acceptGaps(disk, directory, missing, scheduler.now);
    this.world.circumstances.isRebinding = true;
    const { records } = rebindStream(disk, '/data/journal', stream, Number(above), this.#nodeId, {
      clock,
      newStreamId,
    });
    this.world.circumstances.isRebinding = false;
    this.world.note(
      () => `${records} records of ${stream} above ${above} on the directory of ${name} get a stream of their own`,
    );
    return true;
  }

  /** The action of an operator who cannot know what of a stream is counted, and gives it up. */
  #moveAway(disk: Disk, { message }: JournalError): void {
    const [, stream = ''] = /who has owned stream (\S+) since/.exec(message) ?? [];
    this.world.circumstances.tooLate = true;
    disk.rename(`/data/journal/${stream}`, `/data/journal/${stream}.away`);
    this.world.note(() => `an operator moves ${stream} away`);
  }

  /**
   * The action of an operator who reads that rows of streams are gone, and knows up to where each is counted. False if the reason
   * is another one.
   */
  #accept({ storage, reason, name }: SimulatedNode): boolean {
    if (!(reason instanceof MissingRowsError)) return false;
    const disk = storage.diskOf(() => undefined);
    storage.full = false;
    for (const { stream, location, firstLsn } of reason.rows) {
      const counted = this.world.database.tables.deleted.get(stream) ?? 0;
      const { missing } = scanStream(disk, findSegments(disk, location), counted);
      // The database went back further than the journal reaches.
      if (missing.length > 0) this.world.circumstances.tooLate = true;
      const above = Math.max(counted, firstLsn - 1);
      acceptCheckpoint(disk, location, above, this.world.scheduler.now);
      this.world.note(() => `an operator of ${name} says that ${stream} is counted up to LSN ${above}`);
    }
    return true;
  }

  /** The last check: every acknowledged increment is in the database once, nothing twice, nothing refused. */
  #checkAll(node: SimulatedNode): void {
    this.world.checkSums(`the end of ${node.name}`, !this.world.circumstances.tooLate);
  }

  async #live(node: SimulatedNode, forMs: number): Promise<void> {
    const { scheduler, random } = this.world;
    const until = scheduler.now + forMs;
    const pace = 4 + random.below(50);
    while (node.end === undefined && scheduler.now < until) {
      await this.pause(random.below(pace));
      if (this.#isLong && random.below(25) === 0) await this.pause(random.below(2 * this.windowMs));
      if (node.end === undefined) this.#act(node);
      if (this.#other?.end === undefined && this.#other !== undefined) this.#act(this.#other);
      else if (!this.#faults.isHealed && this.#storages.length > 1 && this.#startsOther) {
        this.#startOther(node);
      }
    }
  }

  get #startsOther(): boolean {
    return this.world.random.below(this.#emphasis.onCopies ? 10 : 40) === 0;
  }

  #act(node: SimulatedNode): void {
    const { random } = this.world;
    if (this.#emphasis.retriesNow) {
      if (random.below(2) === 0) this.#retry(node);
      else this.retryElsewhere();
      return;
    }
    switch (random.below(15)) {
      case 0:
        this.#faults.strike();
        return;
      case 1:
        this.#read(node);
        return;
      case 2:
        if (random.below(2) === 0) this.allowRefusal(node.flushAll());
        return;
      case 3:
        this.#retry(node);
        return;
      case 4:
        this.retryElsewhere();
        return;
      case 5:
        if (this.pruner !== undefined && random.below(8) === 0) this.replacePruner();
        return;
      default:
        for (let burst = random.below(4) === 0 ? 1 + random.below(4) : 1; burst > 0; burst -= 1)
          this.#send(node, this.newRequest());
    }
  }

  #send(node: SimulatedNode, request: ClientRequest): void {
    const { name, idempotencyKey } = request;
    const attempt = this.attemptOf(request);
    this.world.note(
      () => `${name}: ${textOf(request)}${idempotencyKey === undefined ? '' : ` with key ${idempotencyKey}`}`,
    );
    node.submit(attempt);
  }

  /** A client repeats an idempotent request, for no reason or because it got no answer. */
  #retry(node: SimulatedNode): void {
    const { random } = this.world;
    const recent = this.recent();
    if (recent.length > 0) this.#send(node, random.pick(recent));
  }

  #read(node: SimulatedNode): void {
    const counter = this.counter();
    if (counter.key.startsWith(POISON_PREFIX)) return;
    const before = [...counter.fates];
    const read = node.read(counter.bytes).then((sum) => {
      const known = this.#known(counter, before);
      if (node.end !== undefined) return;
      const { copied } = this.world.circumstances;
      const isExact = !copied && !this.#isUncertain && this.#faults.failedOverTo === undefined;
      counter.check(sum ?? 0, 'a read', isExact ? known : undefined, true);
    });
    this.allowRefusal(read);
  }

  /**
   * What a read must show of what was known before it. An increment that a loss of power put at risk meanwhile may be missing,
   * and so may a request that waits to be put aside.
   */
  #known(counter: ExpectedCounter, before: readonly Fate[]): readonly Fate[] {
    const now = counter.fates;
    const mayBeAside = this.world.circumstances.copied || this.#isUncertain;
    const isUnknown = (digit: number): boolean =>
      now[digit] === 'unknown' || (mayBeAside && counter.requests[digit]?.idempotencyKey !== undefined);
    return before.map((fate, digit): Fate => (isUnknown(digit) ? 'unknown' : fate));
  }

  /** A stream may have been retired under its owner, or be left alone, or its row may not be where it was. */
  get #isUncertain(): boolean {
    return this.world.circumstances.databaseChanged || this.world.database.expirations > 0;
  }

  async #endLife(node: SimulatedNode): Promise<void> {
    const { random } = this.world;
    if (node.end === undefined) {
      switch (random.below(3)) {
        case 0:
          await this.#terminate(node);
          break;
        case 1:
          node.crash();
          break;
        default:
          node.crashIn = 1 + random.below(random.below(2) === 0 ? 10 : 60);
          await this.#live(node, 300);
          node.crash();
      }
    }
    this.#checkEnd(node);
    if (random.below(2) === 0) this.#losePower(node.storage);
    if (random.below(2) === 0) this.#rebind(node);
    if (random.below(2) === 0) this.#accept(node);
  }

  #losePower(storage: Storage): void {
    const remains = this.world.random.pick(['nothing', 'everything', 'prefix', 'subset'] as const);
    this.world.note(() => `power lost; of the unsynced remains ${remains}`);
    storage.losePower(remains);
    this.world.powerLost(storage);
  }

  async #terminate(node: SimulatedNode): Promise<void> {
    this.world.note(() => `${node.name} gets SIGTERM`);
    this.sigterm(node);
    const until = this.world.scheduler.now + SHUTDOWN_MAX_MS;
    while (node.end === undefined && this.world.scheduler.now < until) await this.pause(20);
    node.crash();
  }

  /** Checks the way in which a process ended. */
  #checkEnd(node: SimulatedNode): void {
    this.#lookAtTime();
    const { circumstances, expectations } = this.world;
    if (node.end === 'foreign' && !circumstances.copied) throw new Violation(`${node.name} met a foreign owner`);
    if (node.reason instanceof JournalError && node.reason.code === 'checkpoint-missing') {
      if (circumstances.databaseChanged) return;
      throw node.reason;
    }
    if (
      node.reason instanceof JournalError &&
      ['journal-gap', 'journal-corrupt', 'journal-format', 'journal-foreign', 'journal-copied'].includes(
        node.reason.code,
      )
    ) {
      const isGap = node.reason.code === 'journal-gap';
      // A copy continued beyond LSNs that it never had, and then the database went back behind them.
      if (isGap && circumstances.copied && this.#faults.failedOverTo !== undefined) circumstances.tooLate = true;
      // What was committed from memory is in PostgreSQL only, until that goes back.
      if (isGap && circumstances.fromMemory && this.#faults.failedOverTo !== undefined) circumstances.tooLate = true;
      const isExpected = isGap ? circumstances.tooLate : node.reason.code === 'journal-copied' && circumstances.copied;
      if (!isExpected) throw node.reason;
    }
    if (node.end !== 'drained' || node.left.length > 0 || circumstances.copied) return;
    if (this.#faults.failedOverTo !== undefined) return;
    if (!node.hasServed) return;
    const keys = expectations.counters.keys();
    expectations.check(keys, (key) => this.world.sumOf(key), `${node.name} has drained, nothing left`, true);
  }

  async #finish(): Promise<void> {
    const { random } = this.world;
    this.#faults.heal();
    this.world.note(() => 'everything is healthy from here on');
    this.#other?.crash();
    if (this.#emphasis.onWindows) {
      // A search for poison takes longer than a stream is kept here.
      this.#expiryDays = 0;
      this.replacePruner();
    }
    const storages = random.below(2) === 0 ? this.#storages : this.#storages.toReversed();
    let node: SimulatedNode | undefined;
    for (const storage of storages) node = await this.#finishIn(storage);
    // There is at least one directory.
    this.#checkAll(node as SimulatedNode);
    await this.#checkUpkeep();
  }

  /**
   * Every process has stopped cleanly: no row holds the pruning of idempotency keys up, and all keys go once their window is
   * over. A copy, a deleted row or an earlier state of the database leaves rows that only an operator can judge.
   */
  async #checkUpkeep(): Promise<void> {
    const { circumstances, database, scheduler } = this.world;
    if (circumstances.copied || circumstances.databaseChanged || circumstances.tooLate) return;
    await this.pruneAfterWindow();
    const until = scheduler.now + UPKEEP_MAX_MS;
    while (database.tables.tokens.size > 0 || this.openStreams.length > 0) {
      if (scheduler.now > until) {
        const { size } = database.tables.tokens;
        throw new Violation(
          `${size} idempotency keys stay; after clean stops these rows are open: ${this.openStreams.join(' ')}`,
        );
      }
      await this.pause(50);
    }
  }

  /** A healthy start, and a drain that leaves nothing. */
  async #finishIn(storage: Storage, attempts = 3): Promise<SimulatedNode> {
    const { scheduler, expectations } = this.world;
    const until = scheduler.now + HEAL_MAX_MS;
    let node = this.#start(storage);
    while (!(node.refusal === undefined && node.isRecovered)) {
      await this.pause(50);
      if (node.end !== undefined) {
        this.#checkEnd(node);
        if (node.reason instanceof JournalError && node.reason.code === 'journal-gap') return node;
        this.#rebind(node);
        this.#accept(node);
        node = this.#start(storage);
      }
      if (scheduler.now > until) throw new Violation(`${node.name} does not become ready`);
    }
    await this.#live(node, 60);
    await this.#untilUnlocked(until);
    for (const counter of expectations.counters.values()) {
      if (!counter.key.startsWith(POISON_PREFIX)) this.#readNow(node, counter);
    }
    await this.#terminate(node);
    this.#checkEnd(node);
    // A stream that expired under its living owner: the next start takes it again.
    const isFenced = node.reason instanceof JournalError && node.reason.code === 'journal-fenced';
    if ((node.left.length > 0 || isFenced) && this.#isUncertain && attempts > 0) {
      return this.#finishIn(storage, attempts - 1);
    }
    if (node.end !== 'drained') throw new Violation(`${node.name} could not be drained: it ${node.end ?? 'lives'}`);
    if (node.left.length > 0) throw new Violation(`${node.name} left ${JSON.stringify(node.left)}`);
    return node;
  }

  /** A session whose client has died holds its locks until the server ends it, for longer than a stop waits for them. */
  async #untilUnlocked(until: number): Promise<void> {
    const { scheduler, database } = this.world;
    while (!database.locks.isEmpty) {
      if (scheduler.now > until) throw new Violation('a lock is held for ever');
      await this.pause(50);
    }
  }

  #readNow(node: SimulatedNode, counter: ExpectedCounter): void {
    const { copied, tooLate } = this.world.circumstances;
    const before = copied || tooLate || this.#isUncertain ? undefined : counter.fates;
    const read = node.read(counter.bytes).then((sum) => {
      const isExact = before !== undefined && !this.#isUncertain;
      counter.check(sum ?? 0, 'a last read', isExact ? this.#known(counter, before) : undefined, true);
    });
    this.allowRefusal(read);
  }
}
