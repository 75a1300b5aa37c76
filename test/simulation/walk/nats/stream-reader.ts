/** Reading and purging a stream, as writers and roll-ups both do it. */
import type { Broker } from '#product/shard-worker/journal/nats/broker.js';
import type { Mulberry32 } from '../../../support/mulberry32.js';
import type { WalkWorld } from '../process.js';
import type { NatsWalkMutations } from './nats-mutations.js';
import { decodeMessage, type PlacedMessage, purgeSequence } from './nats-message.js';

const PAGES = [2, 10, 100] as const;

/** All messages from a sequence on, page by page. */
export async function readStream(
  broker: Broker,
  random: Mulberry32,
  stream: string,
  fromSequence: number,
): Promise<readonly PlacedMessage[]> {
  const page = random.pick(PAGES);
  const found: PlacedMessage[] = [];
  for (;;) {
    const messages = await broker.read(stream, (found.at(-1)?.sequence ?? fromSequence - 1) + 1, page);
    found.push(...messages.map(decodeMessage));
    if (messages.length < page) return found;
  }
}

/** Removes what is not needed of a stream once everything to `lsn` is committed. */
export async function purge(
  broker: Broker,
  world: Pick<WalkWorld, 'random' | 'note'>,
  mutations: NatsWalkMutations,
  stream: string,
  lsn: number,
  isRetired = false,
): Promise<void> {
  const messages = await readStream(broker, world.random, stream, 0);
  const before = mutatedSequence(messages, lsn, mutations) ?? purgeSequence(messages, lsn, isRetired);
  if (before <= (messages[0]?.sequence ?? 0)) return;
  world.note(() => `${stream} is purged before ${before}, LSN ${lsn} is committed`);
  await broker.purge(stream, before);
}

function mutatedSequence(
  messages: readonly PlacedMessage[],
  lsn: number,
  { purgesAll, purgesFences, purgesWithoutSequence }: NatsWalkMutations,
): number | undefined {
  if (purgesWithoutSequence === true) return Number.MAX_SAFE_INTEGER;
  const next = messages.findIndex(({ isFence, lastLsn }) => !isFence && lastLsn > lsn);
  const committed = next === -1 ? messages : messages.slice(0, next);
  const last = committed.at(-1)?.sequence ?? 0;
  if (purgesAll === true) return last + 1;
  return purgesFences === true ? last : undefined;
}
