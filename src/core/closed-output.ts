/** Handles the end of the reader of a command's output, as in `npm run journal -- dump | head`. Main thread of a command. */

/**
 * Discards unread output (EPIPE) from now on, so that a command finishes its work. Otherwise Node.js ends the process with an
 * uncaught exception.
 */
export function discardUnreadOutput(): void {
  for (const output of [process.stdout, process.stderr]) {
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
    });
  }
}

/** Whether a write to standard output has failed, so that nobody reads it. */
export function isOutputUnread(): boolean {
  return process.stdout.errored !== null;
}
