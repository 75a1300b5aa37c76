/**
 * How a command ends. Main thread of the command.
 */
import { misspelledSettings } from '../config/misspelled-settings.js';
import { reasonOf, StartError } from '../core/errors.js';

/** EX_USAGE of sysexits.h: the command line is wrong. */
export const EXIT_USAGE = 64;

/** EX_UNAVAILABLE of sysexits.h: a needed program is not installed. */
export const EXIT_MISSING_PROGRAM = 69;

/** EX_TEMPFAIL of sysexits.h: the same command may succeed later. */
export const EXIT_TEMPORARY = 75;

/** Warns on standard error of variables that are nearly settings. */
export function warnOfMisspelledSettings(env: NodeJS.ProcessEnv): void {
  for (const warning of misspelledSettings(env)) process.stderr.write(`warning: ${warning}\n`);
}

/** Prints why a command failed, each problem behind `prefix`. Returns the exit code. */
export function exitCodeOf(error: unknown, prefix = ''): number {
  const problems = error instanceof StartError ? error.problems : [reasonOf(error)];
  for (const problem of problems) process.stderr.write(`${prefix}${problem}\n`);
  return error instanceof StartError ? error.exitCode : 1;
}
