/**
 * One stretch of load against one running contender: its cost, its speed, and the check that no increment was lost or
 * invented.
 */
import { runFixedRate } from '../load/fixed-rate-load.js';
import type { Committed, ContenderCost, RunningContender } from '../contenders/contender.js';
import type { LoadFigures, LoadGenerator } from '../load/load-generator.js';
import { residentBytes } from '../processes/process-cost.js';
import type { TurnFigures } from '../report/record.js';
import type { Workload } from '../load/workload.js';

/** The load of a stretch. */
export interface Stretch {
  readonly workload: Workload;
  readonly connections: number;
  readonly seconds: number;
  /** Number of requests instead of `seconds`, for generators that support it. */
  readonly amount?: number;
  /** Requests a second at a fixed rate; undefined: as fast as the answers come. */
  readonly ratePerSecond?: number;
  readonly refusalsAllowed: boolean;
}

/** The figures of a turn without the ratios, which need the whole turn. */
export type StretchFigures = Omit<TurnFigures, 'cpuRatio' | 'cpuRatioWithDatabase' | 'cpuRatioToCounterpart'>;

/**
 * The account of a contender over all of its stretches. A request in flight at the end of the load may still be
 * counted, also after its stretch. So the limits of the sum hold for all stretches together.
 */
export class MeasuredContender {
  readonly running: RunningContender;
  readonly #generator: LoadGenerator;
  #acknowledged = 0n;
  #inFlightMax = 0n;
  #idempotentAcknowledged = 0n;
  /** Committed increments after the last stretch. */
  #committed: Committed = { sum: 0n, keys: 0 };

  constructor(running: RunningContender, generator: LoadGenerator) {
    this.running = running;
    this.#generator = generator;
  }

  /** Runs the stretch, waits until it is committed, and checks the sum. Throws if the figures would be worthless. */
  async run(stretch: Stretch): Promise<StretchFigures> {
    const { running } = this;
    const costBefore = running.cost();
    const startMs = performance.now();
    const load = await this.#load(stretch);
    const residentMib = residentBytes(running.pid) / 2 ** 20;
    const committedBefore = this.#committed.sum;
    // The time of the remaining commits is part of the cost.
    const committed = await running.settle();
    const settledSeconds = (performance.now() - startMs) / 1000;
    const cost = difference(running.cost(), costBefore);
    this.#check(stretch, load, committed);
    await this.#checkIdempotencyKeys(stretch, load);
    const increments = load.acknowledged * stretch.workload.incrementsPerBody;
    return {
      requests: load.acknowledged,
      increments,
      refused: load.refused,
      seconds: load.seconds,
      requestsPerSecond: load.acknowledged / load.seconds,
      incrementsPerSecond: increments / load.seconds,
      serverCpuUs: (cost.serverMs * 1000) / increments,
      databaseCpuUs: (cost.databaseMs * 1000) / increments,
      mainThreadCpuUs: (cost.mainThreadMs * 1000) / increments,
      committedPerSecond: committed === undefined ? null : Number(committed.sum - committedBefore) / settledSeconds,
      latency: load.latency,
      generatorBusy: load.generatorBusy ?? null,
      residentMib,
    };
  }

  #load(stretch: Stretch): Promise<LoadFigures> {
    const request = { ...stretch, url: this.running.url };
    return stretch.ratePerSecond === undefined
      ? this.#generator.run(request)
      : runFixedRate(request, stretch.ratePerSecond);
  }

  #check(stretch: Stretch, load: LoadFigures, committed: Committed | undefined): void {
    const { name } = this.running;
    if (load.acknowledged === 0) throw new Error(`${name} acknowledged nothing.`);
    if (load.socketErrors > 0) throw new Error(`${name}: ${load.socketErrors} connections failed or timed out.`);
    if (load.refused > 0 && !stretch.refusalsAllowed) {
      throw new Error(
        `${name} answered ${load.refused} of ${load.refused + load.acknowledged} requests with an error.`,
      );
    }
    if (stretch.amount !== undefined && load.acknowledged !== stretch.amount) {
      throw new Error(`${name} answered ${load.acknowledged} of ${stretch.amount} requests.`);
    }
    if (committed === undefined) return;
    this.#committed = committed;
    const increments = BigInt(stretch.workload.incrementsPerBody);
    this.#acknowledged += BigInt(load.acknowledged) * increments;
    if (stretch.amount === undefined) this.#inFlightMax += BigInt(stretch.connections) * increments;
    const { sum } = committed;
    if (sum < this.#acknowledged || sum > this.#acknowledged + this.#inFlightMax) {
      throw new Error(
        `${name} counted ${sum} of ${this.#acknowledged} acknowledged increments ` +
          `(at most ${this.#inFlightMax} more were in flight).`,
      );
    }
  }

  /** Checks that each acknowledged idempotency key is recorded, and none that was not sent. */
  async #checkIdempotencyKeys(stretch: Stretch, load: LoadFigures): Promise<void> {
    const { running } = this;
    if (stretch.workload.idempotencyKeyPrefix === undefined || running.committedIdempotencyKeys === undefined) return;
    this.#idempotentAcknowledged += BigInt(load.acknowledged);
    const idempotencyKeys = await running.committedIdempotencyKeys();
    const max = this.#idempotentAcknowledged + this.#inFlightMax / BigInt(stretch.workload.incrementsPerBody);
    if (idempotencyKeys < this.#idempotentAcknowledged || idempotencyKeys > max) {
      throw new Error(
        `${running.name} recorded ${idempotencyKeys} of ${this.#idempotentAcknowledged} acknowledged idempotency keys.`,
      );
    }
  }
}

function difference(after: ContenderCost, before: ContenderCost): ContenderCost {
  return {
    serverMs: after.serverMs - before.serverMs,
    mainThreadMs: after.mainThreadMs - before.mainThreadMs,
    databaseMs: after.databaseMs - before.databaseMs,
  };
}
