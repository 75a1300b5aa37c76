/** What SECURITY.md says about the native binaries of uWebSockets.js, compared with the installed packages. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '../../../..');
/** Node 20, 22 and 24, by the version of their binary interface. */
const LOADABLE = /^uws_(darwin|linux)_(arm64|x64)_(115|127|137)\.node$/;
const folders = ['node_modules/uWebSockets.js', 'node_modules/uWebSockets.js-glibc-2.27/binaries'];

const security = readFileSync(join(root, 'SECURITY.md'), 'utf8');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly dependencies: Readonly<Record<string, string>>;
};

test('SECURITY.md and decision 0001 name the two packages as package.json has them', () => {
  const decision = readFileSync(join(root, 'docs/decisions/0001-two-builds-of-uwebsockets.md'), 'utf8');
  for (const alias of ['uWebSockets.js', 'uWebSockets.js-glibc-2.27']) {
    const given = /^npm:(.+)$/.exec(manifest.dependencies[alias] ?? '')?.[1] ?? '';
    assert.match(given, /@\d/);
    for (const text of [security, decision]) assert.ok(text.includes(`| \`${alias}\` | \`${given}\` |`), given);
  }
});

test('the SHA-256 of every binary that a supported Node can load is the one in SECURITY.md', () => {
  const listed = Array.from(
    security.matchAll(/^([0-9a-f]{64}) {2}(\S+)$/gm),
    ([, sha256, path]) => `${sha256}  ${path}`,
  );
  const installed = folders.flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => LOADABLE.test(name))
      .map((name) => {
        const path = join(root, folder, name);
        return `${createHash('sha256').update(readFileSync(path)).digest('hex')}  ${folder}/${name}`;
      }),
  );
  assert.deepEqual(listed.toSorted(), installed.toSorted());
});
