/** Streams of shards whose journal is read by position. */
import type { SharedLog } from '#product/shard-worker/journal/stream-log.js';
import type { ShardContext } from '#product/shard-worker/thread/shard-context.js';
import { SharedStreams, type SharedStreamsDeps } from '#product/shard-worker/thread/streams/shared-streams.js';
import { TakenStreams, type TakenStreamsWaits } from '#product/shard-worker/thread/streams/taken-streams.js';

/** The streams of one shard. */
export function followingStreams(
  context: ShardContext,
  deps: Omit<SharedStreamsDeps, 'makeFlushed'> & { readonly incrementLog: SharedLog },
  waits?: TakenStreamsWaits,
): SharedStreams {
  return new SharedStreams(context, {
    ...deps,
    makeFlushed: (flushedDeps) => new TakenStreams(deps.incrementLog, flushedDeps, waits),
  });
}
