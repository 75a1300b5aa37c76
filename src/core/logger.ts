/**
 * The log: JSON lines on standard output, or readable text on a terminal. Any thread.
 *
 * Each thread makes its own logger, which writes to file descriptor 1 synchronously. `process.stdout` of a worker thread goes
 * through the event loop of the main thread, where a thread that ends would lose its last lines, and a busy main thread would
 * delay them.
 */
import { createRequire } from 'node:module';
import { isatty } from 'node:tty';
import { destination, pino, stdSerializers, type DestinationStream, type LoggerOptions } from 'pino';
import type * as pinoPretty from 'pino-pretty';
import { causesOf, reasonsOf } from './errors.js';

/** Least severe level that is written, as pino names it. */
export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';

/** The fields of a line besides its message. An error goes under `err`. */
export type LogFields = object;

/** The log as the rest of the code uses it. A message names an event; values go into the fields. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

/** The log of the main thread, which also tells why the process cannot start. */
export interface ProcessLogger extends Logger {
  fatal(fields: LogFields, message: string): void;
}

/** Fields whose values are never written, at the top level of a line and one level below. */
const secretFields = ['password', 'token', 'authTokens', 'authorization', 'databaseUrl', 'tls'];

/** User and password of a URL anywhere in a line, because the error of a library may quote a URL. */
const urlCredentials = /(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@"]+@/gi;

const standardOutput = 1;

/**
 * A logger that writes each line before it returns. Each line has `fields` (`{ shard: 2 }`). `output` defaults to
 * standard output; tests give another.
 */
export function createLogger(level: LogLevel, fields: LogFields = {}, output?: DestinationStream): ProcessLogger {
  const options: LoggerOptions = {
    level,
    base: { ...fields },
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: errorFields },
    redact: { paths: secretFields.flatMap((name) => [name, `*.${name}`]), censor: '***' },
    hooks: { streamWrite: (line) => line.replace(urlCredentials, '$1***@') },
  };
  return pino(options, output ?? openStandardOutput());
}

/** Most bytes of a key in a log line. */
const KEY_PREFIX_BYTES_MAX = 64;

/** The beginning of a key for a log line: whole characters, without control characters. */
export function printablePrefix(key: Uint8Array): string {
  // A cut character at the end, or bytes that are not UTF-8, become U+FFFD.
  const text = Buffer.from(key.subarray(0, KEY_PREFIX_BYTES_MAX)).toString('utf8');
  const printable = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '\ufffd');
  return key.length > KEY_PREFIX_BYTES_MAX ? `${printable.replace(/\ufffd+$/u, '')}…` : printable;
}

/**
 * The fields of an error. Its message includes the messages of its causes, each once. pino's serializer would repeat quoted
 * causes, and all of them in the stack.
 */
function errorFields(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const stack = causesOf(error).map((one, depth) => `${depth === 0 ? '' : 'caused by '}${framesOf(one)}`);
  // The message includes those of an AggregateError.
  const own = { type: error.name, message: reasonsOf(error), stack: stack.join('\n'), aggregateErrors: undefined };
  return { ...stdSerializers.err(error), ...own };
}

/** The name and the stack frames of an error, without its message. */
function framesOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  const frames = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line));
  return [error.name, ...frames].join('\n');
}

function openStandardOutput(): DestinationStream {
  if (!isatty(standardOutput)) return destination({ fd: standardOutput, sync: true });
  // Loaded late, because few threads have a terminal.
  const { PinoPretty } = createRequire(import.meta.url)('pino-pretty') as typeof pinoPretty;
  return PinoPretty({ sync: true, destination: standardOutput, ignore: 'hostname,pid' });
}
