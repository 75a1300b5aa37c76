/**
 * What a history dwells on. Chosen separately from its other random choices, so that most seeds keep their histories and the
 * rare cases of some rules are reached within a few hundred histories.
 */
import { Mulberry32 } from '../support/mulberry32.js';
import type { TimeScale } from './database/database-clock.js';
import type { NodeSettings } from './simulated-node.js';

/** Windows so short that several pass in the life of a process. */
const SHORT_WINDOWS: TimeScale = {
  rate: 20,
  windowHourMs: 300,
  marginMs: 250,
  expiryDayMs: 2000,
  gapMs: 2000,
  hourMs: 500,
  tombstoneMs: 800,
  lockTimeoutMs: 5000,
  idleTimeoutMs: 10_000,
};

/** The emphasis of one history. */
export class Emphasis {
  /** Source of all choices that only histories with an emphasis make. */
  readonly random: Mulberry32;
  /** Many idempotent requests and retries, a busy pruner, and processes that are away for longer than a window. */
  readonly onWindows: boolean;
  /** A directory that is copied early, and many starts of both copies. */
  readonly onCopies: boolean;
  /** The database is away when the process whose directory is copied starts, and a while longer. */
  readonly copiesWithoutDatabase: boolean;

  constructor(seed: number) {
    this.random = new Mulberry32(seed ^ 0x3b1d);
    this.onWindows = this.random.below(6) === 0;
    this.onCopies = this.random.below(12) === 0;
    this.copiesWithoutDatabase = this.onCopies && this.random.below(3) === 0;
  }

  /** Before which of `lives` processes, counted backwards, the directory is copied: the second or the third. */
  copyBeforeLife(lives: number): number {
    return lives - 1 - this.random.below(2);
  }

  /** Whether a client repeats an idempotent request instead of anything else. */
  get retriesNow(): boolean {
    return this.onWindows && this.random.below(4) === 0;
  }

  get scale(): TimeScale | undefined {
    return this.onWindows ? SHORT_WINDOWS : undefined;
  }

  /** Requests are under way for less than the margin, and times are exchanged several times in a window. */
  settingsOf(settings: NodeSettings): NodeSettings {
    if (!this.onWindows) return settings;
    return {
      ...settings,
      ackTimeoutMs: 50,
      flushIntervalMs: this.random.pick([10, 100, 300, 1000]),
      touchMs: 100,
      touchTimeMs: 100,
    };
  }
}
