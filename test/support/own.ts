/** What a test owns: it ends with the test, also where that fails, and what came last ends first. */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import type { TestContext } from 'node:test';
import { createTestDatabase } from './database.js';
import { spawnServer, startServer, temporaryDirectory, type TestServer } from './server.js';
import { serves } from './suite-server.js';

type Environment = Readonly<Record<string, string>>;
type Resource = { dispose(): unknown } | { drop(): unknown } | { destroy(): unknown } | { close(): unknown };

const owned = new WeakMap<TestContext, Resource[]>();

/** Has `resource` end with the test. */
export function own<Owned extends Resource>(context: TestContext, resource: Owned): Owned {
  const resources = owned.get(context);
  if (resources !== undefined) {
    resources.push(resource);
    return resource;
  }
  const first: Resource[] = [resource];
  owned.set(context, first);
  context.after(async () => {
    for (const last of first.reverse()) {
      if ('dispose' in last) await last.dispose();
      else if ('drop' in last) await last.drop();
      else if ('destroy' in last) await last.destroy();
      else await last.close();
    }
  });
  return resource;
}

/** A server that serves, on an empty database of its own. Both end with the test. */
export async function ownNode(
  context: TestContext,
  env: Environment = {},
): Promise<{ readonly server: TestServer; readonly databaseUrl: string }> {
  const { url } = own(context, await createTestDatabase());
  const server = own(context, await startServer({ env: { DATABASE_URL: url, SHARDS: '2', ...env } }));
  await serves(server);
  return { server, databaseUrl: url };
}

/** An empty directory that ends with the test. */
export async function ownDirectory(context: TestContext): Promise<string> {
  const directory = await temporaryDirectory();
  own(context, { close: () => rm(directory, { recursive: true, force: true }) });
  return directory;
}

/** Runs a start that must end by itself with `code` and say each of `sentences`. Returns the ended server. */
export async function refusedStart(
  env: Environment,
  code: number,
  ...sentences: readonly RegExp[]
): Promise<Pick<TestServer, 'output' | 'log'>> {
  const server = await spawnServer({ env });
  try {
    assert.deepEqual(await server.ended, { code, signal: null }, server.output);
    for (const sentence of sentences) assert.match(server.output, sentence);
    return server;
  } finally {
    await server.dispose();
  }
}
