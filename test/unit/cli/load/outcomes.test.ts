import assert from 'node:assert/strict';
import { test } from 'node:test';
import { meaningOf, Outcomes } from '#product/cli/load/outcomes.js';

function problem(code: string, counted: string): string {
  return JSON.stringify({ code, counted, detail: 'Why.', status: 0 });
}

test('only 202 acknowledges, and only a problem document that says so refuses', () => {
  const meaning = (status: number, body: string): string => meaningOf(status, body).counted;
  assert.equal(meaning(202, 'created'), 'yes');
  assert.equal(meaning(503, problem('overloaded', 'no')), 'no');
  assert.equal(meaning(400, problem('invalid-request', 'no')), 'no');
  assert.equal(meaning(500, problem('outcome-unknown', 'unknown')), 'unknown');
  assert.equal(meaning(200, 'created'), 'unknown');
  for (const body of ['', 'Bad Gateway', 'null', '{"code":1}', '[]', '{"code":"x","counted":"no"}'])
    assert.equal(meaning(502, body), 'unknown', body);
  assert.equal(meaningOf(503, problem('overloaded', 'no')).name, '503 overloaded');
});

test('a key that occurs twice in a request counts twice, and latencies have percentiles', () => {
  const outcomes = new Outcomes(3);
  const request = { keyNumbers: Uint32Array.of(0, 2, 2), body: '', idempotencyKey: undefined };
  for (let ms = 1; ms <= 100; ms += 1) outcomes.acknowledge(request, ms, ms);
  outcomes.giveUp(request);
  assert.deepEqual([...outcomes.acknowledgedOf], [100, 0, 200]);
  assert.deepEqual([...outcomes.unknownOf], [1, 0, 2]);
  assert.equal(outcomes.acknowledgedIncrements, 300);
  assert.equal(outcomes.unknownIncrements, 3);
  assert.ok(Math.abs(outcomes.latencyMs(50) - 50) < 0.1, String(outcomes.latencyMs(50)));
  assert.ok(Math.abs(outcomes.latencyMs(100) - 100) < 0.1, String(outcomes.latencyMs(100)));
});
