/**
 * `npm run bench:memory`: bytes of resident memory for a pending key. A server that never flushes is warmed up and gets
 * a million distinct keys of 24 bytes in batches. The figure compares resident memory before and after. Memory that the
 * garbage collector has not returned counts, because an operator needs it, too.
 */
import { parseArgs } from 'node:util';
import { journalNamed, wholeNumber } from './options.js';
import { journalNames, ourServer } from '../contenders/our-server.js';
import { withCleanup } from '../processes/owned-process.js';
import { residentBytes } from '../processes/process-cost.js';
import { appendRecord, provenance, runsFile } from '../report/record.js';
import { thousands } from '../report/table.js';

const KEY_BYTES = 24;
const KEYS_A_BODY = 1000;
/** Bodies with the same thousand keys for the warm-up. */
const WARM_UP_BODIES = 2000;

const usage = `npm run bench:memory -- [options]
Options:
  --keys N         pending keys, from 100,000; default 1000000
  --shards N       default 1
  --journal NAME   ${journalNames.join(', ')}; default memory
  --out FILE       append the run's line to this file, default bench/results/runs.jsonl
`;

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      keys: { type: 'string', default: '1000000' },
      shards: { type: 'string', default: '1' },
      journal: { type: 'string', default: 'memory' },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const keys = wholeNumber('keys', values.keys, 100_000);
  const shards = wholeNumber('shards', values.shards, 1);
  const journal = journalNamed(values.journal);
  const facts = provenance('');
  const running = await ourServer(journal, {
    SHARDS: String(shards),
    FLUSH_INTERVAL_MS: '3600000',
    FLUSH_MAX_KEYS: '100000000',
    // A shard flushes at a third of these.
    MAX_PENDING_KEYS: String(Math.ceil(3.1 * keys)),
    MAX_PENDING_BYTES: '384 MiB',
    JOURNAL_MAX_BYTES: '8 GiB',
  }).start();
  try {
    for (let body = 0; body < WARM_UP_BODIES; body += 1) await post(running.url, 0);
    const before = residentBytes(running.pid);
    const bodies = Math.ceil(keys / KEYS_A_BODY);
    for (let body = 1; body <= bodies; body += 1) await post(running.url, body);
    const after = residentBytes(running.pid);
    const committed = await running.settle();
    const expected = (bodies + 1) * KEYS_A_BODY;
    if (committed?.keys !== expected) throw new Error(`${committed?.keys ?? 0} of ${expected} keys were counted.`);
    const bytesPerPendingKey = (after - before) / (bodies * KEYS_A_BODY);
    const record = { kind: 'memory', journal, shards, keys: bodies * KEYS_A_BODY, keyBytes: KEY_BYTES } as const;
    appendRecord(values.out, { ...facts, uws: running.build ?? 'none', ...record, bytesPerPendingKey });
    console.log(`${thousands(bytesPerPendingKey)} bytes for each of ${thousands(record.keys)} pending keys`);
  } finally {
    await running.stop();
  }
});

/** Sends the nth thousand keys. */
async function post(url: string, body: number): Promise<void> {
  const increments = Array.from({ length: KEYS_A_BODY }, (_, n) => {
    const key = `pending:${String(body * KEYS_A_BODY + n).padStart(KEY_BYTES - 8, '0')}`;
    return `"${key}":1`;
  });
  const answer = await fetch(url, { method: 'POST', body: `{${increments.join(',')}}` });
  const text = await answer.text();
  if (answer.status !== 202) throw new Error(`an increment was answered ${answer.status} ${text}`);
}
