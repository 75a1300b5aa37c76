/**
 * One history of servers that share a journal, in PostgreSQL or in a broker: they start, freeze and end, take each other's streams over, and
 * clients repeat idempotent requests at any of them. At the end everything is healthy, and all streams end. The seed determines
 * everything.
 */
import { JournalError } from '#product/core/errors.js';
import type { BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import { decodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { isFence } from '#product/shard-worker/journal/nats/nats-message.js';
import type { Role } from '#product/shard-worker/thread/streams/shared-streams.js';
import { POISON_PREFIX } from './database/values.js';
import { isOpen } from './database/tables.js';
import { type ClientRequest, type ExpectedCounter, Violation } from './expectations.js';
import type { Mutations } from './mutations.js';
import { recordsOf } from './queued-records.js';
import { type HistoryResult, RandomHistory, textOf } from './random-history.js';
import { SharedFaults, BROKER_STANDBY_LAG_MAX_MS } from './shared-faults.js';
import { sharedPlan, type SharedJournal, type SharedPlan } from './shared-settings.js';
import { SimulatedNode } from './simulated-node.js';
import { addStrangers, checkStrangers, isStranger } from './strangers.js';
import type { PrunerSettings } from './simulated-pruner.js';
import { World } from './world.js';

/** Virtual time limit that no history reaches, in ms. */
const TIME_MAX_MS = 400_000;
const HEAL_MAX_MS = 60_000;
/** How long faults and requests go on, in ms; in a history whose broker loses messages there must be some to lose. */
const LENGTHS_MS = [400, 1500, 4000];
const LONG_MS = [1500, 4000];
const SHUTDOWN_MAX_MS = 30_000;
/** One of so many histories on a broker has streams that do not belong there. */
const STRANGERS_ONE_IN = 4;
/** Starts until no row is open any more. */
const LEFT_STARTS_MAX = 4;

/** A server, in one process after the other. */
interface Server {
  readonly nodeId: string;
  readonly role: Role;
  readonly shards: number;
  node: SimulatedNode | undefined;
  /** Its last process has been stopped. */
  isStopped: boolean;
}

/** Runs the history of `seed`; `trace` gets a line for each event. */
export async function runSharedHistory(
  seed: number,
  mutations: Mutations = {},
  trace?: string[],
  journal: SharedJournal = 'postgres',
): Promise<HistoryResult> {
  return new SharedHistory(seed, mutations, trace, journal).run(TIME_MAX_MS);
}

class SharedHistory extends RandomHistory {
  readonly #plan: SharedPlan;
  readonly #faults: SharedFaults;
  readonly #servers: readonly Server[];
  readonly #seed: number;
  #processes = 0;
  /** When requests were acknowledged first. */
  readonly #acknowledgedAt = new Map<ClientRequest, number>();

  constructor(seed: number, mutations: Mutations, trace: string[] | undefined, journal: SharedJournal) {
    const plan = sharedPlan(seed, journal);
    super(new World(seed, mutations, trace, plan.scale));
    this.#seed = seed;
    this.world.isShared = true;
    this.world.circumstances.memoryHasIt = plan.memoryHasIt;
    if (plan.broker !== undefined) this.world.addBroker(plan.broker);
    if (plan.queue !== undefined) this.world.addQueue(plan.queue);
    this.world.onExpired = (stream) => this.#checkExpired(stream);
    const { random } = this.world;
    const events = {
      failedOver: (from: number) => this.#loseSince(from),
      brokerLost: () => this.#losePower(),
    };
    this.#faults = new SharedFaults(this.world, this.life, events, plan);
    const keepsLonger = plan.broker !== undefined && this.#faults.has('database-failover');
    // Records stay for longer than a standby is behind, so that no failover takes what is acknowledged.
    const keepSeconds = keepsLonger ? (2 * BROKER_STANDBY_LAG_MAX_MS) / 1000 : plan.settings.keepSeconds;
    this.#plan = { ...plan, settings: { ...plan.settings, keepSeconds } };
    this.#servers = this.#plan.roles.map((role) => ({
      nodeId: this.world.uuid(),
      role,
      shards: 1 + random.below(2),
      node: undefined,
      isStopped: false,
    }));
    this.makeKeys(1 + random.below(5), this.#faults.has('poison'));
    const { broker: store } = this.world;
    if (store !== undefined && this.#hasStrangers) addStrangers(this.world, store, 'k0');
    const { settings, roles, broker, queue } = this.#plan;
    this.world.note(() => {
      const facts = [settings, broker, queue].filter((each) => each !== undefined).map((each) => JSON.stringify(each));
      return `${roles.join(' ')}, settings ${facts.join(' ')}, faults ${this.#faults.names.join(' ')}`;
    });
  }

  protected override checkBalances(): void {
    for (const { node } of this.#servers) node?.checkBalance();
  }

  protected override get onWindows(): boolean {
    return this.#plan.onWindows;
  }

  protected override get isElsewhereUnsafe(): boolean {
    return this.world.database.isDead;
  }

  protected override prunerSettings(paceMs?: number): Omit<PrunerSettings, 'windowHours'> {
    const { random } = this.world;
    return {
      expiryDays: 0,
      logKeepSeconds: random.pick([0, 0, 20]),
      // Rounds that are far apart are gaps.
      paceMs: paceMs ?? random.pick(this.#isInQueue ? [20, 200] : [20, 200, 1500]),
    };
  }

  protected override async main(): Promise<void> {
    const { random, scheduler } = this.world;
    this.replacePruner();
    for (const server of this.#servers) if (random.below(3) > 0) this.#start(server);
    const { losesTail, aliveMs } = this.#plan;
    const restMs = losesTail ? aliveMs : 2 * this.windowMs;
    const until = scheduler.now + random.pick(losesTail ? LONG_MS : LENGTHS_MS);
    const pace = 4 + random.below(losesTail ? 12 : 40);
    while (scheduler.now < until) {
      await this.pause(random.below(pace));
      if (random.below(40) === 0) await this.pause(random.below(restMs));
      this.#act();
    }
    await this.#finish();
  }

  #act(): void {
    const { random } = this.world;
    const server = random.pick(this.#servers);
    const node = this.#up(server);
    if (node !== undefined) this.#faults.dwell(node);
    switch (random.below(20)) {
      case 0:
        if (node !== undefined) this.#faults.strike(node);
        return;
      case 1:
        if (node === undefined) this.#start(server);
        else if (random.below(4) === 0) this.#end(node);
        return;
      case 2:
        if (node === undefined && random.below(2) === 0) this.#start(server);
        return;
      case 3:
        if (node !== undefined) this.#read(node);
        return;
      case 4:
        if (node !== undefined && random.below(3) === 0) this.allowRefusal(node.flushAll());
        return;
      case 5:
        if (random.below(8) === 0) this.replacePruner();
        return;
      case 6:
        this.retryElsewhere();
        return;
      case 7:
      case 8:
      case 9:
        this.#retry();
        return;
      default:
        this.#send(this.newRequest());
    }
  }

  /** Its process, if it runs. */
  #up({ node }: Server): SimulatedNode | undefined {
    return node?.end === undefined ? node : undefined;
  }

  #start(server: Server): SimulatedNode {
    const { settings } = this.#plan;
    const { shared } = settings;
    if (server.node !== undefined) this.#checkEnd(server.node);
    this.#processes += 1;
    const name = `process ${this.#processes} (${server.role})`;
    const ownSettings = shared === undefined ? settings : { ...settings, shared: { ...shared, role: server.role } };
    const node = new SimulatedNode(this.world, this.world.storage, ownSettings, server.shards, server.nodeId, name);
    this.world.note(() => `${name} starts with ${server.shards} shards`);
    server.node = node;
    void node.start();
    return node;
  }

  #end(node: SimulatedNode): void {
    const { random } = this.world;
    if (random.below(2) === 0 && !this.#plan.memoryHasIt) {
      node.crash();
      return;
    }
    this.world.note(() => `${node.name} gets SIGTERM`);
    this.#whenAwake(node, () => this.sigterm(node));
  }

  /** A process that is stopped takes nothing before it goes on. */
  #whenAwake({ life }: SimulatedNode, callback: () => void): void {
    if (!life.park(callback)) callback();
  }

  /** Only threads that were killed too often end a process. */
  #checkEnd({ end, reason, name }: SimulatedNode): void {
    if (end !== 'failed' && end !== 'foreign') return;
    const isKilled = reason instanceof JournalError && reason.message.includes('killed');
    if (!isKilled) throw new Violation(`${name} has ${end}: ${String(reason)}`);
  }

  /** To any server that takes increments. */
  #send(request: ClientRequest): void {
    const { random, scheduler } = this.world;
    const nodes = this.#servers.flatMap((server) => (server.role === 'roll-up' ? [] : (this.#up(server) ?? [])));
    const attempt = this.attemptOf(request);
    const node = nodes.length === 0 ? undefined : random.pick(nodes);
    const { name, idempotencyKey = 'plain' } = request;
    this.world.note(() => `${name} (${idempotencyKey}): ${textOf(request)} to ${node?.name ?? 'nobody'}`);
    if (node === undefined) {
      attempt.settle('starting');
      return;
    }
    this.#whenAwake(node, () => {
      const isLate = scheduler.now > (request.firstSentAt ?? 0) + this.windowMs;
      if (node.end !== undefined || isLate) attempt.abandon();
      else node.submit(attempt);
    });
  }

  /** A failover of the database takes nothing back that a server has acknowledged, since the broker has it. */
  get #isInBroker(): boolean {
    return this.world.broker !== undefined;
  }

  /** A failover takes what is deleted from the queue behind a commit that it takes back. */
  get #isInQueue(): boolean {
    return this.world.queue !== undefined;
  }

  /** What was sent before a failover may be in the state that it lost, although its answer comes, or is repeated, later. */
  protected override onAcknowledged(request: ClientRequest, isElsewhere: boolean): void {
    const { now } = this.world.scheduler;
    if (this.#isInBroker && !isElsewhere) return;
    if (this.#isInQueue && !isElsewhere) {
      if (this.world.queued.isUncertain(request)) request.putAtRisk();
      return;
    }
    const isUncertain = this.#faults.failovers.some(({ to }) => (request.firstSentAt ?? 0) <= to);
    if (isUncertain) request.putAtRisk();
    else if (!this.#acknowledgedAt.has(request)) this.#acknowledgedAt.set(request, now);
  }

  /** A failover has taken back what was committed since. */
  #loseSince(from: number): void {
    this.world.checkLost();
    for (const [request, at] of this.#acknowledgedAt) if (at >= from) request.putAtRisk();
    const { database, queued } = this.world;
    if (this.#isInQueue)
      for (const [stream, lsn] of database.highWater)
        queued.putAtRisk(stream, database.tables.checkpoints.get(stream)?.lsn ?? 0, lsn);
  }

  /** Those that flush lose what they hold, and a writer does not see the broker restart. */
  #losePower(): void {
    const { random, scheduler } = this.world;
    if (this.#plan.memoryHasIt) return;
    for (const server of this.#servers) {
      const node = this.#up(server);
      if (node === undefined || random.below(3) === 0) continue;
      if (server.role === 'ingest') {
        if (random.below(2) === 0) this.#faults.freeze(node, 2 * this.#plan.aliveMs);
        continue;
      }
      node.crash();
      scheduler.after(random.below(this.#plan.aliveMs / 2), this.life, () => {
        if (this.#up(server) === undefined && !server.isStopped) this.#start(server);
      });
    }
  }

  #retry(): void {
    const recent = this.recent();
    if (recent.length > 0) this.#send(this.world.random.pick(recent));
  }

  /** A read may lack what other servers hold; it never shows too much. */
  #read(node: SimulatedNode): void {
    const counter = this.counter();
    if (counter.key.startsWith(POISON_PREFIX)) return;
    const read = node.read(counter.bytes).then((sum) => {
      if (node.end === undefined) counter.check(sum ?? 0, 'a read', undefined, true);
    });
    this.allowRefusal(read);
  }

  /** Everything is healthy: all streams whose writers are gone end soon, and clean stops leave no open row. */
  async #finish(): Promise<void> {
    const { random, expectations } = this.world;
    this.#faults.heal();
    this.world.note(() => 'everything is healthy from here on');
    for (const server of this.#servers) {
      const node = this.#up(server);
      if (node !== undefined) node.crashIn = 0;
      if (random.below(2) === 0 && !this.#plan.memoryHasIt) node?.crash();
    }
    if (!this.#servers.some(({ role }) => role !== 'ingest')) throw new Error('Nobody flushes');
    await this.#until('all servers are ready', () => this.#servers.every((server) => this.#isReady(server)));
    for (let requests = 5; requests > 0; requests -= 1) {
      this.#send(this.newRequest());
      await this.pause(random.below(20));
    }
    for (const counter of expectations.counters.values()) this.#readNow(counter);
    await this.#until('nobody writes a stream that lacks records', () => this.#isWrittenSoundly);
    const isWriting = ({ role }: Server): boolean => role === 'ingest';
    for (const server of this.#servers.filter(isWriting)) await this.#terminate(server);
    await this.#until('nothing is left in the queue', () => this.#isQueueEmpty);
    await this.#until('streams end whose writers are gone', () => this.#isServedOnly);
    await this.#until('nothing is left in the broker', () => this.#leftInBroker.length === 0);
    for (const server of this.#servers.filter((other) => !isWriting(other))) await this.#terminate(server);
    await this.#endLeftStreams();
    const { broker } = this.world;
    if (broker !== undefined && this.#hasStrangers) checkStrangers(this.world, broker);
    this.world.checkSums('the end', true);
    await this.#checkUpkeep();
  }

  /**
   * A shard whose signs of life come late is taken over by another one of its server, which may stop just then. The next start
   * ends that stream.
   */
  async #endLeftStreams(starts = LEFT_STARTS_MAX): Promise<void> {
    const server = this.#servers.find(({ role }) => role !== 'ingest');
    if (this.openStreams.length === 0 || server === undefined) return;
    if (starts === 0) throw new Violation(`After clean stops these rows are open: ${this.openStreams.join(' ')}`);
    this.world.note(() => `left are ${this.openStreams.join(' ')}`);
    server.isStopped = false;
    this.#start(server);
    await this.#until('left streams end', () => this.#isServedOnly && this.#isReady(server));
    await this.#terminate(server);
    await this.#endLeftStreams(starts - 1);
  }

  #isReady(server: Server): boolean {
    const node = this.#up(server);
    return node !== undefined && node.refusal === undefined && node.isRecovered;
  }

  get #isServedOnly(): boolean {
    return this.openStreams.length === this.#servedStreams;
  }

  /** Streams of which the broker holds more than is committed, though nobody writes them, and streams without a row. */
  get #leftInBroker(): readonly string[] {
    const { broker, database } = this.world;
    if (broker === undefined) return [];
    if (broker.underWay > 0) return ['a message that is under way'];
    return broker.names.filter((stream) => {
      if (isStranger(stream, this.world)) return false;
      const row = database.tables.checkpoints.get(stream);
      const messages = broker.messages(stream);
      if (row !== undefined) return !isOpen(row) && reachedLsn(messages, row.lsn) > row.lsn;
      const [first] = messages;
      return first !== undefined && !isFence(first.data) && decodeMessage(first.data).firstLsn === 1;
    });
  }

  /** An operator decides about what waits for records that are gone. */
  get #isQueueEmpty(): boolean {
    const { queue } = this.world;
    return queue === undefined || (queue.underWay === 0 && queue.messages.length === 0);
  }

  /** The LSN that the next message of a stream names, where that is neither committed nor in the queue. */
  #missingLsn(stream: string): number | undefined {
    const { queue, database } = this.world;
    const row = database.tables.checkpoints.get(stream);
    if (queue === undefined || row === undefined) return undefined;
    const [next] = queue.messages
      .filter(({ group }) => group === stream)
      .map(recordsOf)
      .filter(({ lastLsn }) => lastLsn > row.lsn)
      .sort((one, other) => one.lastLsn - other.lastLsn);
    return next !== undefined && next.previousLsn > row.lsn ? next.previousLsn : undefined;
  }

  /** A writer leaves a stream that lacks records, unless nobody receives or connections are silent for longer than 15 days. */
  #checkExpired(stream: string): void {
    const isSlow = [
      'connections-silent',
      'database-silent',
      'database-gone',
      'server-without-database',
      'freeze',
    ] as const;
    const isShort = this.#plan.queue?.retentionMs !== Number.POSITIVE_INFINITY;
    if (isShort || isSlow.some((kind) => this.#faults.has(kind)) || !this.#written.includes(stream)) return;
    const missingLsn = this.#missingLsn(stream);
    if (missingLsn !== undefined)
      this.world.violate(new Violation(`${stream} lacks LSN ${missingLsn}, and was written for 15 days`));
  }

  get #written(): readonly string[] {
    return this.#servers.flatMap((server) => this.#up(server)?.written ?? []);
  }

  /** What a server acknowledges from now on is counted without an operator. */
  get #isWrittenSoundly(): boolean {
    return this.#written.every((stream) => this.#missingLsn(stream) === undefined);
  }

  get #hasStrangers(): boolean {
    return this.#seed % STRANGERS_ONE_IN === 0;
  }

  /** The streams that living servers write and flush themselves. */
  get #servedStreams(): number {
    return this.#servers.reduce(
      (total, server) => total + (server.role === 'serve' && this.#up(server) !== undefined ? server.shards : 0),
      0,
    );
  }

  #readNow(counter: ExpectedCounter): void {
    if (counter.key.startsWith(POISON_PREFIX)) return;
    for (const { node } of this.#servers) {
      const read = node?.read(counter.bytes).then((sum) => counter.check(sum ?? 0, 'a last read', undefined, true));
      if (read !== undefined) this.allowRefusal(read);
    }
  }

  async #terminate(server: Server): Promise<void> {
    const { scheduler } = this.world;
    const until = scheduler.now + SHUTDOWN_MAX_MS;
    await this.#until('no lock is held', () => this.world.database.locks.isEmpty);
    server.isStopped = true;
    const node = this.#up(server) ?? this.#start(server);
    this.world.note(() => `${node.name} gets SIGTERM`);
    this.sigterm(node);
    while (node.end === undefined) {
      await this.pause(20);
      if (scheduler.now > until) throw new Violation(`${node.name} does not stop`);
    }
    this.#checkEnd(node);
    // Its connection may have been down until now. Whatever it left is in the log.
    if (node.left.length > 0) this.world.note(() => `${node.name} left ${JSON.stringify(node.left)}`);
  }

  /** All idempotency keys go once their window is over. */
  async #checkUpkeep(): Promise<void> {
    await this.pruneAfterWindow();
    await this.#until('idempotency keys go', () => this.world.database.tables.tokens.size === 0);
  }

  async #until(what: string, isMet: () => boolean): Promise<void> {
    const { scheduler } = this.world;
    const until = scheduler.now + HEAL_MAX_MS;
    while (!isMet()) {
      for (const server of this.#servers) {
        if (this.#up(server) === undefined && !server.isStopped) this.#start(server);
      }
      if (scheduler.now > until) throw new Violation(`Within ${HEAL_MAX_MS} ms it never comes true that ${what}`);
      await this.pause(20);
    }
  }
}

/** The last LSN that follows `lsn` without a gap. */
function reachedLsn(messages: readonly BrokerMessage[], lsn: number): number {
  let reached = lsn;
  for (const { data } of messages) {
    if (isFence(data)) continue;
    const { firstLsn, lastLsn } = decodeMessage(data);
    if (firstLsn <= reached + 1) reached = Math.max(reached, lastLsn);
  }
  return reached;
}
