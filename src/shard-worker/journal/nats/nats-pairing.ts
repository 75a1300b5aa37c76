/**
 * Which database a stream of JetStream belongs to. Main thread and shard thread.
 *
 * The subject `NAME.pairing` says so, in messages that are never removed. The first one counts, and each that an operator has put
 * in the place of the one that counted before. Earlier versions of the server skip the subject. A server reads it at its start and
 * after each reconnect, before it writes or reads anything else: two databases that share a stream would both count its records.
 */
import { randomUUID } from 'node:crypto';
import type { Msg, MsgHdrs } from '@nats-io/transport-node';
import { JournalError } from '../../../core/errors.js';
import { isUuid } from '../../../core/uuid.js';
import type { JournalStore, NatsSettings } from '../../protocol/control-messages.js';
import type { BrokerMessage } from './broker.js';
import { getRequest, messageOf, outcomeOf, publishHeaders, subjectOf, type NatsSession } from './nats-session.js';

/** The name of the subject. No stream has it: their names are UUIDs. */
const PAIRING = 'pairing';

/** The message that counts. */
export interface Pairing extends JournalStore {
  readonly sequence: number;
}

/** Sends a request to the leader of the stream. Rejects as the client library does. */
export type AskBroker = (subject: string, data: Uint8Array | string, headers?: MsgHdrs) => Promise<Msg>;

/** The pairing; undefined where there is none. Rejects as `ask` does, and with JournalError. */
export async function readPairing(settings: NatsSettings, ask: AskBroker): Promise<Pairing | undefined> {
  return (await readMessages(settings, ask)).pairing;
}

async function readMessages(
  settings: NatsSettings,
  ask: AskBroker,
): Promise<{ readonly pairing: Pairing | undefined; readonly lastSequence: number }> {
  const subject = subjectOf(settings, PAIRING);
  let pairing: Pairing | undefined;
  for (let lastSequence = 0; ;) {
    const [api, query] = getRequest(settings, { seq: lastSequence + 1, next_by_subj: subject });
    const message = messageOf(await ask(api, query));
    if (message === undefined) return { pairing, lastSequence };
    lastSequence = message.sequence;
    const { replaces, ...found } = contentOf(message);
    if (pairing === undefined || replaces === pairing.sequence) pairing = found;
  }
}

/**
 * Writes the pairing of a store that has none, or the next one by the decision of an operator. Resolves to the one that counts:
 * another server may have been first.
 */
export async function writePairing(
  settings: NatsSettings,
  session: NatsSession,
  ask: AskBroker,
  { databaseId, isAdopted }: Pick<JournalStore, 'databaseId' | 'isAdopted'>,
): Promise<Pairing> {
  const { pairing, lastSequence } = await readMessages(settings, ask);
  if (pairing !== undefined && !isAdopted) return pairing;
  const content = {
    store: pairing?.id ?? randomUUID(),
    database: databaseId,
    adopted: isAdopted,
    replaces: pairing?.sequence ?? 0,
  };
  const headers = publishHeaders(session, settings, databaseId, lastSequence);
  const outcome = outcomeOf(await ask(subjectOf(settings, PAIRING), JSON.stringify(content), headers));
  if (outcome.kind === 'refused' || outcome.kind === 'unknown')
    throw new JournalError('journal-unavailable', 'NATS does not take the name of the database.', {
      cause: outcome.error,
    });
  const written = await readPairing(settings, ask);
  if (written === undefined)
    throw new JournalError('journal-unavailable', 'NATS has not stored the name of the database.');
  return written;
}

/** The names of streams in the stream of JetStream. */
export async function streamsIn({ stream }: NatsSettings, { manager }: NatsSession): Promise<readonly string[]> {
  const { state } = await manager.streams.info(stream, { subjects_filter: `${stream}.>` });
  return Object.keys(state.subjects ?? {})
    .map((subject) => subject.slice(stream.length + 1))
    .filter(isUuid);
}

/** The first message of a stream; undefined where it has none. */
export async function firstMessage(
  settings: NatsSettings,
  ask: AskBroker,
  stream: string,
): Promise<BrokerMessage | undefined> {
  return messageOf(await ask(...getRequest(settings, { seq: 1, next_by_subj: subjectOf(settings, stream) })));
}

function contentOf({ data, sequence }: BrokerMessage): Pairing & { readonly replaces: unknown } {
  try {
    // Every member is checked before use.
    const { store, database, adopted, replaces } = JSON.parse(Buffer.from(data).toString()) as Partial<
      Record<string, unknown>
    >;
    if (typeof store === 'string' && isUuid(store) && typeof database === 'string' && isUuid(database))
      return { id: store, databaseId: database, isAdopted: adopted === true, replaces, sequence };
  } catch {
    // Not JSON, or null.
  }
  throw new JournalError('journal-corrupt', `The message ${sequence} of the subject ${PAIRING} cannot be read.`);
}
