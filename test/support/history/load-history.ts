/** The file of `npm run load -- --history` as a history that `check-history.ts` decides. */
import { readFileSync } from 'node:fs';
import type { Increment, Operation } from './history.js';

/** A line of the file. */
interface Line {
  readonly kind: string;
  readonly askedAt: number;
  readonly answeredAt: number | null;
  readonly members: Increment['members'];
  readonly idempotencyKey?: string;
  readonly status: number;
  readonly isReplayed: boolean;
  readonly key: string;
  readonly sum: string | null;
}

/** All servers of the run are one: the load tool sends to one address. */
export function readLoadHistory(path: string): Operation[] {
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.map((text) => {
    // The checks of the history fail on anything else.
    const line = JSON.parse(text) as Line;
    const asked = { server: '', askedAt: line.askedAt, answeredAt: line.answeredAt ?? Number.POSITIVE_INFINITY };
    if (line.kind === 'read')
      return { ...asked, kind: 'read', key: line.key, sum: line.sum === null ? null : BigInt(line.sum) };
    const { members, idempotencyKey, status, isReplayed } = line;
    return { ...asked, kind: 'increment', members, idempotencyKey, status, isReplayed };
  });
}
