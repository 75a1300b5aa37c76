/**
 * The standard error of PostgreSQL, kept in two files of limited size: `postgres.log` and the older `postgres.log.1`. Main
 * thread. Drops lines that cannot be written: the log must not stop a working database.
 */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';

/** Most bytes of one file. */
const FILE_BYTES_MAX = 8 * 1024 * 1024;
const LAST_LINES_MAX = 20;
const LINE_CHARACTERS_MAX = 2000;

/** Takes the log lines of PostgreSQL. */
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

  /** Forgets the last lines, before a new process starts. */
  forget(): void {
    this.#lastLines = [];
  }

  /** Takes every line of `stream` until that ends. Calls `onLine` with each. */
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
    // The process has ended; its exit is handled elsewhere.
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
      // The disk is full or read-only, which PostgreSQL reports itself.
    }
  }
}
