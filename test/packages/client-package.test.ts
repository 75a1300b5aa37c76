/** The client's package as applications use it: in every kind of module, project and program, against a real server. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { Agent, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { launchBrowser } from '../support/browser.js';
import { increment, send } from '../support/http.js';
import { NpmProject, nodeProgram, pack, ROOT, runWell } from '../support/npm-project.js';
import { startServer, type TestServer } from '../support/server.js';
import { SuiteServer } from '../support/suite-server.js';

const NODES = [20, 22, 24];
const tools = join(ROOT, '.ci/client-project/node_modules');

/** The body of a program: counts under `key`, reads it back and prints the sum. */
const COUNT = `
  const client = new CounterClient({ url: process.env.COUNTERS_URL });
  client.increment(process.env.KEY, 41);
  client.incrementMany({ [process.env.KEY]: 1 });
  await client.flush();
  console.log(String(await client.get(process.env.KEY)));
  await client.close();
`;

describe('the package of the client', () => {
  const node = new SuiteServer();
  const project = new NpmProject();
  let files: readonly string[] = [];
  before(() => {
    const packed = pack('client', project.directory);
    files = packed.files;
    project.install(packed.tarball);
  });
  after(() => project.remove());

  function counts(program: string, args: readonly string[], key: string): void {
    const out = runWell(program, args, project.directory, { COUNTERS_URL: node.url, KEY: key });
    assert.equal(out, '42\n');
  }

  test('it holds both kinds of modules with their declarations, and nothing else', () => {
    const expected = ['LICENSE', 'README.md', 'package.json'];
    const modules = readdirSync(join(ROOT, 'src/client')).flatMap((file) =>
      ['.cjs', '.d.cts', '.d.ts', '.js'].map((suffix) => `dist/${file.replace(/\.ts$/, suffix)}`),
    );
    assert.deepEqual([...files].sort(), [...expected, ...modules].sort());
    const { packages } = JSON.parse(readFileSync(join(project.directory, 'package-lock.json'), 'utf8')) as {
      readonly packages: Readonly<Record<string, unknown>>;
    };
    assert.deepEqual(Object.keys(packages), ['', 'node_modules/summing-counters-client']);
  });

  for (const major of NODES) {
    test(`Node ${major} loads it as an ES module and as CommonJS`, () => {
      const imported = project.write('esm.mjs', `import { CounterClient } from 'summing-counters-client';\n${COUNT}`);
      const required = project.write(
        'cjs.cjs',
        `const { CounterClient } = require('summing-counters-client');\n(async () => {${COUNT}})();`,
      );
      counts(nodeProgram(major), [imported], `esm ${major}`);
      counts(nodeProgram(major), [required], `cjs ${major}`);
    });

    test(`Jest on Node ${major} loads it`, () => {
      project.write(
        'count.test.js',
        `const { CounterClient, CounterClientError } = require('summing-counters-client');
        test('it counts', async () => {
          const client = new CounterClient({ url: process.env.COUNTERS_URL });
          client.increment('jest ${major}');
          await client.close();
          expect(await client.get('jest ${major}')).toBe(1n);
          expect(() => client.increment('a')).toThrow(CounterClientError);
        });`,
      );
      const args = [join(tools, 'jest/bin/jest.js'), '--rootDir', project.directory];
      runWell(nodeProgram(major), args, project.directory, { COUNTERS_URL: node.url });
    });
  }

  const program = `import { CounterClient, CounterClientError, type Retry } from 'summing-counters-client';
declare const process: { readonly env: Readonly<Record<string, string>> };
const retries: Retry[] = [];
const client = new CounterClient({ url: process.env['COUNTERS_URL'] ?? '', onRetry: (retry) => retries.push(retry) });
async function main(): Promise<void> {
  const taken: boolean = client.increment(process.env['KEY'] ?? '', 42);
  await client.flush();
  const sum: bigint | undefined = await client.get(process.env['KEY'] ?? '');
  const many: Map<string, bigint | undefined> = await client.getMany(['a', 'b']);
  const { pending, lastError } = client.stats();
  if (!taken || many.size !== 2 || pending !== 0 || lastError instanceof CounterClientError) throw new Error('wrong');
  console.log(String(sum));
  await client[Symbol.asyncDispose]();
}
void main();
// @ts-expect-error: an amount is a number.
const wrong = (): boolean => client.increment('a', '1');
void wrong;
`;
  const compilations = [
    { name: 'NodeNext, ES module', file: 'nodenext.mts', made: 'out/nodenext.mjs', options: ['--module', 'nodenext'] },
    { name: 'NodeNext, CommonJS', file: 'nodenext.cts', made: 'out/nodenext.cjs', options: ['--module', 'nodenext'] },
    {
      name: 'bundler',
      file: 'bundled.ts',
      made: 'out/bundled.js',
      options: ['--module', 'esnext', '--moduleResolution', 'bundler'],
    },
    {
      name: 'CommonJS of old projects',
      file: 'old.cts',
      made: 'out/old.cjs',
      options: ['--module', 'commonjs', '--moduleResolution', 'node10'],
    },
  ];
  for (const { name, file, made, options } of compilations) {
    test(`TypeScript compiles against its declarations: ${name}`, () => {
      const source = project.write(file, program);
      const strict = ['--strict', '--exactOptionalPropertyTypes', '--skipLibCheck', 'false'];
      // The DOM declares fetch and URL; Node's declarations do, too.
      const target = ['--target', 'es2022', '--lib', 'es2022,dom', '--outDir', 'out'];
      runWell(
        process.execPath,
        [join(tools, 'typescript/bin/tsc'), source, ...strict, ...target, ...options],
        project.directory,
      );
      if (name !== 'bundler') counts(process.execPath, [made], name);
    });
  }

  const examples = readFileSync(join(ROOT, 'docs/client.md'), 'utf8').matchAll(
    /<!-- example: (\w+) -->\s*```js\n([\s\S]*?)```/g,
  );
  for (const [, framework = '', code = ''] of examples) {
    test(`the shutdown example of ${framework} loses nothing`, async () => {
      project.link(framework);
      const file = project.write(`${framework}.mjs`, code);
      const application = spawn(process.execPath, [file], {
        cwd: project.directory,
        env: { ...process.env, COUNTERS_URL: node.url, PORT: '0' },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      // The programs before have kept this process from noticing that the server closed an idle connection.
      const agent = new Agent({ keepAlive: false });
      const read = async (): Promise<string> => (await send(node.url, '/key_sum?name=page:/', { agent })).body;
      const before = BigInt((await read()).replace(/\D.*|^$/s, '0'));
      const [line] = (await once(application.stdout, 'data')) as [Buffer];
      const url = line.toString().trim();
      for (let count = 0; count < 10; count += 1) assert.equal((await send(url, '/')).body, 'hello');
      application.kill('SIGTERM');
      assert.deepEqual(await once(application, 'exit'), [0, null]);
      assert.equal(await read(), String(before + 10n));
    });
  }

  test('both shutdown examples are there', () => {
    const text = readFileSync(join(ROOT, 'docs/client.md'), 'utf8');
    assert.deepEqual(text.match(/<!-- example: \w+ -->/g), ['<!-- example: fastify -->', '<!-- example: express -->']);
  });
});

describe('the package of the client in a browser', () => {
  const project = new NpmProject();
  const token = 'of-the-page';
  let page = '';
  let server: TestServer;
  const web = createServer((request, response) => {
    if (request.url === '/application.js') {
      response.setHeader('content-type', 'text/javascript');
      response.end(readFileSync(join(project.directory, 'application.js')));
    } else {
      response.setHeader('content-type', 'text/html');
      response.end(
        '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/application.js"></script>',
      );
    }
  });

  before(async () => {
    project.install(pack('client', project.directory).tarball);
    project.write(
      'page.js',
      `import { CounterClient } from 'summing-counters-client';
      globalThis.count = async (url, token) => {
        const client = new CounterClient({ url, token, authRetryMs: 0, retryForMsMax: 1 });
        client.incrementMany({ browser: 41, 'é "': 1 });
        await client.flush();
        client.increment('browser');
        await client.close();
        const sums = await client.getMany(['browser', 'é "', 'never']);
        return [String(await client.get('browser')), [...sums.values()].map(String), String(await client.delete('browser'))];
      };`,
    );
    const bundle = ['page.js', '--bundle', '--format=esm', '--platform=browser', '--outfile=application.js'];
    runWell(join(tools, '.bin/esbuild'), bundle, project.directory);
    await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
    // It listens on TCP.
    page = `http://127.0.0.1:${(web.address() as AddressInfo).port}`;
    server = await startServer({ env: { CORS_ORIGINS: page, AUTH_TOKENS: `admin:${token}`, SHARDS: '1' } });
  });
  after(async () => {
    web.close();
    project.remove();
    await server.stop();
    await server.dispose();
  });

  test('a page of another origin counts, reads and deletes, with a preflight, if CORS_ORIGINS lists it', async () => {
    const browser = await launchBrowser();
    try {
      const tab = await browser.newPage();
      const problems: string[] = [];
      tab.on('console', (message) => problems.push(message.text()));
      tab.on('pageerror', (error) => problems.push(error.message));
      await tab.goto(page);
      await tab.waitForFunction('globalThis.count !== undefined');
      const call = `count(${JSON.stringify(server.url)}, ${JSON.stringify(token)})`;
      assert.deepEqual(await tab.evaluate(call), ['42', ['42', '1', 'undefined'], '42']);
      assert.deepEqual(problems, []);
      const metrics = await send(server.url, '/metrics', { headers: { authorization: `Bearer ${token}` } });
      assert.match(
        metrics.body,
        /http_requests_total\{[^}]*preflight[^}]*204[^}]*\} [1-9]|http_requests_total\{[^}]*204[^}]*preflight[^}]*\} [1-9]/,
      );
    } finally {
      await browser.close();
    }
  });

  test('a page of an origin that is not listed reads nothing', async () => {
    const browser = await launchBrowser();
    try {
      const tab = await browser.newPage();
      await tab.goto(page.replace('127.0.0.1', 'localhost'));
      await tab.waitForFunction('globalThis.count !== undefined');
      const call = `count(${JSON.stringify(server.url)}, ${JSON.stringify(token)}).catch((error) => error.message)`;
      const message: unknown = await tab.evaluate(call);
      assert.match(String(message), /: POST http:\/\/127\.0\.0\.1:\d+\/increment: no answer: Failed to fetch$/);
      const authorization = `Bearer ${token}`;
      assert.equal((await increment(server.url, { later: 1 }, { headers: { authorization } })).status, 202);
    } finally {
      await browser.close();
    }
  });
});
