import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { acquireDataDirectory } from '#product/server/data-directory.js';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import { newOwnership } from '#product/shard-worker/journal/ownership-claim.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import {
  journalOptions,
  incrementRecord,
  replayed,
  segmentPaths,
  temporaryDirectory,
} from '../../support/journal-fixtures.js';

const command = join(import.meta.dirname, '../../../../dist/cli/journal.js');

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function run(dataDir: string, ...args: readonly string[]): Outcome {
  return runWords([...args, '--data-dir', dataDir]);
}

function runWords(words: readonly string[]): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...words], { encoding: 'utf8' });
  return { code: status, out: stdout, err: stderr };
}

function messageOf(fail: () => unknown): string {
  try {
    fail();
  } catch (error) {
    return error instanceof Error ? error.message : '';
  }
  return '';
}

interface Written {
  readonly dataDir: string;
  readonly options: FileJournalOptions;
  readonly stream: string;
  readonly path: string;
}

/** Records `k1` to `k5`, LSN 1 to 5, with times of the database. */
function write(t: TestContext): Written {
  const dataDir = temporaryDirectory(t);
  const options = journalOptions(dataDir);
  const journal = createFileJournal(options);
  for (let n = 1; n <= 5; n += 1) journal.append([incrementRecord(`k${n}`, n)], n === 4 ? 0 : 1_767_225_600 + n);
  journal.close();
  return { dataDir, options, stream: journal.stream, path: segmentPaths(options, journal.stream)[0] ?? '' };
}

const recordBytes = incrementRecord('k1', 1).byteLength;

function damageThird(path: string): void {
  const bytes = readFileSync(path);
  bytes.fill(0xee, SEGMENT_HEADER_BYTES + 2 * recordBytes + 20, SEGMENT_HEADER_BYTES + 3 * recordBytes - 5);
  writeFileSync(path, bytes);
}

test('verify reports the records of a whole journal and those above a checkpoint', (t) => {
  const { dataDir, stream, path } = write(t);
  const whole = run(dataDir, 'verify', '--above', '3');
  assert.equal(whole.code, 0, whole.err);
  assert.match(whole.out, new RegExp(`stream ${stream}`));
  assert.match(whole.out, /5 records, LSN 1 to 5/);
  assert.match(whole.out, /above LSN 3: 2 records, the last is LSN 5/);
  truncateSync(path, SEGMENT_HEADER_BYTES + 5 * recordBytes - 1);
  const torn = run(dataDir, 'verify');
  assert.equal(torn.code, 0);
  assert.match(torn.out, new RegExp(`a torn tail of ${recordBytes - 1} bytes`));
});

test('dump prints each record with its increments, reports damage, and then prints no record of that segment', (t) => {
  const { dataDir, stream, path } = write(t);
  const { out, code } = run(dataDir, 'dump', '--above', '3');
  assert.equal(code, 0);
  const lines = out.trim().split('\n');
  assert.deepEqual(
    lines.map((line): unknown => JSON.parse(line)),
    [4, 5].map((n) => ({
      stream,
      lsn: n,
      syncedLsn: n - 1,
      acceptedAt: '1970-01-01T00:00:01.000Z',
      // The fourth record carries no time of the database.
      databaseTime: n === 4 ? null : '2026-01-01T00:00:05.000Z',
      entries: [[`k${n}`, n]],
    })),
  );
  damageThird(path);
  const damaged = run(dataDir, 'dump');
  assert.equal(damaged.code, 1);
  assert.equal(damaged.out.trim().split('\n').length, 2);
  assert.match(damaged.err, /record 3 is damaged/);
});

/** Runs a program until the first of its output arrives, then stops reading, as `head` does. */
async function runUnread(program: string, ...args: readonly string[]): Promise<{ code: number | null; err: string }> {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let err = '';
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  child.stdout.once('data', () => child.stdout.destroy());
  await once(child, 'close');
  return { code: child.exitCode, err };
}

test('a command whose output nobody reads any more ends quietly with code 0', async (t) => {
  const { dataDir, options, stream } = write(t);
  const journal = openFileJournal({ ...options, stream });
  journal.recover(0);
  // More than a pipe holds, so that the command still prints when its reader has gone.
  for (let n = 1; n <= 100; n += 1) journal.append(Array.from({ length: 100 }, () => incrementRecord(`k${n}`, n)));
  journal.close();
  assert.deepEqual(await runUnread(command, 'dump', '--data-dir', dataDir), { code: 0, err: '' });
});

test('repair copies the damaged file and keeps whole records behind the damage; accept lets the server start', (t) => {
  const { dataDir, options, stream, path } = write(t);
  damageThird(path);
  const before = readFileSync(path);
  const found = run(dataDir, 'verify');
  assert.equal(found.code, 1);
  assert.match(found.out, /DAMAGED: .*record 3 is damaged; record 4 at offset/);

  const repaired = run(dataDir, 'repair');
  assert.equal(repaired.code, 0, repaired.err);
  assert.match(repaired.out, /kept LSN 4 to 5 behind the damage/);
  const copy = readdirSync(join(options.directory, stream)).find((name) => name.includes('.damaged-'));
  assert.deepEqual(readFileSync(join(options.directory, stream, copy ?? '')), before);

  const verified = run(dataDir, 'verify', '--above', '1');
  assert.equal(verified.code, 1);
  assert.match(verified.out, /LSN 3 is missing\n/);
  // The error names the complete command.
  const message = messageOf(() => openFileJournal({ ...options, stream }).recover(1));
  const [, named = ''] = /LSN 3 to 3\. .*`npm run journal -- (.*)`\.$/.exec(message) ?? [];
  const accepted = runWords(named.split(' '));
  assert.match(accepted.out, /Accepted as lost: LSN 3 of /);
  assert.equal(run(dataDir, 'verify', '--above', '1').code, 0);

  const journal = openFileJournal({ ...options, stream });
  journal.recover(1);
  assert.deepEqual(replayed(journal, 1), ['2:k2=2', '4:k4=4', '5:k5=5']);
  assert.equal(journal.append([incrementRecord('k6', 6)]), 6);
  journal.close();
});

test('repair cuts a journal whose end is lost, and the loss must be accepted', (t) => {
  const { dataDir, options, stream, path } = write(t);
  // After one recovery the header says that all five records were synced.
  const journal = openFileJournal({ ...options, stream });
  journal.recover(0);
  journal.close();
  const bytes = readFileSync(path);
  bytes.fill(0xee, SEGMENT_HEADER_BYTES + 3 * recordBytes);
  writeFileSync(path, bytes);
  const repaired = run(dataDir, 'repair');
  assert.match(repaired.out, /after LSN 3;[^]*no record behind the damage can be read/);
  assert.throws(() => openFileJournal({ ...options, stream }).recover(0), /LSN 4 to 5/);
  run(dataDir, 'accept', '--stream', stream, '--above', '0');
  const accepted = openFileJournal({ ...options, stream });
  accepted.recover(0);
  assert.deepEqual(replayed(accepted), ['1:k1=1', '2:k2=2', '3:k3=3']);
  accepted.close();
  assert.match(run(dataDir, 'repair').out, /Nothing to repair/);
});

test('accept says up to where a stream is counted whose row the database has lost, and the last word counts', (t) => {
  const { dataDir, options, stream } = write(t);
  for (const above of [0, 3]) {
    const { code, out, err } = run(dataDir, 'accept', '--stream', stream, '--above', String(above));
    assert.equal(code, 0, err);
    assert.match(out, /No record of stream \S+ is missing\.\n/);
    assert.match(
      out,
      new RegExp(`If the database has lost .*, the next start takes the records up to LSN ${above} as counted`),
    );
    assert.equal(openFileJournal({ ...options, stream }).acceptedCheckpoint(), above);
  }
  const journal = openFileJournal({ ...options, stream });
  journal.forgetAcceptedCheckpoint();
  assert.equal(openFileJournal({ ...options, stream }).acceptedCheckpoint(), undefined);
});

test('rebind moves the records of a copy to a new stream, cuts the old one, and gives the copy a new node id', (t) => {
  const { dataDir, options, stream } = write(t);
  const found = openFileJournal({ ...options, stream });
  const claims = [{ id: '11111111-aaaa-4bbb-8ccc-000000000001', lsn: 0, epoch: 7 }];
  found.keepOwnership({ mark: 'open', cover: undefined, claims });
  const held = acquireDataDirectory(dataDir);
  held.release();
  const { code, out, err } = run(dataDir, 'rebind', '--stream', stream, '--above', '3');
  assert.equal(code, 0, err);
  const moved = /2 records are now in stream (\S+)\./.exec(out)?.[1] ?? '';
  const journal = openFileJournal({ ...options, stream: moved });
  journal.recover(0);
  assert.deepEqual(replayed(journal), ['1:k4=4', '2:k5=5']);
  const times: number[] = [];
  for (const { databaseTime } of journal.replay(0)) times.push(databaseTime);
  assert.deepEqual(times, [0, 1_767_225_605], 'a moved record is as old as it was');
  assert.deepEqual(journal.ownership(), newOwnership(undefined), 'its row is made by the next start');
  journal.close();
  assert.match(out, new RegExp(`Stream ${stream} ends at LSN 3 now`));
  assert.deepEqual(readdirSync(options.directory).sort(), [moved, stream].sort());
  const old = openFileJournal({ ...options, stream });
  assert.deepEqual([old.findEnd(), old.ownership()], [3, { mark: 'open', cover: undefined, claims }]);
  old.recover(1);
  assert.deepEqual(replayed(old, 1), ['2:k2=2', '3:k3=3']);
  old.close();
  const again = acquireDataDirectory(dataDir);
  assert.notEqual(again.nodeId, held.nodeId);
  again.release();
  assert.match(run(dataDir, 'rebind', '--stream', moved, '--above', '2').out, /There are no records above LSN 2/);
  const alone = run(dataDir, 'rebind');
  assert.equal(alone.code, 1);
  assert.match(alone.out, new RegExp(`Stream ${stream} still belongs to both copies`));
});

test('the command refuses a data directory that a server is using', (t) => {
  const { dataDir } = write(t);
  const held = acquireDataDirectory(dataDir);
  const { code, err } = run(dataDir, 'verify');
  held.release();
  assert.equal(code, 78);
  assert.match(err, /^Another process is using the data directory/);
});

test('without --data-dir the data directory comes from the environment', (t) => {
  const { dataDir, stream } = write(t);
  const { stdout } = spawnSync(process.execPath, [command, 'verify'], {
    encoding: 'utf8',
    env: { ...process.env, DATA_DIR: dataDir },
  });
  assert.match(stdout, new RegExp(stream));
});

test('a wrong command line prints the problem and the help', (t) => {
  const { dataDir, stream } = write(t);
  for (const [args, problem] of [
    [['frobnicate'], /There is no command "frobnicate"/],
    [[], /There is no command ""/],
    [['verify', '--above', 'x'], /--above takes an LSN/],
    [['dump', '--stream', 'x'], /There is no stream x/],
    [['accept', '--stream', stream], /accept needs --stream and --above/],
    [['verify', '--frobnicate'], /--frobnicate/],
  ] as const) {
    const { code, err } = run(dataDir, ...args);
    assert.equal(code, 64, err);
    assert.match(err, problem);
    assert.match(err, /npm run journal -- COMMAND/);
  }
  assert.equal(run(dataDir, '--help').code, 0);
  rmSync(join(dataDir, 'journal'), { recursive: true });
  assert.match(run(dataDir, 'verify').out, /There are no streams/);
});
