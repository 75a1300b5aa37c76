/**
 * `npm run bench:recovery`: the time of a start with a full journal. A server that does not flush gets a million
 * increments of 100,000 keys in bodies of 100, is killed with SIGKILL and started again. Then all is flushed and the
 * sums are checked.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serverMain } from '../processes/project-paths.js';

const INCREMENTS = 1_000_000;
const KEYS = 100_000;
const KEYS_A_BODY = 100;
const REQUESTS_AT_A_TIME = 16;
const NEVER_MS = '3600000';

interface Started {
  readonly child: ChildProcess;
  readonly url: string;
  /** Ms from the start of the process until it is ready. */
  readonly readyMs: number;
  readonly recoverMs: number;
}

const dataDir = mkdtempSync(join(tmpdir(), 'summing-counters-recovery-'));
let running: ChildProcess | undefined;
try {
  const first = await start();
  await sendAll(first.url);
  await kill(first.child, 'SIGKILL');
  const second = await start();
  const seconds = second.recoverMs / 1000;
  console.log(
    `ready ${(second.readyMs / 1000).toFixed(2)} s after the start of the process, ${seconds.toFixed(2)} s of them for ` +
      `the journal: ${Math.round(INCREMENTS / seconds)} increments recovered a second`,
  );
  const flush = performance.now();
  const answer = await fetch(`${second.url}/flush`, { method: 'POST' });
  console.log(`flushed: ${await answer.text()} in ${((performance.now() - flush) / 1000).toFixed(2)} s`);
  await check(second.url);
  await kill(second.child, 'SIGTERM');
} finally {
  if (running?.exitCode === null && running.signalCode === null) await kill(running, 'SIGKILL');
  rmSync(dataDir, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 });
}

function start(): Promise<Started> {
  const env = {
    ...process.env,
    PORT: '0',
    DATA_DIR: dataDir,
    FLUSH_INTERVAL_MS: NEVER_MS,
    FLUSH_MAX_KEYS: '100000000',
  };
  const startedAt = performance.now();
  const child = spawn(process.execPath, [serverMain], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  running = child;
  return new Promise((resolve, reject) => {
    let url = '';
    let databaseAt = startedAt;
    let output = '';
    child.once('exit', (code) => reject(new Error(`the server ended with ${code ?? 'a signal'}`)));
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      const lines = output.split('\n');
      output = lines.pop() ?? '';
      for (const line of lines) {
        const message = /"msg":"([^"]*)"/.exec(line)?.[1] ?? '';
        if (message.startsWith('Listening on ')) url = message.slice('Listening on '.length);
        if (message.startsWith('Database: embedded')) databaseAt = performance.now();
        const now = performance.now();
        if (message === 'Ready') resolve({ child, url, readyMs: now - startedAt, recoverMs: now - databaseAt });
      }
    });
  });
}

async function sendAll(url: string): Promise<void> {
  const bodies = INCREMENTS / KEYS_A_BODY;
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < bodies) {
      const first = (next * KEYS_A_BODY) % KEYS;
      next += 1;
      const increments = Array.from({ length: KEYS_A_BODY }, (_, n) => `"key:${first + n}":1`);
      const answer = await fetch(`${url}/increment`, { method: 'POST', body: `{${increments.join(',')}}` });
      const text = await answer.text();
      if (answer.status !== 202) throw new Error(`an increment was answered ${answer.status} ${text}`);
    }
  };
  await Promise.all(Array.from({ length: REQUESTS_AT_A_TIME }, worker));
}

/** Checks that every key was counted as often as it was sent. */
async function check(url: string): Promise<void> {
  let total = 0n;
  let after = '';
  for (let keys = 0; ;) {
    const answer = await fetch(`${url}/counters?limit=1000${after}`);
    const page: unknown = await answer.json();
    const { counters, next } = page as { counters: { sum: number }[]; next: string | null };
    for (const { sum } of counters) total += BigInt(sum);
    keys += counters.length;
    if (next === null) {
      if (keys !== KEYS || total !== BigInt(INCREMENTS))
        throw new Error(`${total} increments of ${keys} keys were counted`);
      console.log(`${keys} keys, ${total} increments: exact`);
      return;
    }
    after = `&after=${encodeURIComponent(next)}`;
  }
}

function kill(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  child.removeAllListeners('exit');
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    child.kill(signal);
  });
}
