/**
 * Loads a native build of uWebSockets.js that works on this machine. Any thread, before it creates an application.
 *
 * Two packages of prebuilt binaries are installed, and the first that loads is used. Neither is upstream's build, see
 * SECURITY.md:
 *
 * - `uWebSockets.js`: 20.57 for Node 20, 22, 24 and 25. On Linux it needs glibc 2.38 (Debian 13, Ubuntu 24.04). Upstream's
 *   package can replace it.
 * - `uWebSockets.js-glibc-2.27`: 20.30 for Node 16 to 20. On Linux it needs only glibc 2.27 (Debian 12). Its entry point falls
 *   back to an implementation in JavaScript that is broken, so the binary is loaded directly.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import typia from 'typia';
import type { AppOptions, TemplatedApp, us_listen_socket } from 'uWebSockets.js';
import { StartError } from '../core/errors.js';
import { SUPPORTED_NODES } from '../core/supported-node.js';

export type { HttpRequest, HttpResponse, us_listen_socket } from 'uWebSockets.js';

/** An application, with the form of `listen` that the declarations lack. */
export interface UwsApp extends Omit<TemplatedApp, 'listen' | 'filter'> {
  /** Calls back with 1 for each connection that is opened and -1 for each that is closed. 20.30 does not have it. */
  readonly filter?: TemplatedApp['filter'];
  /** `options` is 0 or LIBUS_LISTEN_EXCLUSIVE_PORT; the callback gets `false` if the port is refused. */
  listen(host: string, port: number, options: number, callback: (socket: us_listen_socket | false) => void): unknown;
}

/** The common part of both builds in use. 20.30 lacks `HttpResponse.collectBody`: use `onData`. */
export interface Uws {
  /** An application without TLS. It must be closed before its thread ends, or the process aborts. */
  App(options?: AppOptions): UwsApp;
  /** An application with TLS. Check the files first, because its error does not name the bad one. */
  SSLApp(options: AppOptions): UwsApp;
  us_listen_socket_close(socket: us_listen_socket): void;
  us_socket_local_port(socket: us_listen_socket): number;
  /** An option of `listen`: the port is not shared with other sockets. */
  readonly LIBUS_LISTEN_EXCLUSIVE_PORT: number;
}

/** A loaded build. */
export interface LoadedUws {
  readonly uws: Uws;
  /** The version of the package, without the patch: `20.57`. */
  readonly version: string;
  /** For the log: `uWebSockets.js 20.57 (package @btc-vision/uwebsockets.js 20.57.0, linux x64, ABI 137)`. */
  readonly build: string;
}

/**
 * Text in the cheapest form for uWebSockets.js, which copies a string on each call (77 ns for a header's name) but reads an
 * ArrayBuffer in place (34 ns).
 */
export function nativeText(text: string): ArrayBuffer {
  return Uint8Array.from(Buffer.from(text, 'latin1')).buffer;
}

/** Largest request head that 20.57 accepts, in bytes. Its default is 4 KiB. 20.30 accepts larger ones. */
const headBytesMax = 16_384;

const require = createRequire(import.meta.url);
const { platform, arch } = process;
const abi = process.versions.modules;

interface Build {
  /** The name of the package in package.json. */
  readonly alias: string;
  /** The file to load, in the package or a folder of it. Throws if there is none. */
  readonly path: () => string;
  /** Path from that file's folder to package.json. */
  readonly packageFolder: string;
}

// Loads both by `require`. In Node 20 a module that throws during `import()` also causes an unhandled rejection.
const builds: readonly Build[] = [
  { alias: 'uWebSockets.js', path: () => require.resolve('uWebSockets.js'), packageFolder: '.' },
  {
    alias: 'uWebSockets.js-glibc-2.27',
    path: () => require.resolve(`uWebSockets.js-glibc-2.27/binaries/uws_${platform}_${arch}_${abi}.node`),
    packageFolder: '..',
  },
];

/** The command that installs upstream's own package, which is not on the npm registry. 20.67 is the first for Node 26. */
const UPSTREAM_COMMAND =
  'npm install --ignore-scripts uWebSockets.js@' +
  'https://github.com/uNetworking/uWebSockets.js/archive/refs/tags/v20.67.0.tar.gz';

/**
 * The first native build that loads. The main thread must call it before any other thread does: 20.57 reads the limit
 * of the request head from the environment of the process, and a worker thread only has a copy of that environment.
 * Throws {@link StartError}, exit code 78, if no build loads.
 */
export function loadUws(): LoadedUws {
  process.env['UWS_HTTP_MAX_HEADERS_SIZE'] = String(headBytesMax);
  const reasons = [];
  for (const { alias, path, packageFolder } of builds) {
    let label = alias;
    try {
      const file = path();
      const { name, version } = packageOf(join(dirname(file), packageFolder));
      label = `${name} ${version}`;
      const uws: unknown = require(file);
      if (isUws(uws)) {
        const short = version.split('.').slice(0, 2).join('.');
        const build = `uWebSockets.js ${short} (package ${name} ${version}, ${platform} ${arch}, ABI ${abi})`;
        return { uws, version: short, build };
      }
      reasons.push(`${label}: not the expected module`);
    } catch (error) {
      reasons.push(`${label}: ${loadFailure(error)}`);
    }
  }
  throw new StartError([noBuildLoads(reasons)]);
}

function noBuildLoads(reasons: readonly string[]): string {
  return (
    `No native build of uWebSockets.js loads in Node ${process.versions.node} on ${platform} ${arch}. Use ` +
    `${SUPPORTED_NODES} on macOS or on Linux with glibc 2.38 or later (Debian 13, Ubuntu 24.04); on Linux with glibc ` +
    '2.27 to 2.37 (Debian 12, Ubuntu 22.04) use Node 20. For Node 26 install the package of upstream, which also needs ' +
    `glibc 2.38: ${UPSTREAM_COMMAND} (${reasons.join('; ')}).`
  );
}

interface UwsPackage {
  readonly name: string;
  readonly version: string;
}

function packageOf(folder: string): UwsPackage {
  return typia.json.assertParse<UwsPackage>(readFileSync(join(folder, 'package.json'), 'utf8'));
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

/** Why a build did not load. The first package wraps the loader's reason, which then begins with `Error: `. */
function loadFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('code' in error && error.code === 'MODULE_NOT_FOUND') return 'no such build';
  const lines = error.message.split('\n').filter((text) => text.trim() !== '');
  const line = lines.find((text) => text.startsWith('Error: ')) ?? lines.at(-1) ?? 'unknown reason';
  return line.replace(/^Error: /, '');
}
