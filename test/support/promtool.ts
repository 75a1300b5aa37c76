/** The checks of Prometheus. Debian has its promtool in the package prometheus. */
import { spawnSync } from 'node:child_process';

/** Why a test with promtool must be skipped on this machine, or false. In continuous integration it must not. */
export function promtoolMissing(): string | false {
  const isThere = spawnSync('promtool', ['--version']).status === 0;
  return isThere || process.env['CI'] === 'true'
    ? false
    : 'promtool is not installed (Debian: apt-get install prometheus)';
}

/** What promtool says, or '' where it has nothing to say against `input`. */
export function promtool(args: readonly string[], input = ''): string {
  const { status, error, stdout, stderr } = spawnSync('promtool', args, { input, encoding: 'utf8' });
  if (error !== undefined) throw error;
  return status === 0 ? stderr : `exit code ${status}\n${stdout}${stderr}`;
}
