/**
 * npm runs it after `npm ci` and before `npm pack`: builds where the compiler is installed. `npm ci --omit=dev` does not
 * install it; then an earlier build is left as it is, and without one this says what to do.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { buildSequence, isBuilt, isCompilerInstalled, root } from './build-state.js';

if (isCompilerInstalled()) {
  const { status } = spawnSync('npm', ['run', 'build'], { cwd: root, stdio: 'inherit' });
  process.exitCode = status ?? 1;
} else if (!isBuilt() && existsSync(new URL('src', root))) {
  console.error(`summing-counters: not built, because the compiler is not installed. ${buildSequence}`);
}
