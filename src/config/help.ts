/**
 * What `--help` prints. Main thread.
 */
import { acceptedValues } from './accepted-values.js';
import { settingKeys, settings } from './settings.js';

/** Columns of `--help`. */
const HELP_WIDTH = 80;
/** The column at which the second half of a line of `--help` begins. */
const HELP_INDENT = 26;

/** How the server is run, and of each setting the variable, default, accepted values and meaning. */
export function configHelp(): string {
  const rows = settingKeys.map((key) => {
    const { variable, fallback, fallbackShown, meaning, accepts: shownAccepts } = settings[key];
    const shown = fallbackShown ?? (typeof fallback === 'string' ? fallback : 'none');
    const accepts = shownAccepts ?? acceptedValues(key);
    const values = `default: ${shown}${accepts === undefined ? '' : `; accepts: ${accepts}`}`;
    const lines = [values, meaning].flatMap((text) => wrapped(text, HELP_WIDTH - HELP_INDENT));
    return lines.map((line, at) => (at === 0 ? variable : '').padEnd(HELP_INDENT) + line).join('\n');
  });
  const intro =
    'Usage: npm start, or node dist/main.js [--help | --version]. The server is configured by these environment ' +
    'variables. An empty variable counts as unset.';
  return `${wrapped(intro, HELP_WIDTH).join('\n')}\n\n${rows.join('\n')}\n`;
}

/** The lines of a text, each of at most `width` characters unless one word has more. */
function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
