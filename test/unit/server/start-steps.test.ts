import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Logger } from '#product/core/logger.js';
import { StartSteps, type StartStep } from '#product/server/start-steps.js';

/** Three steps that record their calls. `replaced` overrides members of the second one. */
function threeSteps(replaced: Partial<StartStep> = {}): { done: string[]; logged: string[]; steps: StartSteps } {
  const done: string[] = [];
  const logged: string[] = [];
  const step = (name: string): StartStep => ({
    name,
    run: () => void done.push(`run ${name}`),
    undo: () => void done.push(`undo ${name}`),
  });
  const ignore = (): void => undefined;
  const logger: Logger = {
    debug: ignore,
    info: ignore,
    warn: ignore,
    error: (_, message) => void logged.push(message),
  };
  const steps = new StartSteps([step('first'), { ...step('second'), ...replaced }, step('third')], logger);
  return { done, logged, steps };
}

test('steps run in order, and are undone in reverse, once', async () => {
  const { done, steps } = threeSteps();
  assert.equal(await steps.run(), true);
  assert.deepEqual(await Promise.all([steps.undo(), steps.undo()]), [true, true]);
  const order = ['run first', 'run second', 'run third', 'undo third', 'undo second', 'undo first'];
  assert.deepEqual(done, order);
});

test('a failed step ends the run with its error, and is undone like the steps before it; no further step begins', async () => {
  const failure = new Error('on purpose');
  for (const run of [() => Promise.reject(failure), () => assert.fail(failure)]) {
    const { done, steps } = threeSteps({ run });
    await assert.rejects(steps.run(), failure);
    await steps.undo();
    assert.deepEqual(done, ['run first', 'undo second', 'undo first']);
  }
});

test('an abort ends the run without waiting for the current step, whose later failure is ignored', async () => {
  let fail: (error: Error) => void = () => undefined;
  let heard: AbortSignal | undefined;
  const { done, steps } = threeSteps({
    run: (signal) => {
      heard = signal;
      return new Promise((_, reject) => {
        fail = reject;
      });
    },
  });
  const run = steps.run();
  await new Promise(setImmediate);
  steps.abort();
  assert.equal(await run, false);
  assert.equal(heard?.aborted, true);
  await steps.undo();
  fail(new Error('too late'));
  assert.deepEqual(done, ['run first', 'undo second', 'undo first']);
});

test('an abort after the last step undoes nothing by itself, and one before the first step prevents all steps', async () => {
  const ended = threeSteps();
  assert.equal(await ended.steps.run(), true);
  ended.steps.abort();
  assert.equal(ended.done.length, 3);
  const early = threeSteps();
  early.steps.abort();
  assert.equal(await early.steps.run(), false);
  assert.equal(await early.steps.undo(), true);
  assert.deepEqual(early.done, []);
});

test('if the undo of a step fails, the others are still undone and the log names the step', async () => {
  const { done, logged, steps } = threeSteps({ undo: () => Promise.reject(new Error('on purpose')) });
  await steps.run();
  assert.equal(await steps.undo(), false);
  assert.deepEqual(done.slice(3), ['undo third', 'undo first']);
  assert.deepEqual(logged, ['Closing the second failed; closing the rest']);
});
