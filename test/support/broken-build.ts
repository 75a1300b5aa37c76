/**
 * The product with one mistake: a copy of the build with a piece of text replaced. A test that does not fail on it
 * proves nothing.
 */
import assert from 'node:assert/strict';
import { cp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from './server.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** One mistake: in `file` (below `dist`), `from`, which occurs once, is replaced by `to`. */
export interface Mistake {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** A build to run and delete. */
export interface BrokenBuild {
  /** The program. */
  readonly main: string;
  remove(): Promise<void>;
}

/** Copies the build and makes the mistakes; fails if a text to replace does not occur exactly once. */
export async function breakBuild(mistakes: readonly Mistake[]): Promise<BrokenBuild> {
  const directory = await temporaryDirectory();
  await cp(path.join(ROOT, 'dist'), path.join(directory, 'dist'), { recursive: true });
  await cp(path.join(ROOT, 'package.json'), path.join(directory, 'package.json'));
  await symlink(path.join(ROOT, 'node_modules'), path.join(directory, 'node_modules'));
  for (const { file, from, to } of mistakes) {
    const target = path.join(directory, 'dist', file);
    const text = await readFile(target, 'utf8');
    assert.equal(text.split(from).length, 2, `${file} holds once: ${from}`);
    await writeFile(
      target,
      text.replace(from, () => to),
    );
  }
  return {
    main: path.join(directory, 'dist', 'main.js'),
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}
