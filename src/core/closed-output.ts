/**
 * What a command does when the reader of its output goes away, as in `npm run journal -- dump | head`. Main thread of a
 * command.
 */

/**
 * From now on, output that nobody reads any more (EPIPE) is discarded, so that a command finishes what it does. Without
 * this, Node.js ends the process with an uncaught exception.
 */
export function discardUnreadOutput(): void {
  for (const output of [process.stdout, process.stderr]) {
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
    });
  }
}

/** Whether a write to the standard output has failed: nobody reads it any more. */
export function isOutputUnread(): boolean {
  return process.stdout.errored !== null;
}
