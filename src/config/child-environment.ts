/** The environment of child processes, without settings, which may hold secrets. Main thread and commands. */
import { settings } from './settings.js';

/** The bearer token of `npm run load`. */
export const LOAD_TOKEN_VARIABLE = 'SUMMING_COUNTERS_TOKEN';

/** `env` without settings of this server. */
export function childEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const ours = new Set<string>([LOAD_TOKEN_VARIABLE, ...Object.values(settings).map(({ variable }) => variable)]);
  return Object.fromEntries(Object.entries(env).filter(([name]) => !ours.has(name)));
}
