/** What the packages of the server and of the client hold and depend on. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '../../..');

interface Manifest {
  readonly version: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly license: string;
}

function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as Manifest;
}

test('the client has the version of the server, and depends on nothing', () => {
  const client = manifestOf('client');
  assert.equal(client.version, manifestOf('.').version);
  assert.equal(client.license, manifestOf('.').license);
  assert.equal(client.dependencies, undefined);
});

test('nothing that only the compiler needs is installed for production', () => {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>;
  };
  const production = Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true)
    .map(([path]) => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length));
  assert.ok(production.includes('pg'));
  const compilers = production.filter((name) =>
    /^(typescript|typia|@typia\/.*|ts-patch|inquirer|@types\/.*)$/.test(name),
  );
  assert.deepEqual(compilers, []);
});

test('a CommonJS application loads the client without an ES module', () => {
  const folder = join(root, 'client/dist');
  const { CounterClient } = createRequire(import.meta.url)(join(folder, 'counter-client.cjs')) as {
    readonly CounterClient: unknown;
  };
  assert.equal(typeof CounterClient, 'function');
  for (const file of readdirSync(folder).filter((name) => /c[jt]s$/.test(name)))
    assert.doesNotMatch(readFileSync(join(folder, file), 'utf8'), /["']\.\/[^"']+\.js["']/, file);
});

test('both packages are made of the same client, and neither needs typia', () => {
  const withoutMap = (text: string): string => text.replace(/^\/\/# sourceMappingURL=.*\n?/m, '');
  const modules = readdirSync(join(root, 'dist/client')).filter((file) => file.endsWith('.js'));
  assert.ok(modules.includes('counter-client.js'));
  for (const file of modules) {
    const built = readFileSync(join(root, 'dist/client', file), 'utf8');
    assert.equal(readFileSync(join(root, 'client/dist', file), 'utf8'), withoutMap(built), file);
  }
  for (const file of ['config/read-config.js', 'http/openapi.js', 'http/version.js', 'http/uws.js']) {
    const imported = Array.from(
      readFileSync(join(root, 'dist', file), 'utf8').matchAll(/^import .* from ["']([^"']+)["']/gm),
      ([, name = '']) => name,
    );
    assert.ok(
      imported.some((name) => name.includes('/typia/internal/')),
      file,
    );
    assert.deepEqual(
      imported.filter((name) => /^typia\b/.test(name)),
      [],
    );
  }
});
