/** Runs one history again and shows its steps. */
import { runHistory } from './history.js';

const TRACE_LINES = 80;

/** Replays a seed and prints its last steps, or all of them; false if it violates something. */
export async function replay(seed: number, whole = false): Promise<boolean> {
  const trace: string[] = [];
  const { violation } = await runHistory(seed, {}, trace);
  for (const line of whole ? trace : trace.slice(-TRACE_LINES)) console.log(line);
  if (violation === undefined) return true;
  console.log(`SEED=${seed}: ${violation.stack ?? violation.message}`);
  return false;
}
