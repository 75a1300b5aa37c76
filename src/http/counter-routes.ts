/**
 * One counter: GET /key_sum?name=KEY, GET and DELETE /counters/KEY, the same with /counters?key=KEY. Front-end thread.
 */
import { CounterError } from '../core/errors.js';
import type { CounterOperations, CounterReading } from '../core/counter-operations.js';
import type { CounterDocument, DeletedCounterDocument } from './documents.js';
import { exactJson } from './exact-json.js';
import { checkIdempotencyKey } from './idempotency-key.js';
import { checkKey, decodePercent, parseQuery } from './percent-encoding.js';
import { jsonReply, textReply, type HttpReply, type HttpRequestHead } from './reply.js';

const COUNTER_PATH = '/counters/';

/** GET /key_sum: the sum as digits. */
export async function keySumRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const name = parseQuery(head.query).get('name');
  if (name === undefined) throw new CounterError('invalid-request', 'The query parameter name is missing.');
  const reading = await read(operations, checkKey(name, keyBytesMax));
  return textReply(200, String(reading.sum));
}

/** GET /counters/KEY and GET /counters?key=KEY. Everything after `/counters/` is the key, raw slashes included. */
export async function counterRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const key = checkKey(keyOf(head), keyBytesMax);
  const reading = await read(operations, key);
  return jsonReply(200, counterJson(key, reading));
}

/** DELETE /counters/KEY and DELETE /counters?key=KEY: removes the counter and says what it was. */
export async function deleteCounterRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const key = checkKey(keyOf(head), keyBytesMax);
  const id = head.idempotencyKey === '' ? undefined : checkIdempotencyKey(head.idempotencyKey);
  const sum = await operations.delete(key, id);
  if (sum === undefined) throw unknownCounter();
  return jsonReply(200, exactJson<DeletedCounterDocument>({ key: text(key), sum }));
}

function keyOf(head: HttpRequestHead): Uint8Array {
  if (head.path.startsWith(COUNTER_PATH)) return decodePercent(head.path.slice(COUNTER_PATH.length), false);
  const key = parseQuery(head.query).get('key');
  if (key === undefined) throw new CounterError('invalid-request', 'The query parameter key is missing.');
  return key;
}

async function read(operations: CounterOperations, key: Uint8Array): Promise<CounterReading> {
  const reading = await operations.read(key);
  if (reading === undefined) throw unknownCounter();
  return reading;
}

function unknownCounter(): CounterError {
  return new CounterError('unknown-counter', 'This key was never counted, or its counter was removed.');
}

function text(key: Uint8Array): string {
  return Buffer.from(key).toString('utf8');
}

function counterJson(key: Uint8Array, { sum, committed, pending, updatedAt }: CounterReading): string {
  const updated = updatedAt?.toISOString() ?? null;
  return exactJson<CounterDocument>({ key: text(key), sum, committed, pending, updated_at: updated });
}
