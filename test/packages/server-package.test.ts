/** The package that `npm pack` makes of the server, and a clone without the compiler. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { flushAll, increment, send } from '../support/http.js';
import { NpmProject, pack, ROOT, run, runWell } from '../support/npm-project.js';
import { assertCreated } from '../support/problem.js';

const SEQUENCE = 'npm ci && npm prune --omit=dev';

describe('the package of the server', () => {
  const project = new NpmProject();
  after(() => project.remove());
  const { tarball, files } = pack('.', project.directory);

  test('it holds the server, its declarations and its licence, and nothing else', () => {
    for (const file of ['dist/main.js', 'dist/cli/load.js', 'dist/http/dashboard/index.html', 'dist/typia/LICENSE'])
      assert.ok(files.includes(file), file);
    for (const file of ['package.json', 'README.md', 'LICENSE', 'SECURITY.md', 'dist/client/counter-client.d.ts'])
      assert.ok(files.includes(file), file);
    const others = files.filter(
      (file) => !/^(dist\/|scripts\/(check-built|build-state)\.js$|[A-Za-z]+(\.md|\.json)?$)/.test(file),
    );
    assert.deepEqual(others, []);
    assert.deepEqual(
      files.filter((file) => /\.(map|tsbuildinfo)$|test/.test(file)),
      [],
    );
  });

  test('it installs, prints version and help, starts, counts durably and stops', async () => {
    project.install(tarball);
    const command = join(project.directory, 'node_modules/.bin/summing-counters');
    assert.match(runWell(command, ['--version'], project.directory), /^\{"version":"0\.1\.0","uws":"20\.\d+","node":"/);
    assert.match(runWell(command, ['--help'], project.directory), /^PORT +default: 3333/m);
    assert.equal(run(command, ['--nothing'], project.directory).code, 78);
    const load = join(project.directory, 'node_modules/.bin/summing-counters-load');
    assert.match(runWell(load, ['--help'], project.directory), /^summing-counters-load \[OPTIONS\]/m);

    const server = spawn(command, [], { cwd: project.directory, env: { ...process.env, PORT: '0', DATA_DIR: 'data' } });
    let log = '';
    const ready = new Promise<string>((resolve, reject) => {
      server.once('exit', () => reject(new Error(log)));
      server.stdout.on('data', (chunk: Buffer) => {
        log += chunk.toString();
        const url = /https?:\/\/127\.0\.0\.1:\d+/.exec(log)?.[0];
        if (url !== undefined && log.includes('Ready')) resolve(url);
      });
      server.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
    });
    const url = await ready;
    assertCreated(await increment(url, { installed: 41 }));
    assertCreated(await increment(url, { installed: 1 }));
    await flushAll(url);
    assert.equal((await send(url, '/key_sum?name=installed')).body, '42');
    assert.match((await send(url, '/')).body, /<html/);
    server.kill('SIGTERM');
    assert.deepEqual(await once(server, 'exit'), [0, null], log);
  });

  test('the server exports its client', () => {
    const text = `import('summing-counters/client').then(({ CounterClient }) => console.log(typeof CounterClient))`;
    assert.equal(runWell(process.execPath, ['-e', text], project.directory), 'function\n');
  });
});

test('npm ci --omit=dev in a clone succeeds and prints the sequence that works, and so does a start without a build', () => {
  const clone = new NpmProject();
  try {
    for (const name of ['package.json', 'package-lock.json', '.npmrc', 'scripts', 'src'])
      cpSync(join(ROOT, name), join(clone.directory, name), { recursive: true });
    const installed = run('npm', ['ci', '--omit=dev', '--prefer-offline'], clone.directory);
    assert.equal(installed.code, 0, installed.err);
    assert.ok((installed.out + installed.err).includes(SEQUENCE), installed.out + installed.err);
    const started = run('npm', ['start'], clone.directory);
    assert.equal(started.code, 78, started.err);
    assert.match(started.err, new RegExp(`^summing-counters: not built\\. .*${SEQUENCE}$`, 'm'));
    // With the result of a build it starts, without the compiler.
    mkdirSync(join(clone.directory, 'dist'));
    cpSync(join(ROOT, 'dist'), join(clone.directory, 'dist'), { recursive: true });
    assert.match(runWell(process.execPath, ['dist/main.js', '--version'], clone.directory), /^\{"version"/);
  } finally {
    clone.remove();
  }
});
