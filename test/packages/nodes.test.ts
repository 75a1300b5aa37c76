/** What the programs say on versions of Node that they do not run on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeProgram, ROOT, run } from '../support/npm-project.js';

test('on an older Node every program ends with 78 and one sentence', () => {
  for (const program of ['dist/main.js', 'dist/cli/journal.js', 'dist/cli/load.js', 'dist/cli/migrate.js']) {
    assert.deepEqual(run(nodeProgram(18), [program, '--help'], ROOT), {
      code: 78,
      out: '',
      err: 'summing-counters: Node 18.20.8 is too old: use Node 20 (20.15 or later), Node 22 (22.2 or later) or Node 24.\n',
    });
  }
});

test('on Node 26, for which no build is installed, the server ends with 78 and says how to install one', () => {
  const { code, out, err } = run(nodeProgram(26), ['dist/main.js', '--version'], ROOT);
  assert.deepEqual([code, out], [78, '']);
  assert.match(
    err,
    /^summing-counters: No native build of uWebSockets\.js loads in Node 26\.12\.1 on linux x64\. Use Node 20/,
  );
  assert.match(err, /For Node 26 install the package of upstream, which also needs glibc 2\.38: npm install /);
  assert.match(err, /\(@btc-vision\/uwebsockets\.js 20\.57\.0: Cannot find module .*147.*; .*: no such build\)\.\n$/);
});

test('on Node 22 and 24 the server runs with glibc 2.38, and with an older one says that it is needed', () => {
  const { header } = process.report.getReport() as unknown as {
    readonly header: { readonly glibcVersionRuntime: string };
  };
  const [major = 0, minor = 0] = header.glibcVersionRuntime.split('.').map(Number);
  for (const node of [22, 24]) {
    const { code, out, err } = run(nodeProgram(node), ['dist/main.js', '--version'], ROOT);
    if (major > 2 || minor >= 38) {
      assert.equal(code, 0, err);
      assert.match(out, /^\{"version":"\d+\.\d+\.\d+","uws":"20\.57","node":"2[24]\.[\d.]+"\}\n$/);
    } else {
      assert.equal(code, 78);
      assert.match(err, /20\.57\.0: .*GLIBC_2\.38' not found/);
    }
  }
});
