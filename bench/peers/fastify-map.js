/**
 * Fastify and a map that a timer upserts into PostgreSQL every second. Not crash safe: it answers 202 before anything
 * is kept, and a crash loses up to a second. A failed upsert puts its sums back into the map.
 */
import { clearInterval, setInterval } from 'node:timers';
import { openCounters } from './counters-table.js';
import { serve } from './increment-server.js';

const counters = await openCounters(2);
let pending = new Map();
let flushing = Promise.resolve();

async function flushPending() {
  const flushed = pending;
  if (flushed.size === 0) return;
  pending = new Map();
  try {
    await counters.add([...flushed]);
  } catch (error) {
    for (const [key, amount] of flushed) pending.set(key, (pending.get(key) ?? 0) + amount);
    console.error(error);
  }
}

/** One flush at a time. */
function flush() {
  flushing = flushing.then(flushPending);
  return flushing;
}

const timer = setInterval(flush, 1000);

await serve({
  add(increments) {
    for (const [key, amount] of increments) pending.set(key, (pending.get(key) ?? 0) + amount);
  },
  async total() {
    await flush();
    return counters.total();
  },
  async close() {
    clearInterval(timer);
    await flush();
    await counters.close();
  },
});
