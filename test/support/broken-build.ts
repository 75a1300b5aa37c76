/**
 * The product with one mistake in it: a copy of the build in which a piece of text is replaced. A proof that does not
 * fail on it proves nothing.
 */
import assert from 'node:assert/strict';
import { cp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from './server.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** One mistake: in `file` (below `dist`), `from`, which occurs once, becomes `to`. */
export interface Mistake {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** A build to run and remove. */
export interface BrokenBuild {
  /** The program. */
  readonly main: string;
  remove(): Promise<void>;
}

/** Copies the build and makes the mistakes; fails where a text to replace is not there exactly once. */
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
