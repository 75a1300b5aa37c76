import assert from 'node:assert/strict';
import { test } from 'node:test';
import { boundSentences } from '#product/config/bound-sentences.js';
import { readConfig } from '#product/config/read-config.js';
import { settings } from '#product/config/settings.js';
import { BOUNDS, codeOfRefusal, isBound, REFUSALS } from '#product/core/bounds.js';
import { errorCodes } from '#product/core/errors.js';

const sentences = boundSentences(
  readConfig({
    MAX_PENDING_KEYS: '1234567',
    MAX_PENDING_BYTES: '64MiB',
    JOURNAL_MAX_BYTES: '3GiB',
    IDEMPOTENCY_MAX_ROWS: '7654321',
    IDEMPOTENCY_WINDOW_HOURS: '36',
    ACK_TIMEOUT_MS: '2500',
    HTTP_THREADS: '2',
  }),
);

test('the sentence of a bound names its setting, its value, and when to retry', () => {
  assert.deepEqual(sentences, {
    'pending-keys': 'MAX_PENDING_KEYS (1,234,567) is reached; retry after the next flush.',
    'pending-bytes': 'MAX_PENDING_BYTES (64 MiB) is reached; retry after the next flush.',
    'journal-bytes': 'JOURNAL_MAX_BYTES (3 GiB) is reached in a shard; retry after its next flush.',
    'window-bytes': 'Requests of 16 MiB wait for a shard, which is the limit; retry when it has answered.',
    'idempotency-rows':
      'IDEMPOTENCY_MAX_ROWS (7,654,321) is reached; retry after older idempotency keys are forgotten, ' +
      'IDEMPOTENCY_WINDOW_HOURS (36) after their use.',
    'body-bytes':
      'Unfinished bodies take 8 MiB, the most that MAX_PENDING_BYTES (64 MiB) allows them; retry later, or send a ' +
      'shorter body in one piece.',
    'ack-timeout': 'A shard did not take the request within ACK_TIMEOUT_MS (2,500); retry later.',
  });
  const variables = Object.values(settings).map(({ variable }) => variable);
  for (const [name] of Object.values(sentences)
    .join(' ')
    .matchAll(/[A-Z]+(?:_[A-Z]+)+/g))
    assert.ok((variables as readonly string[]).includes(name), name);
});

test('every bound is answered as overloaded, and every code as itself', () => {
  for (const bound of BOUNDS) assert.deepEqual([isBound(bound), codeOfRefusal(bound)], [true, 'overloaded']);
  for (const code of errorCodes) assert.deepEqual([isBound(code), codeOfRefusal(code)], [false, code]);
  // A refusal crosses a port as one byte, above the three other outcomes; 255 has another meaning.
  assert.ok(REFUSALS.length < 250);
});
