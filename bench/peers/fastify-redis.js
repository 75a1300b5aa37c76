/**
 * Fastify and Redis: an INCRBY for each increment, pipelined by ioredis over one connection to the socket REDIS_SOCKET.
 * It answers 202 when Redis has answered; appendfsync of Redis decides what that means. Sums have 64 bits and are in no
 * SQL table.
 */
import { Redis } from 'ioredis';
import { serve } from './increment-server.js';

const redis = new Redis({ path: process.env.REDIS_SOCKET, enableAutoPipelining: true });

await serve({
  add: (increments) => Promise.all(increments.map(([key, amount]) => redis.incrby(`counter:${key}`, amount))),
  async total() {
    let sum = 0n;
    const seen = new Set();
    for await (const keys of redis.scanStream({ match: 'counter:*', count: 1000 })) {
      const fresh = keys.filter((key) => !seen.has(key));
      if (fresh.length === 0) continue;
      for (const key of fresh) seen.add(key);
      for (const value of await redis.mget(fresh)) sum += BigInt(value ?? 0);
    }
    return { sum: String(sum), keys: String(seen.size) };
  },
  close: () => redis.quit(),
});
