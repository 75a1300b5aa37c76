import { JournalError, type JournalErrorCode, systemErrorCode } from '../../../core/errors.js';

/** A JournalError for an error of the disk; anything else comes back as it is. */
export function diskFailure(code: JournalErrorCode, what: string, error: unknown): unknown {
  const cause = systemErrorCode(error);
  if (cause === undefined || !(error instanceof Error)) return error;
  return new JournalError(code, `${what}: ${error.message}`, { cause: error });
}

/** Runs `action`; errors of the disk leave as JournalError `journal-unavailable`, so nothing may be kept by then. */
export function orUnavailable<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw diskFailure('journal-unavailable', what, error);
  }
}
