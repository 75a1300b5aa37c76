/**
 * Environment variables whose name is nearly that of a setting: most likely misspelled, and without effect. Main thread and
 * commands.
 */
import { settings } from './settings.js';

/** A setting of fewer letters has many neighbours that mean something else. */
const LONG_NAME_LETTERS = 8;

/** Variables of shells, runtimes, service managers and PostgreSQL that may come near a setting. */
const FOREIGN = /^(HOME|NODE|MODE|JOURNAL_STREAM|SSL_CERT_FILE|PG.*|(HTTP|HTTPS|FTP|ALL|NO)_PROXY)$/i;

/** One warning for each variable of `env` that has a value and is nearly the name of a setting. */
export function misspelledSettings(env: NodeJS.ProcessEnv): readonly string[] {
  const known = new Set<string>(Object.values(settings).map(({ variable }) => variable));
  return Object.entries(env)
    .filter(([name, text]) => !known.has(name) && !FOREIGN.test(name) && text !== undefined && text.trim() !== '')
    .flatMap(([name]) => {
      const meant = nearest(name, known);
      return meant === undefined ? [] : [`${name} is not a setting and has no effect; did you mean ${meant}?`];
    });
}

/** The nearest setting within edit distance 1, or 2 where it has eight letters or more; undefined if there is none. */
function nearest(name: string, known: ReadonlySet<string>): string | undefined {
  let best: { readonly variable: string; readonly distance: number } | undefined;
  for (const variable of known) {
    const most = variable.length >= LONG_NAME_LETTERS ? 2 : 1;
    if (Math.abs(variable.length - name.length) > most) continue;
    const distance = editDistance(variable, name, most);
    if (distance <= most && distance < (best?.distance ?? Infinity)) best = { variable, distance };
  }
  return best?.variable;
}

/**
 * How many UTF-16 units must be inserted, removed or replaced to make one text of the other (Levenshtein). A number above `most`
 * where it is above that: most pairs are told apart by their first letters, and each start compares thousands.
 */
function editDistance(one: string, other: string, most: number): number {
  let above = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 0; row < one.length; row += 1) {
    const current = [row + 1];
    let least = row + 1;
    for (let column = 0; column < other.length; column += 1) {
      const replaced = (above[column] ?? 0) + (one[row] === other[column] ? 0 : 1);
      const distance = Math.min(replaced, (above[column + 1] ?? 0) + 1, (current[column] ?? 0) + 1);
      current.push(distance);
      least = Math.min(least, distance);
    }
    if (least > most) return least;
    above = current;
  }
  return above[other.length] ?? 0;
}
