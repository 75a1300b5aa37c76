import type { CounterOperations } from '../core/counter-operations.js';
import type { FlushDocument } from './documents.js';
import { exactJson } from './exact-json.js';
import { jsonReply, type HttpReply } from './reply.js';

/** Answers once everything acknowledged before the call is committed. */
export async function flushRoute(operations: CounterOperations): Promise<HttpReply> {
  const keys = await operations.flush();
  return jsonReply(200, exactJson<FlushDocument>({ flushed_keys: keys }));
}
