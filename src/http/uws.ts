/**
 * Loads the native build of uWebSockets.js that this machine can run. Any thread, before any app is made.
 *
 * Two packages of prebuilt binaries are installed. `uWebSockets.js` has upstream 20.57 for Node 20, 22, 24 and 25, whose
 * Linux builds need glibc 2.38 (Debian 13, Ubuntu 24.04). `uWebSockets.js-glibc-2.27` has upstream 20.30 for Node 16 to
 * 20, whose Linux builds need glibc 2.27 only (Debian 12). The first that loads is taken. The second package's
 * entry point falls back to an implementation in JavaScript that is broken, so its binary is loaded by itself.
 */
import { createRequire } from 'node:module';
import type { AppOptions, TemplatedApp, us_listen_socket } from 'uWebSockets.js';
import { StartError } from '../core/errors.js';

export type { HttpRequest, HttpResponse, us_listen_socket } from 'uWebSockets.js';

/** An app, with the form of `listen` that both builds have and their declarations lack. */
export interface UwsApp extends Omit<TemplatedApp, 'listen'> {
  /** `options` is 0 or LIBUS_LISTEN_EXCLUSIVE_PORT; the callback gets `false` where the port is refused. */
  listen(host: string, port: number, options: number, callback: (socket: us_listen_socket | false) => void): unknown;
}

/** What both builds have in common and this server uses. 20.30 lacks `HttpResponse.collectBody`: use `onData`. */
export interface Uws {
  /** An app without TLS. It must be closed before its thread ends, or the process aborts. */
  App(options?: AppOptions): UwsApp;
  /** An app with TLS. Of a bad file it says only that construction failed: check the files before. */
  SSLApp(options: AppOptions): UwsApp;
  us_listen_socket_close(socket: us_listen_socket): void;
  us_socket_local_port(socket: us_listen_socket): number;
  /** An option of `listen`: the port is not shared with whoever else asks for it. */
  readonly LIBUS_LISTEN_EXCLUSIVE_PORT: number;
}

/** A loaded build and its name for the log, such as `uWebSockets.js 20.57 (native, linux x64, ABI 115)`. */
export interface LoadedUws {
  readonly uws: Uws;
  readonly build: string;
}

/**
 * Text in the form that uWebSockets.js takes at the least cost: it copies a string into memory of its own on every call
 * (77 ns for the name of a header), and reads an ArrayBuffer where it lies (34 ns).
 */
export function nativeText(text: string): ArrayBuffer {
  return Uint8Array.from(Buffer.from(text, 'latin1')).buffer;
}

/** Largest request head that 20.57 takes, in bytes; without it that is 4 KiB. 20.30 takes larger ones. */
const headBytesMax = 16_384;

const require = createRequire(import.meta.url);
const { platform, arch } = process;
const abi = process.versions.modules;

// Both by `require`: a module that throws while `import()` loads it leaves an unhandled rejection behind in Node 20.
const builds = [
  { version: '20.57', load: (): unknown => require('uWebSockets.js') },
  {
    version: '20.30',
    load: (): unknown => require(`uWebSockets.js-glibc-2.27/binaries/uws_${platform}_${arch}_${abi}.node`),
  },
] as const;

/**
 * The first native build that loads. The main thread must have called it before any other thread does: 20.57 takes the
 * bound of a request's head from the environment of the process, and a worker thread has only a copy of that.
 * Throws {@link StartError}, exit code 78, where no build loads.
 */
export function loadUws(): LoadedUws {
  process.env['UWS_HTTP_MAX_HEADERS_SIZE'] = String(headBytesMax);
  const reasons = [];
  for (const { version, load } of builds) {
    try {
      const uws = load();
      if (isUws(uws)) return { uws, build: `uWebSockets.js ${version} (native, ${platform} ${arch}, ABI ${abi})` };
      reasons.push(`${version}: not the expected module`);
    } catch (error) {
      reasons.push(`${version}: ${loadFailure(error)}`);
    }
  }
  throw new StartError([
    `No native build of uWebSockets.js loads in Node ${process.versions.node} on ${platform} ${arch}: take Node 20 on ` +
      'Linux with glibc 2.27 or later, or Node 20, 22, 24 or 25 on Linux with glibc 2.38 or later (Debian 13, ' +
      `Ubuntu 24.04) or on macOS (${reasons.join('; ')}).`,
  ]);
}

function isUws(module: unknown): module is Uws {
  const functions = ['App', 'SSLApp', 'us_listen_socket_close', 'us_socket_local_port'];
  if (typeof module !== 'object' || module === null) return false;
  const members = new Map(Object.entries(module));
  return (
    functions.every((name) => typeof members.get(name) === 'function') &&
    typeof members.get('LIBUS_LISTEN_EXCLUSIVE_PORT') === 'number'
  );
}

/** The loader's reason. The first package wraps it, so that it stands last; a missing binary has no reason but that. */
function loadFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('code' in error && error.code === 'MODULE_NOT_FOUND') return 'no such build';
  const line = error.message.split('\n').findLast((text) => text.trim() !== '') ?? 'unknown reason';
  return line.replace(/^Error: /, '');
}
