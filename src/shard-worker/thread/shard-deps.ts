/**
 * What a shard is given: everything outside of it, so that a simulation can give it something else. Shard thread.
 */
import type { Clock } from '../../core/clock.js';
import type { JournalStreams } from '../journal/journal.js';
import type { ControlMessage } from '../protocol/control-messages.js';
import type { ShardLog } from './streams/owned-stream.js';
import type { ShardDatabase } from './flush/stream-database.js';

/** What a shard is made of. */
export interface ShardDeps {
  readonly journals: JournalStreams;
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly stats: Float64Array;
  readonly random: () => number;
  readonly flushIntervalMs: number;
  readonly flushKeysMax: number;
  /** Takes what waits on the ports; everything posted before the time returned (ms since 1970) has been applied. */
  readonly settledThroughMs: () => number;
  readonly tell: (message: ControlMessage) => void;
  /** The thread must end. */
  readonly fail: (error: unknown) => void;
  readonly log: ShardLog;
}
