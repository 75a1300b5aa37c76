/**
 * `npm run bench:bounds`: memory of a server at its limits. The database is held, and new keys are sent until the
 * server refuses them: short keys until the default of MAX_PENDING_KEYS is reached; then, with another server, long
 * keys until the default of MAX_PENDING_BYTES is reached. At the limit, the benchmark sends more new keys, which are
 * refused, and more increments of pending keys, which are counted, so that growth would show. Then the database
 * continues, and its table must hold exactly the acknowledged increments.
 */
import { parseArgs } from 'node:util';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { startHeldPostgres } from '../processes/held-postgres.js';
import { NumberedKeys } from '../load/numbered-keys.js';
import { journalNamed, wholeNumber } from './options.js';
import { journals, type JournalName } from '../contenders/our-server.js';
import { ownedDirectory, removeOwned, startOwned, withCleanup } from '../processes/owned-process.js';
import { residentBytes, residentBytesMax } from '../processes/process-cost.js';
import { serverMain } from '../processes/project-paths.js';
import { appendRecord, provenance, runsFile, type BoundFigures } from '../report/record.js';
import { thousands } from '../report/table.js';

/** A limit to reach. The length of the keys decides which limit is reached first. */
const fillings = [
  { bound: 'MAX_PENDING_KEYS', keyBytes: 24, pendingIsTaken: true },
  { bound: 'MAX_PENDING_BYTES', keyBytes: 512, pendingIsTaken: false },
] as const;

const KEYS_A_BODY = 1000;
const WARM_UP_BODIES = 500;
/** Requests at the limit: this many with new keys, and as many with pending keys if the server accepts those. */
const REQUESTS_AT_BOUND = 20_000;
const COMMIT_MS_MAX = 120_000;
const RETRY_MS = 100;
const MIB = 2 ** 20;

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      journals: { type: 'string', default: 'memory,file-always' },
      shards: { type: 'string', default: '1' },
      out: { type: 'string', default: runsFile },
    },
  });
  const shards = wholeNumber('shards', values.shards, 1);
  const facts = provenance('');
  const runs: BoundFigures[] = [];
  let uws = 'none';
  for (const journal of values.journals.split(',').map(journalNamed)) {
    for (const filling of fillings) {
      const { figures, build } = await fillAndDrain(journal, shards, filling);
      runs.push(figures);
      uws = build ?? uws;
      console.log(sentence(figures));
    }
  }
  appendRecord(values.out, { ...facts, uws, kind: 'bounds', shards, runs });
});

type Filling = (typeof fillings)[number];

async function fillAndDrain(
  journal: JournalName,
  shards: number,
  { bound, keyBytes, pendingIsTaken }: Filling,
): Promise<{ readonly figures: BoundFigures; readonly build: string | undefined }> {
  const postgres = await startHeldPostgres();
  const dataDir = await ownedDirectory();
  const server = await startOwned({
    name: journal,
    command: process.execPath,
    args: [serverMain],
    env: {
      // An empty value means unset: the server has its default limits.
      ...{ MAX_PENDING_KEYS: '', MAX_PENDING_BYTES: '', MAX_BODY_BYTES: '', MAX_KEY_BYTES: '', JOURNAL_MAX_BYTES: '' },
      ...journals[journal],
      ...{ DATABASE_URL: postgres.url, SHARDS: String(shards), PORT: '0', DATA_DIR: dataDir, LOG_LEVEL: 'info' },
    },
    ready: /"msg":"Ready"/,
  });
  try {
    const url = /"msg":"Listening on ([^"]+)"/.exec(server.output)?.[1] ?? '';
    const keys = new NumberedKeys(`${url}/increment`, keyBytes);
    for (let body = 0; body < WARM_UP_BODIES; body += 1) await keys.send(0, KEYS_A_BODY);
    await committed(url, 'warm up');
    const residentMibBefore = residentBytes(server.pid) / MIB;

    postgres.hold();
    await keys.sendUntilRefused(KEYS_A_BODY);
    await keys.eachRefused(REQUESTS_AT_BOUND);
    // The first thousand keys were committed before.
    if (pendingIsTaken) await keys.eachTaken(KEYS_A_BODY, REQUESTS_AT_BOUND);
    const residentMibAtBound = residentBytes(server.pid) / MIB;

    postgres.release();
    const start = performance.now();
    await committed(url, 'acknowledged increments');
    const secondsToCommit = (performance.now() - start) / 1000;
    const residentMibMax = residentBytesMax(server.pid) / MIB;
    await checkTable(postgres.url, keys);
    const figures = {
      journal,
      bound,
      keyBytes,
      keys: keys.taken - KEYS_A_BODY,
      ...{ residentMibBefore, residentMibAtBound },
    };
    const build = /uWebSockets\.js [^"]*/.exec(server.output)?.[0];
    return { figures: { ...figures, residentMibMax, secondsToCommit }, build };
  } finally {
    await server.stop();
    await postgres.stop();
    await removeOwned(dataDir);
  }
}

/**
 * Flushes until all acknowledged increments are committed. The server may still think that the database is unavailable.
 */
async function committed(url: string, what: string): Promise<void> {
  for (const deadline = performance.now() + COMMIT_MS_MAX; performance.now() < deadline;) {
    const answer = await fetch(`${url}/flush`, { method: 'POST' });
    const text = await answer.text();
    if (answer.status === 200) return;
    if (answer.status !== 503) throw new Error(`POST /flush was answered ${answer.status} ${text}`);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  throw new Error(`${what}: not committed within ${COMMIT_MS_MAX / 1000} s`);
}

/** Checks that every acknowledged key has its sum, and that there is no other key. */
async function checkTable(databaseUrl: string, keys: NumberedKeys): Promise<void> {
  const connection = await connect(parseDatabaseUrl(databaseUrl), {
    applicationName: 'bounds',
    queryTimeoutMs: COMMIT_MS_MAX,
  });
  try {
    const rows = await connection.query<{ key: string; sum: string }>({ text: 'select key, sum::text from counters' });
    const sums = new Map(rows.map(({ key, sum }) => [key, Number(sum)]));
    for (let index = 0; index < keys.taken; index += 1) {
      const expected = keys.sumOf(index);
      const sum = sums.get(keys.key(index));
      if (sum !== expected) throw new Error(`${keys.key(index)} is ${sum ?? 'missing'} and not ${expected}`);
    }
    if (sums.size !== keys.taken)
      throw new Error(`${sums.size} keys are in the table, ${keys.taken} were acknowledged`);
  } finally {
    await connection.close();
  }
}

function sentence({ journal, bound, keys, keyBytes, ...figures }: BoundFigures): string {
  const { residentMibBefore, residentMibAtBound, residentMibMax, secondsToCommit } = figures;
  return (
    `${journal}, ${bound}: ${thousands(keys)} keys of ${keyBytes} bytes were pending; resident memory was ` +
    `${thousands(residentMibBefore)} MiB before, ${thousands(residentMibAtBound)} at the bound, ` +
    `${thousands(residentMibMax)} at most until all was committed, after ${secondsToCommit.toFixed(1)} s; sums exact`
  );
}
