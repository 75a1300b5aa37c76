/**
 * How the supervisor reaches a front end, be it in its own thread or in another. Main thread and front-end threads.
 */
import type { MessagePort } from 'node:worker_threads';
import { answerPort } from './answer-port.js';
import type { ShardClient } from './shard-client.js';

/** A front end as the supervisor of the shards sees it. */
export interface FrontEndLink {
  /** A shard has started, and takes this front end's batches on `port`. */
  connect(shard: number, port: MessagePort): void;
  /** A shard is gone. */
  disconnect(shard: number): void;
}

/** The link to a front end of the same thread. */
export function localFrontEndLink(clients: readonly ShardClient[]): FrontEndLink {
  return {
    connect: (shard, port) => clients[shard]?.connect(answerPort(port)),
    disconnect: (shard) => clients[shard]?.disconnect(),
  };
}
