import assert from 'node:assert/strict';
import type { WriteStream } from 'node:tty';
import { test } from 'node:test';
import { parseLoadOptions } from '#product/cli/load/load-options.js';
import { LoadProgress } from '#product/cli/load/load-progress.js';
import { reportJson, reportText, type LoadResult } from '#product/cli/load/load-report.js';
import { Outcomes } from '#product/cli/load/outcomes.js';
import type { Verdict } from '#product/cli/load/verdict.js';

const request = { keyNumbers: Uint32Array.of(0), body: '', idempotencyKey: undefined };

/** A run of a second with what `happened`. */
function resultOf(verdict: Verdict, happened: (outcomes: Outcomes) => void, ...args: readonly string[]): LoadResult {
  const options = parseLoadOptions(args, {});
  assert.ok(options !== undefined);
  const outcomes = new Outcomes(20);
  happened(outcomes);
  return { options, outcomes, times: { startedAt: 0, stoppedAt: 1000 }, verdict };
}

for (const { name, verdict, happened, args = [], says } of [
  {
    name: 'one increment that arrived is spoken of as one',
    verdict: { kind: 'arrived', keys: 1, grown: 1n } as const,
    happened: (outcomes: Outcomes) => outcomes.acknowledge(request, 1, 1),
    says: /The one acknowledged increment arrived: the sum of 1 key is 1\.\n$/,
  },
  {
    name: 'an unknown increment that is counted is said',
    verdict: { kind: 'arrived', keys: 1, grown: 2n } as const,
    happened: (outcomes: Outcomes) => {
      outcomes.acknowledge(request, 1, 1);
      outcomes.giveUp(request);
    },
    says: /Of 1 increment with unknown outcome, 1 is counted\.\n$/,
  },
  {
    name: 'requests that were sent again with their key are counted beside the unknown ones',
    verdict: { kind: 'nothing-acknowledged' } as const,
    happened: (outcomes: Outcomes) => {
      outcomes.unclear({ name: 'timeout', detail: '' });
      outcomes.resentRequests = 3;
      outcomes.giveUp(request);
    },
    args: ['--idempotency-keys'],
    says: /unknown +1 request; 3 sent again with their idempotency key: timeout \(1\)\n[^]*No increment was acknowledged: timeout\.\n$/,
  },
  {
    name: 'a run without any answer names the last error of a connection',
    verdict: { kind: 'nothing-acknowledged' } as const,
    happened: (outcomes: Outcomes) => {
      outcomes.lostConnections = 2;
      outcomes.lastConnectionError = 'ECONNREFUSED';
    },
    says: /2 lost or refused, the last: ECONNREFUSED\n[^]*No increment was acknowledged: ECONNREFUSED\.\n$/,
  },
  {
    name: 'wrong keys beyond those that are named are counted',
    verdict: {
      kind: 'wrong',
      keys: 20,
      grown: 3n,
      wrongKeys: 12,
      firstWrong: [{ key: 'a', expectedMin: 1n, expectedMax: 2n, found: 3n }],
    } as const,
    happened: (outcomes: Outcomes) => outcomes.acknowledge(request, 1, 1),
    args: ['--keys', 'zipf', '--key-count', '20'],
    says: /WRONG: 12 keys of 20 do not hold what was acknowledged\.\n {2}"a": expected 1 to 2, found 3\n {2}and 11 more\n$/,
  },
]) {
  test(name, () => {
    const result = resultOf(verdict, happened, ...args);
    assert.match(reportText(result), says);
    const { verdict: document } = JSON.parse(reportJson(result)) as { verdict: { kind: string; sentence: string } };
    assert.equal(document.kind, verdict.kind);
    assert.ok(reportText(result).includes(document.sentence));
  });
}

for (const isTTY of [true, false]) {
  test(`the progress of a run ${isTTY ? 'is a bar on a terminal' : 'is lines elsewhere'}`, (t) => {
    t.mock.timers.enable({ apis: ['setInterval', 'setTimeout'] });
    let written = '';
    const write = (text: string): boolean => {
      written += text;
      return true;
    };
    const outcomes = new Outcomes(1);
    outcomes.acknowledge({ ...request, keyNumbers: Uint32Array.of(0, 0) }, 1, 1);
    outcomes.refuse({ name: '503 overloaded', detail: '' });
    outcomes.lostConnections = 2;
    const progress = new LoadProgress(outcomes, 10, { isTTY, columns: 200, write } as unknown as WriteStream);
    t.mock.timers.tick(5000);
    progress.say('done');
    const figures = String.raw`req/s {2}[\d,]+ incr/s {2}p50 .* ms {2}refused 1 {2}errors 2`;
    assert.match(
      written,
      new RegExp(isTTY ? String.raw`\r\[ *\] 0/10 s {2}.*${figures}` : `^0 s of 10 s: .*${figures}`, 'm'),
    );
    assert.ok(written.endsWith(isTTY ? '\r\x1b[Kdone\n' : '\ndone\n'));
  });
}
