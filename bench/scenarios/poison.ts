/**
 * `npm run bench:poison`: memory of the search for a row that PostgreSQL refuses. A server gets a million distinct keys and
 * one for which a trigger of the table raises an error. The flush then searches for that row among all of them. The figures
 * are resident memory of the server, and the heap of its shard thread, before the search and at most.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { NumberedKeys } from '../load/numbered-keys.js';
import { startBenchPostgres } from '../processes/bench-postgres.js';
import { ownedDirectory, removeOwned, startOwned, withCleanup } from '../processes/owned-process.js';
import { residentBytes, residentBytesMax } from '../processes/process-cost.js';
import { serverMain } from '../processes/project-paths.js';
import { thousands } from '../report/table.js';
import { wholeNumber } from './options.js';

const KEYS_A_BODY = 1000;
const KEY_BYTES = 24;
const MIB = 2 ** 20;
const HEAP_SAMPLE_MS = 5;
const FLUSH_MS_MAX = 240_000;

const usage = `npm run bench:poison -- [options]
Options:
  --keys N         pending keys besides the one that is refused; from 10,000, default 1000000
  --sqlstate CODE  what the trigger raises, default P0001
  --heap-mib N     most heap of each thread of the server; default: that of Node.js
`;

/** Runs first in every thread of the server: keeps the most heap that the thread has used, and what it uses now. */
const heapProbe = (directory: string): string =>
  `data:text/javascript,${encodeURIComponent(`
  import { threadId } from 'node:worker_threads';
  import { renameSync, writeFileSync } from 'node:fs';
  let most = 0;
  let samples = 0;
  setInterval(() => {
    const { heapUsed } = process.memoryUsage();
    most = Math.max(most, heapUsed);
    samples += 1;
    if (samples % 20 > 0) return;
    const file = ${JSON.stringify(directory)} + '/heap-' + threadId;
    writeFileSync(file + '.new', JSON.stringify({ most, now: heapUsed }));
    renameSync(file + '.new', file);
  }, ${HEAP_SAMPLE_MS}).unref();`)}`;

interface Heap {
  readonly most: number;
  readonly now: number;
}

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      keys: { type: 'string', default: '1000000' },
      sqlstate: { type: 'string', default: 'P0001' },
      'heap-mib': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const keys = wholeNumber('keys', values.keys, 10_000);
  if (!/^[0-9A-Z]{5}$/.test(values.sqlstate)) throw new Error('--sqlstate must be five digits or capital letters.');
  const heapMib = values['heap-mib'] === undefined ? undefined : wholeNumber('heap-mib', values['heap-mib'], 16);
  const postgres = await startBenchPostgres();
  const database = await postgres.database('poison');
  const directory = await ownedDirectory();
  const server = await startOwned({
    name: 'server',
    command: process.execPath,
    args: [
      ...(heapMib === undefined ? [] : [`--max-old-space-size=${heapMib}`]),
      ...['--import', heapProbe(directory), serverMain],
    ],
    env: {
      DATABASE_URL: database.target.url,
      DATA_DIR: join(directory, 'data'),
      ...{ PORT: '0', SHARDS: '1', LOG_LEVEL: 'info', FLUSH_INTERVAL_MS: '3600000' },
      // No bound starts a flush before all keys are pending.
      ...{ FLUSH_MAX_KEYS: '100000000', MAX_PENDING_KEYS: String(Math.ceil(3.1 * keys)) },
      ...{ MAX_PENDING_BYTES: '384 MiB', JOURNAL_MAX_BYTES: '8 GiB' },
    },
    ready: /"msg":"Ready"/,
  });
  try {
    const url = /"msg":"Listening on ([^"]+)"/.exec(server.output)?.[1] ?? '';
    await database.connection.query({ text: trigger(values.sqlstate) });
    const numbered = new NumberedKeys(`${url}/increment`, KEY_BYTES);
    for (let first = 0; first < keys; first += KEYS_A_BODY)
      await numbered.send(first, Math.min(KEYS_A_BODY, keys - first));
    const bad = await fetch(`${url}/increment`, { method: 'POST', body: '{"refused":1}' });
    if (bad.status !== 202) throw new Error(`the increment was answered ${bad.status}`);
    const residentBefore = residentBytes(server.pid);
    const before = shardHeap(directory);
    const start = performance.now();
    await flush(url);
    const seconds = (performance.now() - start) / 1000;
    const [row] = await database.connection.query<{ counters: string; rejected: string }>({
      text: `select (select count(*) from counters)::text as counters, (select count(*) from rejected_increments)::text as rejected`,
    });
    if (row?.counters !== String(keys) || row.rejected !== '1')
      throw new Error(`${row?.counters ?? 0} of ${keys} keys are counted, ${row?.rejected ?? 0} rows are set aside.`);
    const after = shardHeap(directory);
    console.log(
      `${thousands(keys)} pending keys and one row refused with ${values.sqlstate}: committed after ` +
        `${seconds.toFixed(1)} s, one row set aside; resident memory ${mib(residentBefore)} MiB before, ` +
        `${mib(residentBytesMax(server.pid))} at most, ${mib(residentBytes(server.pid))} after; heap of the shard thread ` +
        `${mib(before.now)} MiB before, ${mib(after.most)} at most, ${mib(after.now)} after`,
    );
  } finally {
    await database.connection.close();
    await server.stop();
    await postgres.stop();
    await removeOwned(directory);
  }
});

function mib(bytes: number): string {
  return thousands(bytes / MIB);
}

function trigger(sqlState: string): string {
  return `
    create function refuse() returns trigger language plpgsql as $$
    begin
      if new.key = 'refused' then raise exception 'this key is refused' using errcode = '${sqlState}'; end if;
      return new;
    end $$;
    create trigger refuse before insert or update on counters for each row execute function refuse()`;
}

/** The heap of the thread that flushes. With one shard it has the number 1; the main thread has 0. */
function shardHeap(directory: string): Heap {
  return JSON.parse(readFileSync(join(directory, 'heap-1'), 'utf8')) as Heap;
}

/** Flushes until everything is committed. */
async function flush(url: string): Promise<void> {
  for (const deadline = performance.now() + FLUSH_MS_MAX; performance.now() < deadline;) {
    const answer = await fetch(`${url}/flush`, { method: 'POST' });
    const text = await answer.text();
    if (answer.status === 200) return;
    if (answer.status !== 503) throw new Error(`POST /flush was answered ${answer.status} ${text}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not committed within ${FLUSH_MS_MAX / 1000} s`);
}
