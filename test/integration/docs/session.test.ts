import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { api } from '#product/http/api.js';
import { SuiteServer } from '../../support/suite-server.js';

const run = promisify(execFile);
const ANY_TIME = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g;

interface Step {
  readonly command: string;
  readonly output: string;
}

/** A server that the page starts, with the commands up to the next start. */
interface Part {
  readonly start: string;
  readonly env: Readonly<Record<string, string>>;
  readonly steps: readonly Step[];
}

const page = readFileSync(join(import.meta.dirname, '../../../../docs/session.md'), 'utf8');

/** `NAME=VALUE ... npm start`, a value in single quotes or without. The directory is the test's own. */
function environmentOf(start: string): Readonly<Record<string, string>> {
  assert.match(start, /^DATA_DIR=\$\(mktemp -d\) /);
  const settings = start.replace(/^\S+ -d\) /, '').matchAll(/([A-Z_]+)=(?:'([^']*)'|(\S+))/g);
  return Object.fromEntries(Array.from(settings, ([, name = '', quoted, plain = '']) => [name, quoted ?? plain]));
}

/** A line that begins with `$ ` is a command, `> ` continues it, and every other line is its output. */
function stepsOf(block: string): readonly Step[] {
  return block
    .split(/^\$ /m)
    .slice(1)
    .map((text) => {
      const lines = text.trimEnd().split('\n');
      const commandLines = lines.findIndex((line, index) => index > 0 && !line.startsWith('> '));
      const end = commandLines < 0 ? lines.length : commandLines;
      const command = lines
        .slice(0, end)
        .map((line) => line.replace(/^> /, ''))
        .join('\n');
      return { command, output: lines.slice(end).join('\n') };
    });
}

const blocks = Array.from(page.matchAll(/^```(sh|console)\n([\s\S]*?)^```$/gm), ([, kind = '', text = '']) => ({
  kind,
  text,
}));
const parts: Part[] = [];
for (const { kind, text } of blocks) {
  const current = parts.at(-1);
  if (kind === 'sh') parts.push({ start: text.trim(), env: environmentOf(text), steps: [] });
  else if (current !== undefined) parts[parts.length - 1] = { ...current, steps: [...current.steps, ...stepsOf(text)] };
}

for (const { start, env, steps } of parts) {
  describe(`docs/session.md: ${start}`, () => {
    const node = new SuiteServer(env);

    for (const { command, output } of steps) {
      test(`${command.slice(0, 100).replaceAll('\n', ' ')} says what the page says`, async () => {
        assert.ok(command.includes('localhost:3333'), 'a command calls the server');
        const here = command.replaceAll('localhost:3333', new URL(node.url).host);
        const { stdout } = await run('bash', ['-o', 'pipefail', '-c', here], { timeout: 20_000 });
        const said = stdout.replaceAll('\r\n', '\n').trimEnd();
        assert.equal(said.replaceAll(ANY_TIME, 'TIME'), output.replaceAll(ANY_TIME, 'TIME'));
      });
    }
  });
}

test('the page has a command for every operation of the server', () => {
  const commands = parts.flatMap(({ steps }) => steps.map(({ command }) => command));
  assert.ok(commands.length > 25);
  for (const [name, { method, path }] of Object.entries(api)) {
    const place = `localhost:3333${path.replace('{key}', '')}`;
    const isThere = commands.some((command) => {
      const at = command.indexOf(place);
      const behind = command[at + place.length] ?? ' ';
      const isPlace = at >= 0 && (path.endsWith('{key}') ? /[^\s'?]/ : /[\s'?]/).test(behind);
      const asked = /-X (POST|DELETE)/.exec(command)?.[1] ?? 'GET';
      return isPlace && asked === method.toUpperCase();
    });
    assert.ok(isThere, `${name}: ${method} ${path}`);
  }
});
