/**
 * The faults besides processes that end. Each history has only a few kinds, chosen by its seed, so that many
 * combinations occur and no kind hides the others.
 */
import { Mulberry32 } from '../support/mulberry32.js';
import type { Life } from './scheduler.js';
import type { SimulatedNode } from './simulated-node.js';
import type { DiskCall } from './storage.js';
import type { Tables } from './database/tables.js';
import type { World } from './world.js';

const KINDS = [
  'sync-error',
  'disk-error',
  'disk-full',
  'database-gone',
  'database-silent',
  'database-restart',
  'database-slow',
  'database-failover',
  'statements-refused',
  'reply-lost',
  'crash',
  'thread-dies',
  'poison',
] as const;
/** Chosen separately, so that a seed without it keeps its history. */
const SILENT = 'connections-silent';
const ROW_DELETED = 'row-deleted';

/** Chosen separately, too: for a while the disk refuses syncs and new files. */
const REFUSED = 'disk-refuses';

/** A kind of fault; `poison` is a property of keys. */
export type FaultKind = (typeof KINDS)[number] | typeof SILENT | typeof ROW_DELETED | typeof REFUSED;

const DISK_CALLS: readonly DiskCall[] = [
  'create',
  'write',
  'rename',
  'syncDirectory',
  'open',
  'read',
  'remove',
  'list',
];

/** The faults of one history. */
export class Faults {
  readonly #world: World;
  readonly #life: Life;
  readonly #node: () => SimulatedNode | undefined;
  readonly #keepMs: number;
  readonly names: readonly FaultKind[];
  #healed = false;
  #standby: { readonly tables: Tables; readonly at: number } | undefined;
  /** The standby that takes over after the primary died. */
  #successor: { readonly tables: Tables; readonly at: number } | undefined;
  /** Time of the standby's state, after it took over. */
  failedOverTo: number | undefined;
  /** Commits that the standby lacks were confirmed after the keep time, so the journal need not hold them any more. */
  isTooLate = false;

  constructor(world: World, life: Life, node: () => SimulatedNode | undefined, keepSeconds: number) {
    this.#keepMs = 1000 * keepSeconds;
    this.#world = world;
    this.#life = life;
    this.#node = node;
    const { random } = world;
    const density = 2 + random.below(4);
    const names: FaultKind[] = KINDS.filter(() => random.below(density) === 0);
    if (new Mulberry32(world.seed ^ 0x51e7).below(8) === 0) names.push(SILENT);
    if (new Mulberry32(world.seed ^ 0xde1e).below(8) === 0) names.push(ROW_DELETED);
    if (new Mulberry32(world.seed ^ 0xd15c).below(8) === 0) names.push(REFUSED);
    this.names = names;
  }

  has(kind: FaultKind): boolean {
    return this.names.includes(kind);
  }

  /** Causes a fault of one of the kinds now. */
  strike(): void {
    if (this.#healed || this.names.length === 0) return;
    const { random } = this.#world;
    const kind = random.pick(this.names);
    this.#world.note(() => `fault: ${kind}`);
    this.#strike(kind);
  }

  /** A standby may take over that lacks what commits from now on. Only journals can repeat that. */
  get isFailoverPending(): boolean {
    return this.failedOverTo === undefined && (this.#standby !== undefined || this.#successor !== undefined);
  }

  get isHealed(): boolean {
    return this.#healed;
  }

  /** Ends all faults. */
  heal(): void {
    this.#healed = true;
    const { database, storage } = this.#world;
    storage.full = false;
    this.#takeOver();
    database.network = 'fine';
    database.slowness = 1;
    database.refuseNext = 0;
    database.dropsRowsUntil = 0;
    database.dropsTokensUntil = 0;
    database.loseNext = 0;
  }

  #strike(kind: FaultKind): void {
    const { random, database, storage } = this.#world;
    const node = this.#node();
    switch (kind) {
      case 'sync-error':
        if (node !== undefined) node.diskFault = { calls: ['sync'], code: 'EIO' };
        break;
      case REFUSED:
        if (node !== undefined) {
          const until = this.#world.scheduler.now + random.below(random.below(2) === 0 ? 200 : 4000);
          node.diskFault = { calls: ['sync', 'create'], code: 'EIO', until };
        }
        break;
      case 'disk-error':
        if (node !== undefined)
          node.diskFault = { calls: [random.pick(DISK_CALLS)], code: random.pick(['EIO', 'ENOSPC']) };
        break;
      case 'disk-full':
        storage.full = true;
        this.#later(random.below(400), () => (storage.full = false));
        break;
      case 'database-gone':
      case 'database-silent':
        database.network = kind === 'database-gone' ? 'gone' : 'silent';
        if (random.below(2) === 0) database.crash();
        else database.cut();
        this.#later(random.below(random.below(2) === 0 ? 300 : 6000), () => (database.network = 'fine'));
        break;
      case 'database-restart':
        database.crash();
        break;
      case SILENT:
        database.silence();
        break;
      case 'database-failover':
        this.#failOver();
        break;
      case 'database-slow':
        database.slowness = random.pick([1, 10, 100]);
        this.#later(random.below(1000), () => (database.slowness = 1));
        break;
      case 'statements-refused':
        database.refuseNext = 1 + random.below(5);
        // No number of its own, so that seeds keep their histories.
        if (database.refuseNext === 4) database.dropsRowsUntil = this.#world.scheduler.now + 1000;
        if (database.refuseNext === 5) database.dropsTokensUntil = this.#world.scheduler.now + 2000;
        break;
      case 'reply-lost':
        database.loseNext = 1 + random.below(2);
        break;
      case 'crash':
        if (node !== undefined) node.crashIn = 1 + random.below(30);
        break;
      case 'thread-dies':
        node?.killThread(random.below(node.shards));
        break;
      case ROW_DELETED:
        this.#deleteRow();
        break;
      case 'poison':
    }
  }

  /** Somebody deletes the row of a stream, with its claims or without. */
  #deleteRow(): void {
    const { database, random, circumstances } = this.#world;
    const streams = [...database.tables.checkpoints.keys()];
    if (streams.length === 0) return;
    const stream = random.pick(streams);
    if (database.deleteStream(stream, random.below(2) === 0)) circumstances.databaseChanged = true;
    this.#world.note(() => `somebody deletes the row of ${stream}`);
  }

  /**
   * First a standby stops receiving. Some time later the primary dies and the standby takes over, at once or after an
   * outage of any length. This happens once in a history, and not if a journal was deleted that the standby would need.
   */
  #failOver(): void {
    const { database, random, scheduler } = this.#world;
    const standby = this.#standby;
    if (this.failedOverTo !== undefined || this.#successor !== undefined) return;
    this.#standby = undefined;
    if (standby === undefined) {
      this.#standby = { tables: database.snapshot(), at: scheduler.now };
      return;
    }
    if (standby.at <= this.#world.streamGoneAt - this.#keepMs) return;
    this.isTooLate = scheduler.now - standby.at >= this.#keepMs;
    this.#successor = standby;
    if (random.below(2) === 0) {
      this.#takeOver();
      return;
    }
    this.#world.note(() => 'the primary has died');
    database.isDead = true;
    database.crash();
    this.#later(random.below(random.below(2) === 0 ? 300 : 8000), () => this.#takeOver());
  }

  #takeOver(): void {
    const { database } = this.#world;
    const successor = this.#successor;
    if (successor === undefined || this.failedOverTo !== undefined) return;
    database.isDead = false;
    database.failOver(successor.tables);
    this.#world.circumstances.databaseChanged = true;
    this.failedOverTo = successor.at;
    this.#world.note(() => `the database is as it was at ${successor.at.toFixed(1)}`);
  }

  #later(ms: number, callback: () => void): void {
    this.#world.scheduler.after(ms, this.#life, callback);
  }
}
