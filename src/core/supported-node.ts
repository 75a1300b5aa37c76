/**
 * The versions of Node that run this program. Any thread.
 *
 * The entry of each program checks the version before it loads anything else, because an older Node ends with a SyntaxError at
 * an import of an unknown name. So this file imports nothing and uses no recent syntax.
 */

/** The versions of Node that `engines` in package.json and the README name. */
export const SUPPORTED_NODES = 'Node 20 (20.15 or later), Node 22 (22.2 or later) or Node 24';

/** Why a version of Node cannot run this program, as a sentence; undefined if it can. */
export function nodeProblem(version: string): string | undefined {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const isTooOld = major < 20 || (major === 20 && minor < 15) || major === 21 || (major === 22 && minor < 2);
  if (!isTooOld) return undefined;
  return `Node ${version} is too old: use ${SUPPORTED_NODES}.`;
}

/** Ends the process with exit code 78 and a sentence if this Node is too old. */
export function requireSupportedNode(): void {
  const problem = nodeProblem(process.versions.node);
  if (problem === undefined) return;
  process.stderr.write(`summing-counters: ${problem}\n`);
  process.exit(78);
}
