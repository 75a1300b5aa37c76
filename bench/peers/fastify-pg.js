/**
 * Fastify and PostgreSQL: one prepared upsert a request through a pool. 202 after the commit.
 */
import { openCounters } from './counters-table.js';
import { serve } from './increment-server.js';

await serve(await openCounters(10));
