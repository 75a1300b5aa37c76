/** Two servers that share a journal under one load, and what their logs and the database say of their streams. */
import { CountedNode } from '../support/counted-node.js';
import { connectTo, createTestDatabase, type TestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { Load } from '../support/load.js';
import type { TestServer } from '../support/server.js';

/** How the line of a takeover begins. */
export const TAKEN_OVER = 'Adopted a stream whose writer is gone';
/** How the line begins that ends a stream for its writer. */
export const STREAM_ENDED = 'No longer writing the stream';

/** See {@link startPair}. */
export interface ServerPair {
  readonly database: TestDatabase;
  readonly first: CountedNode;
  readonly second: CountedNode;
  readonly load: Load;
  /** Those of both nodes at their first start. */
  readonly servers: readonly [TestServer, TestServer];
  readonly dispose: () => Promise<void>;
}

/** Starts two nodes that serve with the same settings, and a load that repeats at one what the other did not answer. */
export async function startPair(label: string, env: Readonly<Record<string, string>>): Promise<ServerPair> {
  const database = await createTestDatabase();
  const options = { databaseUrl: database.url, env };
  const first = await CountedNode.make(label, options);
  const second = await CountedNode.make(label, { ...options, history: first.history, random: first.random });
  const nodes = [first, second];
  const servers = [await first.start(), await second.start()] as const;
  const urls = nodes.map(({ url }) => url);
  const load = new Load({ urls, connections: 16, history: first.history, repeatElsewhere: true });
  return {
    database,
    first,
    second,
    load,
    servers,
    dispose: async () => {
      servers[0].kill('SIGCONT');
      const stopped = load.stop();
      for (const node of nodes) await node.dispose();
      await stopped;
      await database.drop();
    },
  };
}

/** Waits until no stream is open but those that `servers` write. */
export async function othersEnded(databaseUrl: string, servers: readonly TestServer[]): Promise<void> {
  const connection = await connectTo(databaseUrl);
  try {
    const text = `select count(*)::int as open from journal_checkpoints
                  where retired_at is null and stream <> all($1::uuid[])`;
    const isNoneLeft = async (): Promise<boolean> => {
      // A server that has just lost its stream begins another one meanwhile.
      const values = [servers.flatMap((server) => [...streamsOf(server)])];
      return (await connection.query<{ open: number }>({ text, values }))[0]?.open === 0;
    };
    await eventually('the end of all other streams', isNoneLeft);
  } finally {
    await connection.close();
  }
}

/** The streams that a server writes, by its log. */
export function streamsOf({ log }: TestServer): ReadonlySet<string> {
  const streams = new Set<string>();
  for (const { msg, stream } of log) {
    if (String(msg).startsWith('Began a stream in ')) streams.add(String(stream));
    if (String(msg).startsWith(STREAM_ENDED)) streams.delete(String(stream));
  }
  return streams;
}

/** The lines of a server's log whose message begins so. */
export function linesOf({ log }: TestServer, message: string): readonly Record<string, unknown>[] {
  return log.filter(({ msg }) => String(msg).startsWith(message));
}
