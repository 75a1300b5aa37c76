/**
 * The environment of a server whose clock is wrong.
 */
import { fileURLToPath, pathToFileURL } from 'node:url';

const PRELOAD = pathToFileURL(fileURLToPath(new URL('./fast-clock-preload.js', import.meta.url))).href;

/** A server whose wall clock is ahead by so many hours, in all of its threads. */
export function fastClockEnvironment(hours: number): Readonly<Record<string, string>> {
  return { FAST_CLOCK_MS: String(hours * 3_600_000), NODE_OPTIONS: `--import ${PRELOAD}` };
}
