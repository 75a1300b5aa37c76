/**
 * The file that Piscina loads in a shard thread; it imports `shard-thread.ts`. Root of a shard thread.
 *
 * Piscina loads it with require(). Node 20 aborts the whole process if a thread is ended while require() links an ES
 * module, as threads are when the server stops during its start. An import() may end at any time. So this file, and no
 * other, is CommonJS.
 */
import type { ShardTask } from '../protocol/control-messages.js' with { 'resolution-mode': 'import' };

/** Runs a shard until it is drained. The task of Piscina. */
async function runShard(task: ShardTask): Promise<void> {
  const thread = await import('./shard-thread.js');
  await thread.runShard(task);
}

module.exports = { runShard };
