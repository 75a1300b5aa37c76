/**
 * The log: JSON lines on standard output, pretty on a terminal. Any thread: each makes its own logger, which writes to
 * file descriptor 1 at once. `process.stdout` of a worker thread goes through the main thread's event loop, so that a
 * dying thread would take its last lines along, and a busy main thread would hold them back.
 */
import { isatty } from 'node:tty';
import { destination, pino, type DestinationStream, type LoggerOptions } from 'pino';
import { PinoPretty } from 'pino-pretty';

/** Least severe level that is written, as pino names it. */
export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';

/** What a line says besides its message. An error goes under `err`. */
export type LogFields = object;

/** What the parts know of the log. A message is a sentence; what varies is in the fields. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

/** Fields that are never written, at the top of a line and one level below. */
const secretFields = ['password', 'token', 'authTokens', 'authorization', 'databaseUrl', 'tls'];

/** User and password of a URL, wherever in a line it stands: an error of a library may quote one. */
const urlCredentials = /(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@"]+@/gi;

const standardOutput = 1;

/**
 * A logger that writes every line before it returns. `fields` are on each of its lines (`{ shard: 2 }`). `output` is
 * standard output unless a test says otherwise.
 */
export function createLogger(level: LogLevel, fields: LogFields = {}, output?: DestinationStream): Logger {
  const options: LoggerOptions = {
    level,
    base: { ...fields },
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label) => ({ level: label }) },
    redact: { paths: secretFields.flatMap((name) => [name, `*.${name}`]), censor: '***' },
    hooks: { streamWrite: (line) => line.replace(urlCredentials, '$1***@') },
  };
  return pino(options, output ?? openStandardOutput());
}

function openStandardOutput(): DestinationStream {
  return isatty(standardOutput)
    ? PinoPretty({ sync: true, destination: standardOutput, ignore: 'hostname,pid' })
    : destination({ fd: standardOutput, sync: true });
}
