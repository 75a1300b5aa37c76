/**
 * The files of a node's journal, for tests that copy, damage or measure them from outside.
 */
import { cp, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';

/** Copies a data directory or a part of it, as a backup does. */
export async function copyDirectory(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true });
  await cp(from, to, { recursive: true });
}

/** Paths of all segments below a data directory, oldest first within a stream. */
export async function segmentsOf(dataDir: string): Promise<string[]> {
  const directory = path.join(dataDir, 'journal');
  const names = await readdir(directory, { recursive: true });
  return names
    .filter((name) => name.endsWith('.wal'))
    .map((name) => path.join(directory, name))
    .sort();
}

/** Ids of the streams below a data directory. */
export async function streamsOf(dataDir: string): Promise<string[]> {
  const names = await readdir(dataDir);
  if (!names.includes('journal')) return [];
  return (await readdir(path.join(dataDir, 'journal'))).filter((name) => /^[0-9a-f-]{36}$/.test(name)).sort();
}

/** Bytes of all segments below a data directory; one that is deleted meanwhile counts as 0. */
export async function journalBytes(dataDir: string): Promise<number> {
  const sizes = await Promise.all(
    (await segmentsOf(dataDir)).map((segment) =>
      stat(segment).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
