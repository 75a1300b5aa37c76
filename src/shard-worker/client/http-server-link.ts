import { answerPort } from '../protocol/batch-ports.js';
import type { HttpServerLink } from '../protocol/control-messages.js';
import type { ShardClient } from './shard-client.js';

/** The link to a front end of the same thread. */
export function localHttpServerLink(clients: readonly ShardClient[]): HttpServerLink {
  return {
    connect: (shard, port) => clients[shard]?.connect(answerPort(port)),
    disconnect: (shard) => clients[shard]?.disconnect(),
  };
}
