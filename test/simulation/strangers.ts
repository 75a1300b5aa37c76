/**
 * Streams that do not belong to the database and the broker of a history: one of another database in the same broker, one of an
 * earlier version that names no database and has no row, one of the same database whose records are in another broker, and one of an
 * earlier version whose row names no store. Nobody may count or remove the first two, nor retire the third; the fourth ends.
 */
import { encodeMessage, emptyRecord } from '#product/shard-worker/journal/shared/message-format.js';
import { incrementRecord } from '../support/journal-fixtures.js';
import { Violation } from './expectations.js';
import { STORE, type SimulatedBroker } from './simulated-broker.js';
import type { World } from './world.js';

const OTHER_DATABASE = 'da7aba5e-0000-4000-8000-000000000002';
const OTHER_STORE = '5708e000-0000-4000-8000-000000000002';
const NAMES = {
  foreign: 'f0000000-0000-4000-8000-000000000001',
  unnamed: 'f0000000-0000-4000-8000-000000000002',
  elsewhere: 'f0000000-0000-4000-8000-000000000003',
  older: 'f0000000-0000-4000-8000-000000000004',
} as const;
/** The checkpoint of the stream that is elsewhere. */
const LSN = 5;
const FOREVER = Number.MAX_SAFE_INTEGER;

/** Whether a stream is one that no server of the history touches: also the older one, once the broker has lost its messages. */
export function isStranger(stream: string, { broker, database }: World): boolean {
  if (stream !== NAMES.older) return stream === NAMES.foreign || stream === NAMES.unnamed || stream === NAMES.elsewhere;
  return database.tables.checkpoints.get(stream)?.store === null && broker?.messages(stream).length === 0;
}

/** Puts them into a world that has a broker and has not begun. `key`: one that the history counts. */
export function addStrangers(world: World, broker: SimulatedBroker, key: string): void {
  const origin = { node: world.uuid(), shard: 0 };
  const opening = encodeMessage([emptyRecord(1)], 1, 0, origin);
  const counted = encodeMessage([incrementRecord(key, 1_000_000)], 2, 0, origin);
  for (const [stream, database] of [
    [NAMES.foreign, OTHER_DATABASE],
    [NAMES.unnamed, undefined],
  ] as const)
    for (const data of [opening, counted]) broker.store(stream, data, database);
  broker.store(NAMES.older, opening, undefined);
  const { checkpoints, streams } = world.database.tables;
  const row = {
    ...{ epoch: 1, acceptedThrough: FOREVER, coveredFrom: 0, heardAt: 0, closedAt: undefined, retiredAt: undefined },
    ...{ ...origin, journal: 'nats', owner: undefined },
  };
  const rows = [
    [NAMES.elsewhere, { ...row, lsn: LSN, store: OTHER_STORE }],
    [NAMES.older, { ...row, lsn: 0, store: null }],
  ] as const;
  for (const [stream, each] of rows) {
    checkpoints.set(stream, each);
    streams.set(stream, { epoch: 1, ...origin, flusher: undefined, retiredAt: undefined });
  }
}

/** Throws a Violation where a server has touched them. A broker that has restarted may have lost their messages. */
export function checkStrangers(world: World, broker: SimulatedBroker): void {
  const { hasRestarted } = broker;
  const { checkpoints } = world.database.tables;
  for (const stream of [NAMES.foreign, NAMES.unnamed]) {
    if (checkpoints.has(stream)) throw new Violation(`${stream} of another database has got a row`);
    if (!hasRestarted && broker.messages(stream).length !== 2)
      throw new Violation(`messages of ${stream}, of another database, are removed`);
  }
  const row = checkpoints.get(NAMES.elsewhere);
  if (row === undefined || row.retiredAt !== undefined || row.epoch !== 1 || row.lsn !== LSN)
    throw new Violation(`${NAMES.elsewhere}, whose records are in another store, was taken or retired`);
  // The tombstone of a stream that ended long ago is gone.
  const older = checkpoints.get(NAMES.older);
  if (hasRestarted || older === undefined) return;
  if (older.store !== STORE.id || older.retiredAt === undefined)
    throw new Violation(`${NAMES.older}, whose row named no store, did not end`);
}
