/** Projects as applications have them, made in temporary directories, and the programs that tests run in them. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** The clone. */
export const ROOT = join(import.meta.dirname, '../../..');

/** How a program ended. */
export interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, for at most two minutes. */
export function run(program: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): Outcome {
  const { status, stdout, stderr } = spawnSync(program, args, {
    cwd,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout: 120_000,
    maxBuffer: 64 * 1024 * 1024,
  });
  return { code: status, out: stdout, err: stderr };
}

/** Runs a program that must succeed; returns what it printed. */
export function runWell(program: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): string {
  const { code, out, err } = run(program, args, cwd, env);
  assert.equal(code, 0, `${program} ${args.join(' ')}\n${out}\n${err}`);
  return out;
}

/** The program of a version of Node that `.ci/nodes` brings. */
export function nodeProgram(major: number): string {
  const program = join(ROOT, '.ci/nodes/node_modules', `node-${major}`, 'bin/node');
  assert.ok(existsSync(program), `${program} is missing: run npm run test:packages`);
  return program;
}

/** Makes a package of `folder` of the clone, without its scripts, in `into`; returns its path and its files. */
export function pack(folder: string, into: string): { readonly tarball: string; readonly files: readonly string[] } {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', into, join(ROOT, folder)];
  // npm prints one description for each package.
  const [made] = JSON.parse(runWell('npm', args, into)) as readonly {
    readonly filename: string;
    readonly files: readonly { readonly path: string }[];
  }[];
  assert.ok(made !== undefined);
  return { tarball: join(into, made.filename), files: made.files.map(({ path }) => path) };
}

/** A directory with a package.json, removed by `remove`. */
export class NpmProject {
  readonly directory = mkdtempSync(join(tmpdir(), 'summing-counters-project-'));

  constructor(manifest: Readonly<Record<string, unknown>> = {}) {
    this.write('package.json', JSON.stringify({ name: 'application', private: true, ...manifest }));
  }

  /** Writes a file; returns its path. */
  write(name: string, text: string): string {
    const path = join(this.directory, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  /** Installs packages. */
  install(...packages: readonly string[]): void {
    runWell('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', ...packages], this.directory);
  }

  /** Makes a package of `.ci/client-project` importable here. */
  link(name: string): void {
    const target = join(this.directory, 'node_modules', name);
    mkdirSync(dirname(target), { recursive: true });
    symlinkSync(join(ROOT, '.ci/client-project/node_modules', name), target);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
