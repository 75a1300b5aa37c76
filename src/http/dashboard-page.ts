/**
 * The files of the dashboard: the page at `/`, and its assets below `/dashboard/`. HTTP thread.
 *
 * They hold no data, so they need no bearer token. A browser keeps them and asks each time whether they have changed, so that a
 * page never mixes two versions.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { StartError } from '../core/errors.js';
import type { HttpResponse } from './uws.js';

/** The files of the page by their paths in URLs. */
const FILES = {
  '/': 'index.html',
  '/dashboard/dashboard.css': 'dashboard.css',
  '/dashboard/main.js': 'main.js',
  '/dashboard/charts.js': 'charts.js',
  '/dashboard/event-source.js': 'event-source.js',
  '/dashboard/follow.js': 'follow.js',
  '/dashboard/health.js': 'health.js',
  '/dashboard/icon.svg': 'icon.svg',
  '/dashboard/tables.js': 'tables.js',
  '/dashboard/text.js': 'text.js',
} as const;

/** Files of the package that draws the charts. */
const LIBRARY_FILES = {
  '/dashboard/uplot.js': 'uplot/dist/uPlot.iife.min.js',
  '/dashboard/uplot.css': 'uplot/dist/uPlot.min.css',
} as const;

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
};

/** The page loads from its own server only. It cannot be framed, and only its own files run in it. */
const CONTENT_SECURITY_POLICY = [
  `default-src 'none'`,
  `script-src 'self'`,
  `style-src 'self'`,
  `img-src 'self'`,
  `connect-src 'self'`,
  `base-uri 'none'`,
  `form-action 'none'`,
  `frame-ancestors 'none'`,
].join('; ');

/** A file of the page. */
export interface PageFile {
  readonly path: string;
  readonly contentType: string;
  readonly body: string;
  /** Strong, for `If-None-Match`. */
  readonly etag: string;
}

/** Reads the files. Throws {@link StartError}, exit code 78, if one is missing. */
export function readPageFiles(): readonly PageFile[] {
  const require = createRequire(import.meta.url);
  const own = Object.entries(FILES).map(([path, file]) =>
    pageFile(path, new URL(`./dashboard/${file}`, import.meta.url)),
  );
  const library = Object.entries(LIBRARY_FILES).map(([path, file]) => pageFile(path, require.resolve(file)));
  return [...own, ...library];
}

function pageFile(path: string, file: string | URL): PageFile {
  const suffix = String(file).split('.').at(-1) ?? '';
  let body: string;
  try {
    body = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new StartError([`A file of the dashboard cannot be read: ${String(file)}; build with npm run build.`], {
      cause,
    });
  }
  const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
  return { path, contentType: CONTENT_TYPES[suffix] ?? 'application/octet-stream', body, etag };
}

/** Answers with a file, or 304 if the client has it. Returns the status. Call it inside `cork`. */
export function writePageFile(
  res: HttpResponse,
  { contentType, body, etag }: PageFile,
  { ifNoneMatch, isHead }: { readonly ifNoneMatch: string; readonly isHead: boolean },
): 200 | 304 {
  const isKnown = ifNoneMatch.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
  res.writeStatus(isKnown ? '304 Not Modified' : '200 OK');
  res.writeHeader('etag', etag).writeHeader('cache-control', 'no-cache');
  if (isKnown) {
    res.endWithoutBody();
    return 304;
  }
  res.writeHeader('content-type', contentType);
  res.writeHeader('content-security-policy', CONTENT_SECURITY_POLICY);
  res.writeHeader('x-content-type-options', 'nosniff').writeHeader('referrer-policy', 'no-referrer');
  if (isHead) {
    res.writeHeader('content-length', String(Buffer.byteLength(body)));
    res.endWithoutBody();
  } else {
    res.end(body);
  }
  return 200;
}
