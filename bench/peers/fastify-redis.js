/**
 * Fastify and Redis: INCRBY a pair, pipelined by ioredis over one connection to the socket at REDIS_SOCKET. 202 when
 * Redis has answered; what that is worth is Redis' appendfsync. Sums are 64-bit, and in no SQL table.
 */
import { Redis } from 'ioredis';
import { serve } from './increment-server.js';

const redis = new Redis({ path: process.env.REDIS_SOCKET, enableAutoPipelining: true });

await serve({
  add: (pairs) => Promise.all(pairs.map(([key, amount]) => redis.incrby(`counter:${key}`, amount))),
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
