/**
 * Paths of the project, from the built benchmark.
 */
import { join } from 'node:path';

/** The directory with package.json. */
export const projectRoot = join(import.meta.dirname, '..', '..', '..');

/** The script that starts the server. */
export const serverMain = join(projectRoot, 'dist', 'main.js');
