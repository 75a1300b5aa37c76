/** What of this clone is installed and built. It runs in any Node that knows modules. */
import { existsSync } from 'node:fs';

/** The folder of package.json, as a URL. */
export const root = new URL('../', import.meta.url);

/** What to do where nothing is built. */
export const buildSequence = 'Build it, then leave the compiler out: npm ci && npm prune --omit=dev';

/** True if the server can be started. */
export function isBuilt() {
  return existsSync(new URL('dist/main.js', root));
}

/** True if `npm run build` can run. */
export function isCompilerInstalled() {
  return ['typescript', 'ts-patch', 'typia'].every((name) => existsSync(new URL(`node_modules/${name}`, root)));
}
