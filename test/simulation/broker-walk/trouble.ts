/** Errors that a process of a walk lives with: the database or the broker is unavailable, or refuses. Others are bugs. */
import { BrokerUnavailable } from '../simulated-broker.js';

/** Rethrows what is none of them. */
export function expectTrouble(error: unknown): Error {
  const isLost = error instanceof Error && ('code' in error || error.message.includes('connection error'));
  if (isLost || error instanceof BrokerUnavailable) return error;
  throw error;
}
