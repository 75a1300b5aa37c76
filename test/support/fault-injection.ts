/**
 * Faults at chosen steps of a real server process, and the environment that causes them.
 */
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Steps of an increment, of a flush and of the journal's files, as `fault-preload` recognises them. */
export type FaultStep =
  /** Main thread, before and after a batch is posted to a shard. */
  | 'post'
  | 'posted'
  /** Before and after records are written. */
  | 'append'
  | 'appended'
  /** Before and after records are synced. */
  | 'sync'
  | 'synced'
  /** Before and after an acknowledgement is posted. */
  | 'acknowledge'
  | 'acknowledged'
  /** Before zeros or a header are written to a segment. */
  | 'zero-fill'
  /** Before and after a new segment gets its name. */
  | 'publish-segment'
  | 'segment-published'
  /** A range is frozen and its statement not yet sent; sent and not yet answered; answered. */
  | 'flush'
  | 'flush-sent'
  | 'flush-committed'
  /** Before and after a segment is deleted. */
  | 'prune'
  | 'pruned';

/** A fault. */
export interface Fault {
  readonly step: FaultStep;
  /** From 1; each thread counts for itself. */
  readonly at: number;
  /** `fail-call`: that call and all later ones throw a system error, unless `once` is set. */
  readonly action: 'kill' | 'exit-thread' | 'throw' | 'fail-call';
  readonly errno?: string;
  /** At `sync`: what was written since the last sync is gone, as if the system had read the disk again. */
  readonly drop?: true;
  /** The first thread at the step makes this file; other threads do not meet the fault. */
  readonly oneThread?: string;
  /** A file that must exist for the step to count. */
  readonly armedBy?: string;
  /** A file that the fault makes; while it exists, the fault does not happen again. */
  readonly once?: string;
}

const PRELOAD = pathToFileURL(fileURLToPath(new URL('./fault-preload.js', import.meta.url))).href;

/** The environment of a server with this fault. */
export function faultEnvironment(fault: Fault): Readonly<Record<string, string>> {
  return { FAULT: JSON.stringify(fault), NODE_OPTIONS: `--import ${PRELOAD}` };
}
