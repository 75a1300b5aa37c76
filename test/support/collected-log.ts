/** A logger that keeps its lines, for tests. */
import type { Logger } from '#product/core/logger.js';

/** A line of the log. */
export interface CollectedLine {
  readonly level: string;
  readonly fields: object;
  readonly message: string;
}

/** Keeps the lines. */
export class CollectedLog implements Logger {
  readonly lines: CollectedLine[] = [];

  debug(fields: object, message: string): void {
    this.lines.push({ level: 'debug', fields, message });
  }

  info(fields: object, message: string): void {
    this.lines.push({ level: 'info', fields, message });
  }

  warn(fields: object, message: string): void {
    this.lines.push({ level: 'warn', fields, message });
  }

  error(fields: object, message: string): void {
    this.lines.push({ level: 'error', fields, message });
  }

  /** Returns the lines since the last call. */
  take(): readonly CollectedLine[] {
    return this.lines.splice(0);
  }
}
