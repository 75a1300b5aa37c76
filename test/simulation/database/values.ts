/** Values of PostgreSQL as the client sends and gets them. */
import pg from 'pg';

/** A row of a result. */
export type Row = Record<string, unknown>;

/** A parameter of type timestamptz, in ms since 1970. Undefined for null. */
export function timeOf(value: unknown): number | undefined {
  if (value === null || value === undefined) return undefined;
  if (value instanceof Date) return value.getTime();
  if (typeof value === 'number') return value;
  if (value === '-infinity') return Number.NEGATIVE_INFINITY;
  const time = typeof value === 'string' ? Date.parse(value) : Number.NaN;
  if (Number.isNaN(time)) throw new TypeError('The model cannot read this time');
  return time;
}

/** A time as text, which {@link timeOf} reads again. */
export function textOfTime(time: number): string {
  return time === Number.NEGATIVE_INFINITY ? '-infinity' : new Date(time).toISOString();
}

/** As `seconds()` of the product's statements: whole seconds, rounded down; 0 for -infinity. */
export function secondsOf(time: number): number {
  return Math.floor(Math.max(time, 0) / 1000);
}

/** An error with which the server answers. */
export function refusal(code: string, message = `refused with ${code}`): pg.DatabaseError {
  const error = new pg.DatabaseError(message, 0, 'error');
  error.code = code;
  error.severity = 'ERROR';
  return error;
}

/** The rows of {@link notWritten}. */
export const COUNTERS = 'a trigger or a policy keeps rows of counters from being written; written';
export const IDEMPOTENCY_KEYS = 'idempotency keys that are neither written nor visible';

/** The error of a statement that compares what was written with what was meant; `count` as of the product's text. */
export function notWritten(count: number, rows: string): pg.DatabaseError {
  return refusal('22P02', `invalid input syntax for type integer: "summing-counters: ${rows}: ${count}."`);
}

/** The server refuses keys with this prefix, like rows that are too large. */
export const POISON_PREFIX = 'poison';

/** Of these, a trigger drops those with this prefix without an error. */
export const DROPPED_PREFIX = `${POISON_PREFIX}-dropped`;

/** Whether the server refuses a row with this key, or does not write it. */
export function isPoison(key: string): boolean {
  return key.startsWith(POISON_PREFIX);
}

/** Whether the server does not write a row with this key, and says nothing. */
export function isDropped(key: string): boolean {
  return key.startsWith(DROPPED_PREFIX);
}
