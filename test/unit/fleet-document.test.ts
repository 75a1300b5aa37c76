/** `docs/fleet.md` names what exists: settings, codes, commands, files, profiles, and figures that were measured. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { settings } from '#product/config/settings.js';
import { readComposeFile, repositoryRoot } from '../support/compose-file.js';

const read = (path: string): string => readFileSync(join(repositoryRoot, path), 'utf8');
const page = read('docs/fleet.md');
const blocks = Array.from(page.matchAll(/^```sh\n([\s\S]*?)^```$/gm), ([, text = '']) => text);
/** What stands in code: lines of blocks, and spans. */
const code = [
  ...blocks,
  ...Array.from(page.replaceAll(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`]+)`/g), ([, text = '']) => text),
];
const variables = new Set<string>(Object.values(settings).map(({ variable }) => variable));
/** Not settings: places that a reader fills in, and words of other programs. */
const OTHER_NAMES = /^(PASSWORD|REGISTRY|QUEUE_URL|SIGTERM|DELETE|POST|LSN|ID|URL|NODE|NATS|ROLL|UP)$/;

test('it names settings that exist', () => {
  const names = code.flatMap((text) => Array.from(text.matchAll(/\b[A-Z][A-Z_]+\b/g), ([name]) => name));
  const unknown = names.filter((name) => !variables.has(name) && !OTHER_NAMES.test(name));
  assert.ok(names.filter((name) => variables.has(name)).length > 30);
  assert.deepEqual([...new Set(unknown)], []);
});

test('it names codes that docs/errors.md explains', () => {
  const codes = code.filter((text) => /^(journal|checkpoint|database|outcome|roll-up)-[a-z]+$/.test(text));
  const errors = read('docs/errors.md');
  assert.ok(new Set(codes).size > 7);
  assert.deepEqual(
    codes.filter((text) => !errors.includes(`| \`${text}\` |`)),
    [],
  );
});

test('it names commands of npm run journal that exist, and scripts of package.json', () => {
  const { stdout } = spawnSync(process.execPath, [join(repositoryRoot, 'dist/cli/journal.js'), '--help'], {
    encoding: 'utf8',
  });
  const { scripts } = JSON.parse(read('package.json')) as { readonly scripts: Readonly<Record<string, string>> };
  const commands = Array.from(
    code.join('\n').matchAll(/(?:npm run|cli\/)(?: )?(?:journal -- |journal\.js )(\w+)/g),
    ([, name = '']) => name,
  );
  assert.ok(commands.length > 5);
  assert.deepEqual(
    commands.filter((name) => !new RegExp(`^ {2}${name}\\b`, 'm').test(stdout)),
    [],
  );
  const named = Array.from(code.join('\n').matchAll(/npm run (\w[\w:-]*)/g), ([, name = '']) => name);
  assert.deepEqual(
    named.filter((name) => scripts[name] === undefined),
    [],
  );
});

test('it names files, services and profiles that exist', () => {
  const paths = code.flatMap((text) =>
    Array.from(text.matchAll(/\b(?:deploy|test|dist)\/[\w./@-]+/g), ([path]) => path),
  );
  assert.ok(paths.length > 6);
  assert.deepEqual(
    paths.filter((path) => !existsSync(join(repositoryRoot, path))),
    [],
  );
  const { services } = readComposeFile();
  const commands = Array.from(code.join('\n').matchAll(/docker compose ([^#\n]*)/g), ([, text = '']) =>
    text.trim().split(' '),
  );
  assert.ok(commands.length >= 4);
  const profiles = new Set(Object.values(services).flatMap(({ profiles: named = [] }) => named));
  for (const words of commands) {
    const profile = words[0] === '--profile' ? words[1] : undefined;
    assert.ok(profile === undefined || profiles.has(profile), words.join(' '));
    const [, ...named] = words.slice(words.indexOf('up')).filter((word) => /^[a-z]/.test(word) && !word.includes('='));
    assert.deepEqual(
      named.filter((name) => !(name in services)),
      [],
    );
  }
});

test('its sizes are those of the benchmarks', () => {
  const measured = read('docs/benchmarks.md') + read('docs/cost-model.md');
  const [, table = ''] = page.split('\n## Sizes\n');
  const rows = table.split('\n').filter((line) => /^\| [ACD][,:]/.test(line));
  const figures = rows.flatMap((row) => Array.from(row.matchAll(/\d+(?:,\d{3})+|\d+\.\d+/g), ([figure]) => figure));
  assert.ok(figures.length >= 24, figures.join(' '));
  assert.deepEqual(
    figures.filter((figure) => !measured.includes(figure)),
    [],
  );
});

test('its links lead to files and headings', () => {
  const headingsOf = (text: string): readonly string[] =>
    Array.from(text.matchAll(/^#+ (.*)$/gm), ([, heading = '']) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w -]/g, '')
        .replaceAll(' ', '-'),
    );
  const links = Array.from(page.matchAll(/\]\(([^)#]*)(?:#([^)]*))?\)/g), ([, file = '', anchor]) => ({
    file,
    anchor,
  }));
  assert.ok(links.length > 20);
  for (const { file, anchor } of links) {
    const path = file === '' ? 'docs/fleet.md' : join('docs', file);
    assert.ok(existsSync(join(repositoryRoot, path)), path);
    if (anchor !== undefined) assert.ok(headingsOf(read(path)).includes(anchor), `${path}#${anchor}`);
  }
});
