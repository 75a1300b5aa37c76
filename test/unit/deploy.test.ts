/** The files of `deploy/`, `compose.yaml` and the workflows agree with the product. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { settings } from '#product/config/settings.js';

const root = join(import.meta.dirname, '../../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const unit = read('deploy/systemd/summing-counters.service');
const variables = new Set<string>(Object.values(settings).map(({ variable }) => variable));

/** The value of a line of the unit. */
function directive(name: string): string {
  const lines = [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value);
  assert.equal(lines.length, 1, name);
  return lines[0] ?? '';
}

test('the systemd unit starts the built server, waits longer than a stop may take, and signals the server alone', () => {
  const program = /^\/usr\/bin\/node \/opt\/summing-counters\/(\S+)$/.exec(directive('ExecStart'))?.[1] ?? '';
  assert.ok(existsSync(join(root, program)), program);
  assert.ok(Number(directive('TimeoutStopSec')) * 1000 > Number(settings.shutdownTimeoutMs.fallback));
  assert.equal(directive('KillMode'), 'mixed');
  assert.match(directive('ExecReload'), /kill -HUP \$MAINPID/);
  assert.match(directive('RestartPreventExitStatus'), /\b78\b/);
});

test('the environment of the unit and of compose.yaml names settings only', () => {
  const named = [
    ...[...read('deploy/systemd/environment').matchAll(/^#?([A-Z_]+)=/gm)].map(([, name = '']) => name),
    ...[...unit.matchAll(/^Environment=([A-Z_]+)=/gm)].map(([, name = '']) => name),
    ...[...read('compose.yaml').matchAll(/^ {6}([A-Z_]+): /gm)].map(([, name = '']) => name),
  ].filter((name) => name !== 'NODE_ENV' && !name.startsWith('POSTGRES_'));
  assert.ok(named.length > 6, named.join(' '));
  assert.deepEqual(
    named.filter((name) => !variables.has(name)),
    [],
  );
});

test('the workflows run .ci/run', () => {
  for (const file of ['ci.yml', 'release.yml']) assert.match(read(`.github/workflows/${file}`), /run: .*\.ci\/run$/m);
  assert.deepEqual(readdirSync(join(root, '.github/workflows')).sort(), ['ci.yml', 'release.yml']);
});
