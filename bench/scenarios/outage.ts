/**
 * `npm run bench:outage -- --seconds 60`: full load while the database is unavailable, then the time until all
 * acknowledged increments are committed. The benchmark holds a PostgreSQL of its own under load, which neither answers
 * nor refuses.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { startHeldPostgres } from '../processes/held-postgres.js';
import { serverMain } from '../processes/project-paths.js';

const LOAD = `local n = 0
request = function()
  n = n + 1
  return wrk.format("POST", "/increment", nil, '{"key:' .. (n % 1000) .. '": 1}')
end
`;

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } });
const seconds = Number(values.seconds);
const dataDir = mkdtempSync(join(tmpdir(), 'summing-counters-outage-'));
const postgres = await startHeldPostgres();
const env = { ...process.env, PORT: '0', DATA_DIR: dataDir, DATABASE_URL: postgres.url };
const server = spawn(process.execPath, [serverMain], { env, stdio: ['ignore', 'pipe', 'inherit'] });
try {
  const url = await ready();
  const load = wrk(url, seconds + 4);
  await pause(2000);
  postgres.hold();
  const stoppedAt = performance.now();
  await pause(seconds * 1000);
  postgres.release();
  const heldSeconds = (performance.now() - stoppedAt) / 1000;
  const { requests, refused } = await load;
  const backAt = performance.now();
  const committed = await waitUntilCommitted(requests - refused);
  const rest = ((performance.now() - backAt) / 1000).toFixed(1);
  console.log(
    `database held for ${heldSeconds.toFixed(1)} s: ${requests} requests, ${refused} refused, ${committed} committed; ` +
      `the last of them ${rest} s after the load ended`,
  );
} finally {
  server.kill('SIGTERM');
  await new Promise((resolve) => server.once('exit', resolve));
  await postgres.stop();
  rmSync(dataDir, { recursive: true, force: true, maxRetries: 50 });
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
      if (committed > acknowledged + 128) throw new Error(`${committed} counted, ${acknowledged} acknowledged`);
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
