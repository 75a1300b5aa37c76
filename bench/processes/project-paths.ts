/**
 * Where the project lies, seen from its built benchmark.
 */
import { join } from 'node:path';

/** The directory with package.json. */
export const projectRoot = join(import.meta.dirname, '..', '..', '..');

/** What the server is started with. */
export const serverMain = join(projectRoot, 'dist', 'main.js');
