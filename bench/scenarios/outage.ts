/**
 * `npm run bench:outage -- --seconds 60`: full load while the database is unavailable, then the time until all
 * acknowledged increments are committed. The benchmark holds a PostgreSQL of its own under load, which neither answers
 * nor refuses. With `--journal nats-ingest` an ingest server takes the load into three brokers, and a roll-up server
 * catches up; the figures then include what the increments take in a broker.
 */
import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { parseArgs } from 'node:util';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { startBrokerCluster } from '../contenders/brokers.js';
import { startHeldPostgres } from '../processes/held-postgres.js';
import { residentBytesMax } from '../processes/process-cost.js';
import { serverMain } from '../processes/project-paths.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    journal: { type: 'string', default: 'file' },
    increments: { type: 'string', default: '1' },
  },
});
const seconds = Number(values.seconds);
/** In each request. */
const increments = Number(values.increments);
const LOAD = `local n = 0
request = function()
  local members = {}
  for i = 1, ${increments} do
    n = n + 1
    members[i] = '"page:/articles/' .. (n % 1000) .. '": 1'
  end
  return wrk.format("POST", "/increment", nil, '{' .. table.concat(members, ',') .. '}')
end
`;

const dataDir = mkdtempSync(join(tmpdir(), 'summing-counters-outage-'));
const postgres = await startHeldPostgres();
const brokers = values.journal === 'nats-ingest' ? await startBrokerCluster() : undefined;
const server = start(dataDir, brokers === undefined ? {} : { ROLE: 'ingest' });
const rollUp = brokers === undefined ? undefined : start(join(dataDir, 'roll-up'), { ROLE: 'roll-up' });
try {
  const url = await ready();
  const load = wrk(url, seconds + 4);
  await pause(2000);
  postgres.hold();
  const stoppedAt = performance.now();
  await pause(seconds * 1000);
  const heldSeconds = (performance.now() - stoppedAt) / 1000;
  const stored = { bytes: brokers?.storedBytes() ?? 0, increments: await accepted(url) };
  postgres.release();
  const releasedAt = performance.now();
  const { requests, refused } = await load;
  const backAt = performance.now();
  const acknowledged = (requests - refused) * increments;
  const committed = await waitUntilCommitted(acknowledged);
  const [afterLoad, afterRelease] = [backAt, releasedAt].map((at) => ((performance.now() - at) / 1000).toFixed(1));
  console.log(
    `database held for ${heldSeconds.toFixed(1)} s: ${requests} requests of ${increments}, ${refused} refused, ` +
      `${committed} increments committed; the last of them ${afterLoad} s after the load ended, ${afterRelease} s after ` +
      'the database was back',
  );
  if (rollUp?.pid !== undefined) {
    console.log(
      `a broker had ${(stored.bytes / stored.increments).toFixed(1)} bytes an increment; the roll-up server had ` +
        `${Math.round(residentBytesMax(rollUp.pid) / 2 ** 20)} MiB resident at most, the ingest server ` +
        `${server.pid === undefined ? '?' : Math.round(residentBytesMax(server.pid) / 2 ** 20)} MiB`,
    );
  }
} finally {
  for (const child of [server, rollUp]) {
    if (child?.exitCode !== null) continue;
    child.kill('SIGTERM');
    await new Promise((resolve) => child.once('exit', resolve));
  }
  await brokers?.stop();
  await postgres.stop();
  rmSync(dataDir, { recursive: true, force: true, maxRetries: 50 });
}

function start(
  directory: string,
  settings: Readonly<Record<string, string>>,
): ChildProcessByStdio<null, Readable, null> {
  const env = {
    ...process.env,
    PORT: '0',
    DATA_DIR: directory,
    DATABASE_URL: postgres.url,
    ...brokers?.env,
    ...settings,
  };
  return spawn(process.execPath, [serverMain], { env, stdio: ['ignore', 'pipe', 'inherit'] });
}

/** How many increments the server has acknowledged since its start. */
async function accepted(url: string): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const values = metrics.matchAll(/^summing_counters_increments_accepted_total\{[^}]*\} (\d+)$/gm);
  return Array.from(values, ([, value]) => Number(value)).reduce((sum, value) => sum + value, 0);
}

function ready(): Promise<string> {
  let output = '';
  return new Promise((resolve, reject) => {
    server.once('exit', () => reject(new Error(`the server ended: ${output}`)));
    server.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      const url = /"msg":"Listening on ([^"]*)"/.exec(output)?.[1];
      if (url !== undefined && output.includes('"msg":"Ready"')) resolve(url);
    });
  });
}

function wrk(url: string, forSeconds: number): Promise<{ requests: number; refused: number }> {
  const script = join(dataDir, 'outage.lua');
  spawnSync('sh', ['-c', `cat > ${script}`], { input: LOAD });
  const child = spawn('wrk', ['-c128', '-t1', `-d${forSeconds}`, '-s', script, url]);
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', () => {
      const requests = Number(/(\d+) requests in/.exec(output)?.[1]);
      resolve({ requests, refused: Number(/Non-2xx or 3xx responses: (\d+)/.exec(output)?.[1] ?? 0) });
    });
  });
}

/** Waits until at least `acknowledged` increments are in the table. Requests in flight at the end may be there, too. */
async function waitUntilCommitted(acknowledged: number): Promise<number> {
  const connection = await connect(parseDatabaseUrl(postgres.url), {
    applicationName: 'outage',
    queryTimeoutMs: 60_000,
  });
  try {
    for (;;) {
      const [row] = await connection.query<{ sum: string }>({
        text: 'select coalesce(sum(sum), 0)::text as sum from counters',
      });
      const committed = Number(row?.sum ?? 0);
      if (committed > acknowledged + 128 * increments)
        throw new Error(`${committed} counted, ${acknowledged} acknowledged`);
      if (committed >= acknowledged) return committed;
      await pause(50);
    }
  } finally {
    await connection.close();
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
