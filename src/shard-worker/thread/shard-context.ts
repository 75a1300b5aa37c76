/** The state that all parts of one shard share. Shard thread. */
import type { Clock } from '../../core/clock.js';
import type { ControlMessage } from '../protocol/control-messages.js';
import { DatabaseReports } from './database-reports.js';
import type { EarlyFlush } from './flush/early-flush.js';
import { SetAsideLog } from './flush/set-aside-log.js';
import type { ShardDatabase } from './flush/shard-database.js';
import { IdempotencyWindow } from './idempotency/idempotency-window.js';
import { ShardBalance } from './shard-balance.js';
import { Pauses } from './pauses.js';
import type { ShardLog } from './streams/owned-stream.js';

/** Everything outside of a shard, so that a simulation can replace it. */
export interface ShardDeps {
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly stats: Float64Array;
  readonly random: () => number;
  readonly flushIntervalMs: number;
  readonly earlyFlush: EarlyFlush;
  /** ACK_TIMEOUT_MS. */
  readonly ackTimeoutMs: number;
  readonly tell: (message: ControlMessage) => void;
  /** The shard cannot go on. The thread must end. */
  readonly fail: (error: unknown) => void;
  readonly log: ShardLog;
}

/** One shard, as its parts see it. */
export class ShardContext {
  readonly deps: ShardDeps;
  readonly balance: ShardBalance;
  readonly reports: DatabaseReports;
  readonly setAside: SetAsideLog;
  readonly pauses: Pauses;
  readonly window = new IdempotencyWindow();
  #phase: 'starting' | 'serving' | 'draining' | 'failed' = 'starting';

  constructor(deps: ShardDeps) {
    this.deps = deps;
    this.balance = new ShardBalance(deps.stats);
    this.reports = new DatabaseReports(deps.tell);
    this.setAside = new SetAsideLog(deps.clock, (fields, message) => {
      deps.log('error', fields, message);
    });
    this.pauses = new Pauses(deps.clock);
  }

  get phase(): 'starting' | 'serving' | 'draining' | 'failed' {
    return this.#phase;
  }

  /** Takes increments from now on, unless the shard is stopping. */
  serve(): void {
    if (this.#phase === 'starting') this.#phase = 'serving';
  }

  drain(): void {
    this.#phase = 'draining';
  }

  /** The shard cannot go on. */
  fail(error: unknown): void {
    if (this.#phase === 'failed') return;
    this.#phase = 'failed';
    this.deps.fail(error);
  }

  tellServing(recovered: boolean): void {
    this.deps.tell({ kind: 'serving', recovered });
  }
}
