import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { acquireDataDirectory, makeNodeId, streamsOnDisk } from '#product/server/data-directory.js';
import { StartError } from '#product/core/errors.js';

function temporaryPath(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'summing-counters-data-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function isRefusal(pattern: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof StartError && error.problems.length === 1 && pattern.test(error.problems[0] ?? '');
}

test('a missing data directory is created, and keeps its node id', (t) => {
  const dataDir = join(temporaryPath(t), 'deep', 'data');
  const first = acquireDataDirectory(dataDir);
  assert.match(first.nodeId, /^[0-9a-f-]{36}$/);
  first.release();
  first.release();
  const second = acquireDataDirectory(dataDir);
  assert.equal(second.nodeId, first.nodeId);
  const renamed = makeNodeId(dataDir);
  second.release();
  assert.notEqual(renamed, first.nodeId);
  const third = acquireDataDirectory(dataDir);
  assert.equal(third.nodeId, renamed);
  third.release();
});

test(
  'a data directory that cannot be created is refused at once, in one sentence',
  { skip: process.platform === 'linux' ? false : 'only Linux has /proc' },
  (t) => {
    const file = join(temporaryPath(t), 'file');
    writeFileSync(file, '');
    for (const dataDir of ['/proc/summing-counters', '/proc/deep/summing-counters', join(file, 'data')]) {
      assert.throws(() => acquireDataDirectory(dataDir), isRefusal(/^The data directory .* cannot be used: /));
    }
  },
);

test('a data directory whose node id cannot be read is refused, and its streams are unknown where it has no directory of them', (t) => {
  const dataDir = temporaryPath(t);
  assert.deepEqual(streamsOnDisk(dataDir), []);
  writeFileSync(join(dataDir, 'journal'), '');
  assert.equal(streamsOnDisk(dataDir), undefined);
  mkdirSync(join(dataDir, 'node-id'));
  assert.throws(() => acquireDataDirectory(dataDir), isRefusal(/^The node id cannot be read from .*EISDIR/));
});

test('a data directory that this process has locked is refused, in one sentence', (t) => {
  const dataDir = temporaryPath(t);
  const held = acquireDataDirectory(dataDir);
  assert.throws(() => acquireDataDirectory(dataDir), isRefusal(/^Another process is using the data directory /));
  held.release();
  acquireDataDirectory(dataDir).release();
});

test('a killed process releases the lock, and the lock file that it leaves blocks nobody', async (t) => {
  const dataDir = temporaryPath(t);
  const script = `
    const { acquireDataDirectory } = await import('#product/server/data-directory.js');
    acquireDataDirectory(process.argv[1]);
    console.log('held');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, dataDir], {
    cwd: join(import.meta.dirname, '../../../..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  assert.throws(() => acquireDataDirectory(dataDir), isRefusal(/^Another process/));
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.ok(statSync(join(dataDir, 'lock')).isFile());
  acquireDataDirectory(dataDir).release();
});

test('an invalid node id and a path that cannot be a directory are refused, in one sentence each', (t) => {
  const dataDir = temporaryPath(t);
  writeFileSync(join(dataDir, 'node-id'), 'mine');
  assert.throws(() => acquireDataDirectory(dataDir), isRefusal(/node-id should hold a UUID/));
  assert.equal(readFileSync(join(dataDir, 'node-id'), 'utf8'), 'mine');
  assert.throws(
    () => acquireDataDirectory(join(dataDir, 'node-id')),
    isRefusal(/cannot be used: EEXIST|cannot be used: ENOTDIR/),
  );
  rmSync(join(dataDir, 'node-id'));
  writeFileSync(join(dataDir, 'node-id.new'), 'half');
  acquireDataDirectory(dataDir).release();
});
