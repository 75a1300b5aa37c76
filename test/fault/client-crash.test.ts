import { test } from 'node:test';
import { clientCrashTest } from './client-crash.js';

test('sums are exactly what clients passed in, although the server is killed repeatedly while they send', () =>
  clientCrashTest({ clients: 4, keys: 50, kills: 8, requestsPerLifeMax: 400 }));

test('the same with several shards, which sum the keys of idempotent requests in parallel', () =>
  clientCrashTest({ clients: 6, keys: 20, kills: 5, requestsPerLifeMax: 300, env: { SHARDS: '3' } }));
