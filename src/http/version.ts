/**
 * The versions of this server, for GET /version, --version, the OpenAPI document and the metrics. Any thread.
 */
import { readFileSync } from 'node:fs';
import typia from 'typia';
import type { VersionDocument } from './documents.js';

/** The version of this package. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return typia.json.assertParse<{ version: string }>(text).version;
}

/** The versions with the build of uWebSockets.js that this process loads. */
export function versionsWith(uws: string): VersionDocument {
  return { version: packageVersion(), uws, node: process.versions.node };
}
