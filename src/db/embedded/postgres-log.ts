/**
 * What PostgreSQL writes to its standard error, kept in two files of bounded size: `postgres.log` and, before it,
 * `postgres.log.1`. Main thread. A log that cannot be written is dropped; it must not stop a database that works.
 */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';

/** Bytes of one file; there are two. */
const FILE_BYTES_MAX = 8 * 1024 * 1024;
const LAST_LINES_MAX = 20;
const LINE_CHARACTERS_MAX = 2000;

/** A sink for PostgreSQL's log lines. */
export class PostgresLog {
  readonly #file: string;
  readonly #fileBytesMax: number;
  #fd: number | undefined;
  #bytes = 0;
  #lastLines: string[] = [];

  constructor(file: string, fileBytesMax = FILE_BYTES_MAX) {
    this.#file = file;
    this.#fileBytesMax = fileBytesMax;
  }

  /** The last lines since {@link forget}, for an error message. */
  get lastLines(): readonly string[] {
    return this.#lastLines;
  }

  /** Starts a new run, whose last lines are its own. */
  forget(): void {
    this.#lastLines = [];
  }

  /** Takes every line of `stream` until it ends; `onLine` sees each. */
  take(stream: Readable, onLine: (line: string) => void): void {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      this.#write(chunk);
      const lines = (rest + chunk).split('\n');
      rest = (lines.pop() ?? '').slice(0, LINE_CHARACTERS_MAX);
      for (const line of lines) {
        this.#lastLines.push(line.slice(0, LINE_CHARACTERS_MAX));
        if (this.#lastLines.length > LAST_LINES_MAX) this.#lastLines.shift();
        onLine(line);
      }
    });
    // The pipe of a process that is gone; its exit says so.
    stream.on('error', () => undefined);
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #write(text: string): void {
    try {
      if (this.#fd !== undefined && this.#bytes >= this.#fileBytesMax) {
        this.close();
        renameSync(this.#file, `${this.#file}.1`);
      }
      if (this.#fd === undefined) {
        this.#fd = openSync(this.#file, 'a', 0o600);
        this.#bytes = fstatSync(this.#fd).size;
      }
      this.#bytes += writeSync(this.#fd, text);
    } catch {
      // Disk full or read-only: PostgreSQL's own errors say so where it matters.
    }
  }
}
