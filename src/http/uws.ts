/**
 * Loads a native build of uWebSockets.js that works on this machine. Any thread, before it creates an application.
 *
 * Two packages of prebuilt binaries are installed; the first that loads is used:
 *
 * - `uWebSockets.js`: upstream 20.57 for Node 20, 22, 24 and 25. On Linux it needs glibc 2.38 (Debian 13, Ubuntu
 *   24.04).
 * - `uWebSockets.js-glibc-2.27`: upstream 20.30 for Node 16 to 20. On Linux it needs only glibc 2.27 (Debian 12). Its
 *   entry point falls back to an implementation in JavaScript that is broken, so the binary is loaded directly.
 */
import { createRequire } from 'node:module';
import type { AppOptions, TemplatedApp, us_listen_socket } from 'uWebSockets.js';
import { StartError } from '../core/errors.js';

export type { HttpRequest, HttpResponse, us_listen_socket } from 'uWebSockets.js';

/** An application, with the form of `listen` that both builds have and their declarations lack. */
export interface UwsApp extends Omit<TemplatedApp, 'listen' | 'filter'> {
  /** Calls back with 1 for each connection that is opened and -1 for each that is closed. 20.30 does not have it. */
  readonly filter?: TemplatedApp['filter'];
  /** `options` is 0 or LIBUS_LISTEN_EXCLUSIVE_PORT; the callback gets `false` if the port is refused. */
  listen(host: string, port: number, options: number, callback: (socket: us_listen_socket | false) => void): unknown;
}

/** What this server uses of both builds. 20.30 lacks `HttpResponse.collectBody`: use `onData`. */
export interface Uws {
  /** An application without TLS. It must be closed before its thread ends, or the process aborts. */
  App(options?: AppOptions): UwsApp;
  /** An application with TLS. Its error does not say which file is bad: check the files before. */
  SSLApp(options: AppOptions): UwsApp;
  us_listen_socket_close(socket: us_listen_socket): void;
  us_socket_local_port(socket: us_listen_socket): number;
  /** An option of `listen`: the port is not shared with other sockets. */
  readonly LIBUS_LISTEN_EXCLUSIVE_PORT: number;
}

/** A loaded build and its name for the log, such as `uWebSockets.js 20.57 (native, linux x64, ABI 115)`. */
export interface LoadedUws {
  readonly uws: Uws;
  /** For example `20.57`. */
  readonly version: string;
  readonly build: string;
}

/**
 * Text in the cheapest form for uWebSockets.js: it copies a string on each call (77 ns for the name of a header), but
 * reads an ArrayBuffer in place (34 ns).
 */
export function nativeText(text: string): ArrayBuffer {
  return Uint8Array.from(Buffer.from(text, 'latin1')).buffer;
}

/** Largest request head that 20.57 accepts, in bytes. Its default is 4 KiB. 20.30 accepts larger ones. */
const headBytesMax = 16_384;

const require = createRequire(import.meta.url);
const { platform, arch } = process;
const abi = process.versions.modules;

// Both use `require`: in Node 20 a module that throws during `import()` also causes an unhandled rejection.
const builds = [
  { version: '20.57', load: (): unknown => require('uWebSockets.js') },
  {
    version: '20.30',
    load: (): unknown => require(`uWebSockets.js-glibc-2.27/binaries/uws_${platform}_${arch}_${abi}.node`),
  },
] as const;

/**
 * The first native build that loads. The main thread must call it before any other thread does: 20.57 reads the limit
 * of the request head from the environment of the process, and a worker thread only has a copy of that environment.
 * Throws {@link StartError}, exit code 78, if no build loads.
 */
export function loadUws(): LoadedUws {
  process.env['UWS_HTTP_MAX_HEADERS_SIZE'] = String(headBytesMax);
  const reasons = [];
  for (const { version, load } of builds) {
    try {
      const uws = load();
      if (isUws(uws))
        return { uws, version, build: `uWebSockets.js ${version} (native, ${platform} ${arch}, ABI ${abi})` };
      reasons.push(`${version}: not the expected module`);
    } catch (error) {
      reasons.push(`${version}: ${loadFailure(error)}`);
    }
  }
  throw new StartError([
    `No native build of uWebSockets.js loads in Node ${process.versions.node} on ${platform} ${arch}: use Node 20 on ` +
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

/** Why a build did not load. The first package wraps the reason of the loader, which is then the last line. */
function loadFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('code' in error && error.code === 'MODULE_NOT_FOUND') return 'no such build';
  const line = error.message.split('\n').findLast((text) => text.trim() !== '') ?? 'unknown reason';
  return line.replace(/^Error: /, '');
}
