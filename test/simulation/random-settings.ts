/** Settings so small that a short history reaches every limit. */
import type { NodeSettings } from './simulated-node.js';
import type { World } from './world.js';

/** Settings of all processes of a history. */
export function randomSettings({ random }: World): NodeSettings {
  const segmentBytes = 4096 + 256 * (1 + random.below(16));
  return {
    syncPolicy: random.below(4) === 0 ? 'everysec' : 'always',
    segmentBytes,
    journalBytesMax: random.below(4) === 0 ? 4 * segmentBytes : 1 << 30,
    keepSeconds: random.pick([0, 0, 0.1, 1, 5]),
    flushIntervalMs: random.pick([10, 50, 100, 300]),
    flushKeysMax: random.pick([1, 3, 1000]),
    pendingKeysMax: random.below(4) === 0 ? 4 : 1000,
    windowBytesMax: random.below(4) === 0 ? 100 : 1 << 20,
    // Less than the time for requests under way, see TimeScale.
    ackTimeoutMs: random.pick([50, 300, 700]),
    touchMs: random.pick([200, 1000, 15_000]),
    touchTimeMs: random.pick([200, 1000, 60_000]),
  };
}
