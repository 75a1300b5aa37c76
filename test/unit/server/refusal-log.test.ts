import assert from 'node:assert/strict';
import { test } from 'node:test';
import { boundSentences } from '#product/config/bound-sentences.js';
import { readConfig } from '#product/config/read-config.js';
import { REFUSALS, type Refusal } from '#product/core/bounds.js';
import { RefusalLog } from '#product/server/refusal-log.js';
import { CollectedLog } from '../../support/collected-log.js';
import { ManualClock } from '../../support/manual-clock.js';

class Scene {
  readonly clock = new ManualClock();
  readonly logger = new CollectedLog();
  readonly counts = REFUSALS.map(() => 0);
  readonly log = new RefusalLog(this.clock, this.logger, boundSentences(readConfig({})));

  refuse(refusal: Refusal, requests: number): void {
    const index = REFUSALS.indexOf(refusal);
    this.counts[index] = (this.counts[index] ?? 0) + requests;
  }

  /** Seconds pass, in each of which as many requests are refused. */
  pass(seconds: number, refusal?: Refusal, requests = 0): void {
    for (let second = 0; second < seconds; second += 1) {
      if (refusal !== undefined) this.refuse(refusal, requests);
      this.clock.advance(1000);
      this.log.look(this.counts);
    }
  }
}

test('a bound that refuses has a line when it begins, one each minute and one when it ends, with counts', () => {
  const scene = new Scene();
  scene.pass(30);
  assert.deepEqual(scene.logger.take(), []);
  scene.pass(100, 'pending-keys', 10);
  scene.pass(30);
  const fields = { code: 'overloaded', bound: 'pending-keys' };
  assert.deepEqual(scene.logger.take(), [
    {
      level: 'warn',
      fields: { ...fields, refused: 10 },
      message: 'Refusing increments: MAX_PENDING_KEYS (1,000,000) is reached',
    },
    {
      level: 'warn',
      fields: { ...fields, seconds: 60, refused: 600, total: 610 },
      message: 'Still refusing increments after 60 s: MAX_PENDING_KEYS (1,000,000) is reached; 610 requests so far',
    },
    {
      level: 'info',
      fields: { ...fields, seconds: 104, total: 1000 },
      message: 'No longer refusing increments: MAX_PENDING_KEYS (1,000,000) is reached; 1000 requests within 104 s',
    },
  ]);
});

test('a refusal now and then is one episode, and two reasons have lines of their own', () => {
  const scene = new Scene();
  for (let times = 0; times < 5; times += 1) {
    scene.pass(1, 'journal-bytes', 1);
    scene.pass(3, 'journal-unavailable', 2);
  }
  assert.deepEqual(
    scene.logger.take().map(({ message }) => message),
    [
      'Refusing increments: JOURNAL_MAX_BYTES (1 GiB) is reached in a shard',
      'Refusing increments: a shard is restarting, its journal cannot be written, or its files were removed',
    ],
  );
});

test('refusals that are the fault of a client, or of a start or stop, are not logged', () => {
  const scene = new Scene();
  for (const refusal of ['invalid-request', 'unauthorized', 'body-too-large', 'starting', 'draining'] as const)
    scene.pass(3, refusal, 100);
  scene.log.close();
  assert.deepEqual(scene.logger.take(), []);
});

test('what still lasts at the end of the process is said then', () => {
  const scene = new Scene();
  scene.pass(2, 'outcome-unknown', 1);
  scene.logger.take();
  scene.log.close();
  const [line, ...others] = scene.logger.take();
  assert.match(line?.message ?? '', /^Stopping while answering outcome-unknown: a shard ended, .*; 2 requests within/);
  assert.deepEqual(others, []);
});
