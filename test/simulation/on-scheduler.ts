/** Runs a case in simulated time. */
import assert from 'node:assert/strict';
import { Life, type Scheduler } from './scheduler.js';

/** Runs a case until it is done, within `msMax` of simulated time; throws what it throws, or what happens in its life. */
export async function runOnScheduler(
  scheduler: Scheduler,
  msMax: number,
  run: (life: Life) => Promise<void>,
): Promise<void> {
  let failure: unknown;
  let isDone = false;
  const life = new Life((error) => (failure = error));
  run(life).then(
    () => (isDone = true),
    (error: unknown) => {
      failure = error;
      isDone = true;
    },
  );
  await scheduler.run(
    () => isDone,
    msMax,
    () => undefined,
  );
  if (failure !== undefined) throw failure as Error;
  assert.ok(isDone);
}
