/**
 * One history: processes that start and end, clients, faults, and at the end a healthy start, a drain and the last
 * check. The seed determines everything.
 */
import { CounterError, JournalError } from '#product/core/errors.js';
import { acceptGaps } from '#product/shard-worker/journal/file/stream-files.js';
import { findSegments, scanStream } from '#product/shard-worker/journal/file/stream-scan.js';
import { rebindStream } from '#product/shard-worker/journal/file/stream-rebind.js';
import { ClientRequest, Violation, type ExpectedCounter, type Fate } from './expectations.js';
import type { Mutations } from './mutations.js';
import { POISON_PREFIX } from './postgres-model.js';
import { clockOf, Life } from './scheduler.js';
import { SimulatedNode } from './simulated-node.js';
import { Faults } from './faults.js';
import { randomSettings } from './random-settings.js';
import type { Storage } from './storage.js';
import { World } from './world.js';

/** Virtual time limit that no history reaches, in ms. */
const TIME_MAX_MS = 900_000;
const HEAL_MAX_MS = 120_000;
const SHUTDOWN_MAX_MS = 30_000;

/** The result of a history. */
export interface HistoryResult {
  readonly seed: number;
  readonly steps: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly violation: Error | undefined;
}

/** Runs the history of `seed`; `trace` gets a line for each event. */
export async function runHistory(seed: number, mutations: Mutations = {}, trace?: string[]): Promise<HistoryResult> {
  const history = new History(seed, mutations, trace);
  const violation = await history.run();
  return { seed, violation, ...history.counts };
}

class History {
  readonly #world: World;
  readonly #life: Life;
  readonly #faults: Faults;
  readonly #settings;
  readonly #nodeId: string;
  readonly #keys: string[];
  #keyGeneration = 0;
  #node: SimulatedNode | undefined;
  /** The data directory, and its copy if there is one. */
  #storages: readonly Storage[];
  /** The process on the other directory, if there is one. */
  #other: SimulatedNode | undefined;
  readonly #copyBeforeLife: number;
  #nodes = 0;
  readonly #retryable: ClientRequest[] = [];
  #requests = 0;
  #acknowledged = 0;
  #done = false;

  constructor(seed: number, mutations: Mutations, trace: string[] | undefined) {
    this.#world = new World(seed, mutations, trace);
    this.#life = new Life((error) => this.#world.violate(error));
    const { random } = this.#world;
    this.#settings = randomSettings(this.#world);
    this.#world.circumstances.deferredSync = this.#settings.syncPolicy === 'everysec';
    this.#faults = new Faults(this.#world, this.#life, () => this.#node, this.#settings.keepSeconds);
    this.#nodeId = this.#world.uuid();
    this.#storages = [this.#world.storage];
    this.#copyBeforeLife = random.below(6) === 0 ? 1 + random.below(3) : 0;
    this.#keys = Array.from({ length: 1 + random.below(6) }, (_, index) => `k${index}`);
    if (this.#faults.has('poison')) this.#keys.push(POISON_PREFIX);
    this.#world.note(() => `settings ${JSON.stringify(this.#settings)}, faults ${this.#faults.names.join(' ')}`);
  }

  get counts(): { readonly steps: number; readonly requests: number; readonly acknowledged: number } {
    return { steps: this.#world.scheduler.steps, requests: this.#requests, acknowledged: this.#acknowledged };
  }

  async run(): Promise<Error | undefined> {
    const { scheduler } = this.#world;
    try {
      this.#main().then(
        () => (this.#done = true),
        (error: unknown) => this.#world.violate(error),
      );
      const finished = await scheduler.run(
        () => this.#done,
        TIME_MAX_MS,
        () => {
          this.#world.throwViolation();
          this.#node?.checkBalance();
        },
      );
      if (!finished) throw new Violation('The history came to a halt: nothing is left that could happen');
      return undefined;
    } catch (error) {
      this.#world.note(() => `violation: ${String(error)}`);
      return error instanceof Error ? error : new Violation(String(error));
    }
  }

  async #main(): Promise<void> {
    const { random } = this.#world;
    for (let lives = 1 + random.below(4); lives > 0; lives -= 1) {
      if (lives === this.#copyBeforeLife) this.#copy();
      const node = this.#start(this.#freeStorage());
      await this.#live(node, 20 + random.below(random.below(4) === 0 ? 2000 : 300));
      // The process whose directory is copied next may keep running beside its copy.
      const staysBeside = lives > 1 && lives - 1 === this.#copyBeforeLife && random.below(2) === 0;
      if (staysBeside && this.#other === undefined) {
        this.#other = node;
        continue;
      }
      await this.#endLife(node);
      await this.#pause(random.below(300));
    }
    await this.#finish();
  }

  /** A directory that no process uses. */
  #freeStorage(): Storage {
    const other = this.#other?.end === undefined ? this.#other?.storage : undefined;
    return this.#world.random.pick(this.#storages.filter((storage) => storage !== other));
  }

  #start(storage: Storage): SimulatedNode {
    const node = this.#makeNode(storage);
    this.#node = node;
    void node.start();
    return node;
  }

  #makeNode(storage: Storage): SimulatedNode {
    this.#nodes += 1;
    const world = this.#world;
    const shards = 1 + world.random.below(3);
    this.#lookAtTime();
    const node = new SimulatedNode(world, storage, this.#settings, shards, this.#nodeId, `process ${this.#nodes}`);
    const where = this.#storages.indexOf(storage);
    world.note(() => `${node.name} starts with ${shards} shards${where > 0 ? ' on the copy' : ''}`);
    return node;
  }

  /** A recovery refuses a database that went back further than committed segments are kept. */
  #lookAtTime(): void {
    if (this.#faults.isTooLate) this.#world.circumstances.tooLate = true;
  }

  /**
   * The data directory is copied while its process runs, or after its end. From here on processes start on either, one
   * after the other and both at once, however an earlier process ended.
   */
  #copy(): void {
    const world = this.#world;
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
  async #rebind({ storage, reason, name }: SimulatedNode): Promise<boolean> {
    if (!(reason instanceof JournalError) || reason.code !== 'journal-copied') return false;
    const [, stream = '', above = ''] =
      /journal -- rebind --stream (\S+) --above (\d+) --data-dir \/data`/.exec(reason.message) ?? [];
    const disk = storage.diskOf(() => undefined);
    const { scheduler } = this.#world;
    const clock = clockOf(scheduler, this.#life);
    const newStreamId = (): string => this.#world.uuid();
    storage.full = false;
    const directory = `/data/journal/${stream}`;
    // The journal need not reach back that far if the database went back too far, or behind records that a copy never
    // had.
    const { missing } = scanStream(disk, findSegments(disk, directory), Number(above));
    if (missing.length > 0 && this.#faults.failedOverTo !== undefined)
      acceptGaps(disk, directory, missing, scheduler.now);
    const { records } = await rebindStream(disk, '/data/journal', stream, Number(above), this.#nodeId, {
      clock,
      newStreamId,
    });
    this.#world.note(
      () => `${records} records of ${stream} above ${above} on the directory of ${name} get a stream of their own`,
    );
    return true;
  }

  /** The last check: every acknowledged increment is in the database once, nothing twice, nothing refused. */
  #checkAll(node: SimulatedNode): void {
    const { expectations, database, circumstances } = this.#world;
    const keys = [...expectations.counters.keys(), ...database.tables.counters.keys()];
    expectations.check(keys, (key) => this.#world.sumOf(key), `the end of ${node.name}`, !circumstances.tooLate);
  }

  async #live(node: SimulatedNode, forMs: number): Promise<void> {
    const { scheduler, random } = this.#world;
    const until = scheduler.now + forMs;
    const pace = 4 + random.below(50);
    while (node.end === undefined && scheduler.now < until) {
      await this.#pause(random.below(pace));
      if (node.end === undefined) this.#act(node);
      if (this.#other?.end === undefined && this.#other !== undefined) this.#act(this.#other);
      else if (!this.#faults.isHealed && this.#storages.length > 1 && random.below(40) === 0) this.#startOther(node);
    }
  }

  #act(node: SimulatedNode): void {
    const { random } = this.#world;
    switch (random.below(13)) {
      case 0:
        this.#faults.strike();
        return;
      case 1:
        this.#read(node);
        return;
      case 2:
        if (random.below(2) === 0) node.flushAll().catch((error: unknown) => this.#expectRefusal(error));
        return;
      case 3:
        this.#retry(node);
        return;
      default:
        for (let burst = random.below(4) === 0 ? 1 + random.below(4) : 1; burst > 0; burst -= 1) this.#request(node);
    }
  }

  #request(node: SimulatedNode): void {
    const { random } = this.#world;
    const increments = random.below(3) === 0 ? 1 + random.below(4) : 1;
    const counters = Array.from({ length: increments }, () => this.#counter());
    this.#requests += 1;
    const idempotencyKey = random.below(4) === 0 ? `t${this.#requests}` : undefined;
    const request = new ClientRequest(`request ${this.#requests}`, counters, idempotencyKey);
    if (idempotencyKey !== undefined) this.#retryable.push(request);
    this.#attempt(node, request);
  }

  #attempt(node: SimulatedNode, request: ClientRequest): void {
    const { name, idempotencyKey, increments } = request;
    const attempt = request.attempt((fate) => {
      if (fate === 'acknowledged') this.#acknowledged += 1;
      this.#world.note(() => `${name} is ${fate}`);
    });
    this.#world.note(() => {
      const texts = increments.map(({ counter, digit }) => `${counter.key}[${digit}]`);
      return `${name}: ${texts.join(' ')}${idempotencyKey === undefined ? '' : ` with key ${idempotencyKey}`}`;
    });
    node.submit(attempt);
  }

  /** A client repeats an idempotent request, for no reason or because it got no answer. */
  #retry(node: SimulatedNode): void {
    const { random } = this.#world;
    // A digit of a sum can count up to three.
    const recent = this.#retryable.slice(-8).filter(({ attempts }) => attempts < 3);
    if (recent.length > 0) this.#attempt(node, random.pick(recent));
  }

  /** One of the few hot counters that can take one more increment; new ones replace used up ones. */
  #counter(): ExpectedCounter {
    const { random, expectations } = this.#world;
    const index = random.below(this.#keys.length);
    // In range, and the keys are never empty.
    const counter = expectations.counter(this.#keys[index] as string, index % 2 === 0 ? 1 : -1);
    if (!counter.isUsedUp) return counter;
    this.#keyGeneration += 1;
    const base = counter.key.startsWith(POISON_PREFIX) ? POISON_PREFIX : 'k';
    this.#keys[index] = `${base}${index}.${this.#keyGeneration}`;
    return this.#counter();
  }

  #read(node: SimulatedNode): void {
    const counter = this.#counter();
    if (counter.key.startsWith(POISON_PREFIX)) return;
    const before = [...counter.fates];
    node
      .read(counter.bytes)
      .then((sum) => {
        const now = counter.fates;
        // An increment that a loss of power put at risk meanwhile may be missing.
        const known = before.map((fate, digit): Fate => (now[digit] === 'unknown' ? 'unknown' : fate));
        if (node.end !== undefined) return;
        const isExact = !this.#world.circumstances.copied && this.#faults.failedOverTo === undefined;
        counter.check(sum ?? 0, 'a read', isExact ? known : undefined, true);
      })
      .catch((error: unknown) => this.#expectRefusal(error));
  }

  async #endLife(node: SimulatedNode): Promise<void> {
    const { random } = this.#world;
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
    if (random.below(2) === 0) await this.#rebind(node);
  }

  #losePower(storage: Storage): void {
    const remains = this.#world.random.pick(['nothing', 'everything', 'prefix', 'subset'] as const);
    this.#world.note(() => `power lost; of the unsynced remains ${remains}`);
    storage.losePower(remains);
    this.#world.powerLost(storage);
  }

  async #terminate(node: SimulatedNode): Promise<void> {
    this.#world.note(() => `${node.name} gets SIGTERM`);
    // A shard that fails while it is drained ends the process, and the process is what matters here.
    node.terminate().catch((error: unknown) => this.#expectRefusal(error));
    const until = this.#world.scheduler.now + SHUTDOWN_MAX_MS;
    while (node.end === undefined && this.#world.scheduler.now < until) await this.#pause(20);
    node.crash();
  }

  /** Checks the way in which a process ended. */
  #checkEnd(node: SimulatedNode): void {
    this.#lookAtTime();
    const { circumstances, expectations } = this.#world;
    if (node.end === 'foreign' && !circumstances.copied) throw new Violation(`${node.name} met a foreign owner`);
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
    expectations.check(keys, (key) => this.#world.sumOf(key), `${node.name} has drained, nothing left`, true);
  }

  async #finish(): Promise<void> {
    const { random } = this.#world;
    this.#faults.heal();
    this.#world.note(() => 'everything is healthy from here on');
    this.#other?.crash();
    const storages = random.below(2) === 0 ? this.#storages : this.#storages.toReversed();
    let node: SimulatedNode | undefined;
    for (const storage of storages) node = await this.#finishIn(storage);
    // There is at least one directory.
    this.#checkAll(node as SimulatedNode);
  }

  /** A healthy start, and a drain that leaves nothing. */
  async #finishIn(storage: Storage): Promise<SimulatedNode> {
    const { scheduler, expectations } = this.#world;
    const until = scheduler.now + HEAL_MAX_MS;
    let node = this.#start(storage);
    while (!(node.refusal === undefined && node.isRecovered)) {
      await this.#pause(50);
      if (node.end !== undefined) {
        this.#checkEnd(node);
        if (node.reason instanceof JournalError && node.reason.code === 'journal-gap') return node;
        await this.#rebind(node);
        node = this.#start(storage);
      }
      if (scheduler.now > until) throw new Violation(`${node.name} does not become ready`);
    }
    await this.#live(node, 60);
    for (const counter of expectations.counters.values()) {
      if (!counter.key.startsWith(POISON_PREFIX)) this.#readNow(node, counter);
    }
    await this.#terminate(node);
    this.#checkEnd(node);
    if (node.end !== 'drained') throw new Violation(`${node.name} could not be drained: it ${node.end ?? 'lives'}`);
    if (node.left.length > 0) throw new Violation(`${node.name} left ${JSON.stringify(node.left)}`);
    return node;
  }

  #readNow(node: SimulatedNode, counter: ExpectedCounter): void {
    const before = this.#world.circumstances.copied || this.#world.circumstances.tooLate ? undefined : counter.fates;
    node
      .read(counter.bytes)
      .then((sum) => counter.check(sum ?? 0, 'a last read', before, true))
      .catch((error: unknown) => this.#expectRefusal(error));
  }

  #expectRefusal(error: unknown): void {
    if (!(error instanceof CounterError)) this.#world.violate(error);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.scheduler.after(ms, this.#life, resolve));
  }
}
