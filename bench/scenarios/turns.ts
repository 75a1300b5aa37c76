/**
 * Contenders measured in turns within one run (A B C A B C …), so that a slow period of the machine affects all of
 * them. The main figure is the ratio to the first contender in the same turn.
 */
import type { Contender, RunningContender } from '../contenders/contender.js';
import type { LoadGenerator } from '../load/load-generator.js';
import type { ContenderFigures, TurnFigures } from '../report/record.js';
import type { Scenario } from './scenario.js';
import { median } from '../report/statistics.js';
import { idempotentWorkload } from '../load/workload.js';
import { MeasuredContender, type Stretch, type StretchFigures } from './stretch.js';

/** The length of a run. */
export interface TurnsOptions {
  readonly turns: number;
  readonly seconds: number;
  /** Seconds of load before the first turn, for compilers and caches. */
  readonly warmUpSeconds: number;
  /** Overrides the number of the scenario. */
  readonly connections?: number;
  /** Number of requests in a turn, instead of seconds. */
  readonly amount?: number;
  readonly generator: LoadGenerator;
  /** Called after each turn. */
  readonly onProgress: (line: string) => void;
}

/** The result of a run, with the contenders in their order. */
export interface TurnsOutcome {
  readonly contenders: readonly ContenderFigures[];
  readonly connections: number;
  /** What the first contender runs on. */
  readonly build: string;
}

/** Starts the contenders, measures them in turns, and stops them. The others are compared with the first. */
export async function runTurns(
  contenders: readonly Contender[],
  scenario: Scenario,
  options: TurnsOptions,
): Promise<TurnsOutcome> {
  const started: RunningContender[] = [];
  try {
    await startAll(contenders, started);
    const run = new TurnsRun(contenders, started, scenario, options);
    const figures = await run.measure();
    return {
      contenders: contenders.map((contender, index) => summary(contender, figures[index] ?? [])),
      connections: run.connections,
      build: started.find(({ build }) => build !== undefined)?.build ?? 'none',
    };
  } finally {
    await Promise.all(started.map((running) => running.stop()));
  }
}

/** Starts them at the same time. `started` holds those that run, in their order, also if one fails. */
async function startAll(contenders: readonly Contender[], started: RunningContender[]): Promise<void> {
  const starts = await Promise.allSettled(contenders.map((contender) => contender.start()));
  for (const start of starts) if (start.status === 'fulfilled') started.push(start.value);
  for (const start of starts) if (start.status === 'rejected') throw start.reason;
}

class TurnsRun {
  readonly connections: number;
  readonly #asked: readonly Contender[];
  readonly #contenders: readonly MeasuredContender[];
  readonly #scenario: Scenario;
  readonly #options: TurnsOptions;
  /** Requests a second of each contender, once they are measured. Only for open loops. */
  readonly #rates = new Map<MeasuredContender, number>();
  /** Makes the keys of stretches unique. */
  #stretches = 0;

  constructor(
    asked: readonly Contender[],
    started: readonly RunningContender[],
    scenario: Scenario,
    options: TurnsOptions,
  ) {
    this.#asked = asked;
    this.connections = options.connections ?? scenario.connections;
    this.#contenders = started.map((running) => new MeasuredContender(running, options.generator));
    this.#scenario = scenario;
    this.#options = options;
  }

  /** The turns of each contender. */
  async measure(): Promise<readonly (readonly TurnFigures[])[]> {
    const { turns, seconds, warmUpSeconds, onProgress } = this.#options;
    if (warmUpSeconds > 0) {
      for (const [index, contender] of this.#contenders.entries()) {
        await contender.run(this.#stretch(index, warmUpSeconds));
      }
      onProgress(`warmed up for ${warmUpSeconds} s each`);
    }
    if (this.#scenario.loop === 'open') {
      for (const [index, contender] of this.#contenders.entries()) {
        const { requestsPerSecond } = await contender.run(this.#stretch(index, seconds));
        this.#rates.set(contender, Math.max(1, Math.floor(requestsPerSecond / 2)));
        onProgress(
          `${contender.running.name}: ${Math.round(requestsPerSecond)} requests/s at most; later turns run at half of that`,
        );
      }
    }
    const figures: TurnFigures[][] = this.#contenders.map(() => []);
    for (let turn = 1; turn <= turns; turn += 1) {
      const measuredBefore = new Map<string, StretchFigures>();
      let first: StretchFigures | undefined;
      for (const [index, contender] of this.#contenders.entries()) {
        const rate = this.#rates.get(contender);
        const stretch = this.#stretch(index, seconds, this.#options.amount);
        const measured = await contender.run(rate === undefined ? stretch : { ...stretch, ratePerSecond: rate });
        first ??= measured;
        measuredBefore.set(contender.running.name, measured);
        const counterpart = measuredBefore.get(this.#asked[index]?.counterpart ?? '');
        const whole = withRatios(measured, first, counterpart);
        figures[index]?.push(whole);
        onProgress(`turn ${turn}/${turns}  ${progressLine(contender.running.name, whole)}`);
      }
    }
    return figures;
  }

  /** The stretch of the contender at `index`. */
  #stretch(index: number, seconds: number, amount?: number): Stretch {
    this.#stretches += 1;
    const label = `new:${this.#stretches}`;
    const workload = this.#scenario.workload(label);
    return {
      workload: this.#asked[index]?.idempotent === true ? idempotentWorkload(workload, label) : workload,
      connections: this.connections,
      seconds,
      ...(amount === undefined ? {} : { amount }),
      refusalsAllowed: this.#scenario.refusalsAllowed,
    };
  }
}

function withRatios(
  measured: StretchFigures,
  first: StretchFigures,
  counterpart: StretchFigures | undefined,
): TurnFigures {
  const both = ({ serverCpuUs, databaseCpuUs }: StretchFigures): number => serverCpuUs + databaseCpuUs;
  return {
    ...measured,
    cpuRatio: measured.serverCpuUs / first.serverCpuUs,
    cpuRatioWithDatabase: both(measured) / both(first),
    ...(counterpart === undefined ? {} : { cpuRatioToCounterpart: measured.serverCpuUs / counterpart.serverCpuUs }),
  };
}

function progressLine(name: string, figures: TurnFigures): string {
  const { latency } = figures;
  return [
    name.padEnd(16),
    `${Math.round(figures.incrementsPerSecond).toString().padStart(8)} increments/s`,
    `p50 ${latency.p50Ms.toFixed(2)} ms  p99 ${latency.p99Ms.toFixed(2)} ms`,
    `${figures.serverCpuUs.toFixed(2)} µs + ${figures.databaseCpuUs.toFixed(2)} µs database`,
    `${figures.cpuRatio.toFixed(2)} ×`,
    figures.cpuRatioToCounterpart === undefined ? '' : `${figures.cpuRatioToCounterpart.toFixed(2)} × plain`,
    figures.generatorBusy === null ? '' : `generator busy ${Math.round(figures.generatorBusy * 100)} %`,
    figures.refused > 0 ? `${figures.refused} refused` : '',
  ]
    .filter((part) => part !== '')
    .join('  ');
}

function summary({ name, note, counterpart }: Contender, turns: readonly TurnFigures[]): ContenderFigures {
  const of = (figure: (turn: TurnFigures) => number): number => median(turns.map(figure));
  const committed = turns.flatMap(({ committedPerSecond }) => committedPerSecond ?? []);
  const toCounterpart = turns.flatMap(({ cpuRatioToCounterpart }) => cpuRatioToCounterpart ?? []);
  const mainThread = turns.flatMap(({ mainThreadCpuUs }) => mainThreadCpuUs ?? []);
  const busy = turns.flatMap(({ generatorBusy }) => generatorBusy ?? []);
  return {
    name,
    ...(note === undefined ? {} : { note }),
    ...(counterpart === undefined ? {} : { counterpart }),
    median: {
      requests: of((turn) => turn.requests),
      increments: of((turn) => turn.increments),
      refused: of((turn) => turn.refused),
      seconds: of((turn) => turn.seconds),
      requestsPerSecond: of((turn) => turn.requestsPerSecond),
      incrementsPerSecond: of((turn) => turn.incrementsPerSecond),
      serverCpuUs: of((turn) => turn.serverCpuUs),
      databaseCpuUs: of((turn) => turn.databaseCpuUs),
      cpuRatio: of((turn) => turn.cpuRatio),
      cpuRatioWithDatabase: of((turn) => turn.cpuRatioWithDatabase),
      ...(mainThread.length === 0 ? {} : { mainThreadCpuUs: median(mainThread) }),
      ...(toCounterpart.length === 0 ? {} : { cpuRatioToCounterpart: median(toCounterpart) }),
      committedPerSecond: committed.length === 0 ? null : median(committed),
      latency: {
        p50Ms: of((turn) => turn.latency.p50Ms),
        p90Ms: of((turn) => turn.latency.p90Ms),
        p99Ms: of((turn) => turn.latency.p99Ms),
        p999Ms: of((turn) => turn.latency.p999Ms),
        maxMs: of((turn) => turn.latency.maxMs),
      },
      generatorBusy: busy.length === 0 ? null : median(busy),
      residentMib: of((turn) => turn.residentMib),
    },
    turns,
  };
}
