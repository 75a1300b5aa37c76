/**
 * How the supervisor reaches a front end, be it in its own thread or in another. Main thread and front-end threads.
 */
import { answerPort } from '../protocol/answer-port.js';
import type { HttpServerLink } from '../protocol/messages.js';
import type { ShardClient } from './shard-client.js';

/** The link to a front end of the same thread. */
export function localHttpServerLink(clients: readonly ShardClient[]): HttpServerLink {
  return {
    connect: (shard, port) => clients[shard]?.connect(answerPort(port)),
    disconnect: (shard) => clients[shard]?.disconnect(),
  };
}
