/** Environment variables whose name is nearly that of a setting, so most likely misspelled. Main thread and commands. */
import { closestMatch } from 'leven';
import { settings } from './settings.js';

/** Two letters may differ from names of this length, one from shorter names, which have many unrelated neighbours. */
const LONG_NAME_LETTERS = 8;

/** Variables of shells, runtimes, service managers and PostgreSQL that may resemble a setting. */
const FOREIGN = /^(HOME|NODE|MODE|JOURNAL_STREAM|SSL_CERT_FILE|PG.*|(HTTP|HTTPS|FTP|ALL|NO)_PROXY)$/i;

const variables = Object.values(settings).map(({ variable }) => variable);
const shortNames = variables.filter((variable) => variable.length < LONG_NAME_LETTERS);
const longNames = variables.filter((variable) => variable.length >= LONG_NAME_LETTERS);

/** One warning for each variable of `env` that has a value and is nearly the name of a setting. */
export function misspelledSettings(env: NodeJS.ProcessEnv): readonly string[] {
  return Object.entries(env)
    .filter(
      ([name, text]) => !variables.includes(name) && !FOREIGN.test(name) && text !== undefined && text.trim() !== '',
    )
    .flatMap(([name]) => {
      const meant =
        closestMatch(name, shortNames, { maxDistance: 1 }) ?? closestMatch(name, longNames, { maxDistance: 2 });
      return meant === undefined ? [] : [`${name} is not a setting and has no effect; did you mean ${meant}?`];
    });
}
