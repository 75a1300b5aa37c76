/**
 * The file of `--history`: what a run asked and what it was told, one JSON document a line, for a program that checks the
 * server's promises. Main thread of a command.
 *
 * Times are ms on a clock of the command that never goes back. Sums are strings of digits, null for a missing counter.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { reasonOf, StartError } from '../../core/errors.js';
import { EXIT_USAGE } from '../command-exit.js';

/** One attempt to send a request. */
export interface LoadAttempt {
  /** Keys may occur more than once. All amounts are 1. */
  readonly keys: readonly string[];
  readonly idempotencyKey: string | undefined;
  readonly askedAt: number;
  /** 0 without an answer. */
  readonly status: number;
  /** The answer says that it is a replay. */
  readonly isReplayed: boolean;
}

const BUFFERED_LINES_MAX = 1000;

/** Writes the history of a run. */
export class LoadHistory {
  readonly #file: number;
  #lines: string[] = [];

  /** Makes the file anew. Throws {@link StartError} if it cannot be written. */
  constructor(path: string) {
    try {
      this.#file = openSync(path, 'w', 0o600);
    } catch (error) {
      throw new StartError([`--history cannot be written: ${reasonOf(error)}.`], { exitCode: EXIT_USAGE });
    }
  }

  /** To be called when the attempt has ended. */
  attempt({ keys, idempotencyKey, askedAt, status, isReplayed }: LoadAttempt): void {
    const answeredAt = status === 0 ? null : performance.now();
    const members = keys.map((key) => [key, 1]);
    this.#add({ kind: 'increment', members, idempotencyKey, status, isReplayed, askedAt, answeredAt });
  }

  /** To be called with each sum when it was read. */
  read(key: string, sum: bigint | undefined, askedAt: number): void {
    this.#add({ kind: 'read', key, sum: sum?.toString() ?? null, askedAt, answeredAt: performance.now() });
  }

  close(): void {
    this.#write();
    closeSync(this.#file);
  }

  #add(line: object): void {
    this.#lines.push(`${JSON.stringify(line)}\n`);
    if (this.#lines.length >= BUFFERED_LINES_MAX) this.#write();
  }

  #write(): void {
    writeSync(this.#file, this.#lines.join(''));
    this.#lines = [];
  }
}
