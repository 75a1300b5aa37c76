/**
 * A test with a node of its own: a database, a proxy through which the server reaches it, a server that counts into a history, and a
 * directory for what else the test needs. All of it is gone at the end, however the test ends.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { CountedNode } from './counted-node.js';
import { createTestDatabase } from './database.js';
import { temporaryDirectory, type TestServer } from './server.js';
import { TcpProxy } from './tcp-proxy.js';

type Environment = Readonly<Record<string, string>>;

/** How a server ends that has kept what it acknowledged. */
export const CLEAN = { code: 0, signal: null };
/** FLUSH_INTERVAL_MS of servers that flush only when they are asked to. */
export const NEVER_MS = '3600000';

/** A failed test ends here; the machine may be busy with others. */
const TEST_MS = 240_000;

/** What a test has. */
export interface NodeScene {
  /** Not started yet. */
  readonly node: CountedNode;
  /** The address of the database without the proxy. */
  readonly databaseUrl: string;
  readonly proxy: TcpProxy;
  readonly directory: string;
  /** A file in the directory, which is not there: it arms a fault. */
  readonly armedBy: string;
  /** A further node with the same settings and history, without the proxy. */
  readonly makeNode: (options?: { readonly dataDir?: string; readonly env?: Environment }) => Promise<CountedNode>;
}

/** Runs `body` with a node that has never been started. `label` is printed with the seed. */
export async function withNode(
  label: string,
  env: Environment,
  body: (scene: NodeScene) => Promise<void>,
  dataDir?: string,
): Promise<void> {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const directory = await temporaryDirectory();
  const serverDatabaseUrl = proxy.urlOf(database.url);
  const options = { databaseUrl: database.url, env, ...(dataDir === undefined ? {} : { dataDir }) };
  const node = await CountedNode.make(label, { ...options, serverDatabaseUrl });
  const nodes = [node];
  const makeNode: NodeScene['makeNode'] = async (more = {}) => {
    const shared = { databaseUrl: database.url, history: node.history, random: node.random };
    const next = await CountedNode.make(label, { ...shared, env, ...more });
    nodes.push(next);
    return next;
  };
  try {
    await body({ node, databaseUrl: database.url, proxy, directory, armedBy: path.join(directory, 'armed'), makeNode });
  } finally {
    for (const each of nodes) await each.dispose();
    await proxy.close();
    await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    await database.drop();
  }
}

/** A test of one node. */
export function testNode(
  name: string,
  env: Environment,
  body: (scene: NodeScene, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: TEST_MS }, (t) => withNode(name, env, (scene) => body(scene, t)));
}

/** Kills it with SIGKILL; settles when it is gone. */
export async function kill(server: TestServer): Promise<void> {
  server.kill('SIGKILL');
  await server.ended;
}
