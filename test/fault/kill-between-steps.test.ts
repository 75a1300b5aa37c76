/**
 * The server is killed under load at each step of an increment, of a flush and of the journal's upkeep. A module that
 * is loaded before the server's own code recognises the step and sends SIGKILL to the process.
 */
import assert from 'node:assert/strict';
import { describe } from 'node:test';
import { within } from '../support/eventually.js';
import { faultEnvironment, type FaultStep } from '../support/fault-injection.js';
import { testNode } from '../support/node-test.js';

/** Step, and at which occurrence the kill comes: this one, or up to so many later, at random. */
const steps: readonly (readonly [FaultStep, from: number, spread: number, where: string])[] = [
  ['post', 20, 50, 'before a batch is posted to its shard'],
  ['posted', 20, 50, 'after a batch was posted to its shard'],
  ['append', 20, 50, 'after a shard has taken a batch and before its record is written'],
  ['appended', 20, 50, 'after records were written and before they are synced'],
  ['synced', 20, 50, 'after records were synced and before they are applied'],
  ['acknowledge', 20, 50, 'before an acknowledgement is posted'],
  ['acknowledged', 20, 50, 'after an acknowledgement was posted'],
  ['flush', 2, 4, 'after a range was frozen and before its flush is sent'],
  ['flush-sent', 2, 4, 'after a flush was sent'],
  ['flush-committed', 2, 4, 'after a flush has committed and before the server knows'],
  ['zero-fill', 3, 4, 'before a segment is filled with zeros'],
  ['publish-segment', 3, 4, 'before a new segment gets its name'],
  ['segment-published', 3, 4, 'after a new segment got its name'],
  ['prune', 1, 3, 'before a segment is deleted'],
  ['pruned', 1, 3, 'after a segment was deleted'],
];

/** Small, short-lived segments, so that their steps occur too. */
const env = {
  FLUSH_INTERVAL_MS: '100',
  JOURNAL_KEEP_SECONDS: '0',
  MAX_BODY_BYTES: '1024',
  JOURNAL_MAX_BYTES: '262144',
};

describe('after a kill', { concurrency: 2 }, () => {
  for (const [step, from, spread, where] of steps) {
    testNode(`${where} nothing is lost or counted twice`, env, async ({ node }) => {
      const at = from + node.random.integer(spread);
      const doomed = await node.spawn(faultEnvironment({ step, at, action: 'kill' }));
      const load = node.load();
      const ended = await within(`the kill ${where}`, doomed.ended, 120_000);
      assert.deepEqual(ended, { code: null, signal: 'SIGKILL' }, doomed.output);
      const server = await node.start();
      await load.acknowledgements(50);
      await node.finish(server);
    });
  }
});
