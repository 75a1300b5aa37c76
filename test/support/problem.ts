/** Assertions about answers. */
import assert from 'node:assert/strict';
import { errorCatalogue, type ErrorCode } from '#product/core/errors.js';
import type { Answer } from './http.js';
import type { RawAnswer } from './raw-connection.js';

/** Asserts that the answer is the complete problem document of `code`, and returns its `detail`. */
export function assertProblem(answer: Pick<Answer, 'status' | 'headers' | 'body'>, code: ErrorCode): string {
  const { status, retryable, counted } = errorCatalogue[code];
  assert.equal(answer.status, status, answer.body);
  assert.equal(answer.headers['content-type'], 'application/problem+json');
  const document = JSON.parse(answer.body) as Record<string, unknown>;
  const members = ['code', 'counted', 'detail', 'retryable', 'status', 'title', 'type'];
  assert.deepEqual(Object.keys(document).sort(), members);
  assert.equal(document['code'], code, answer.body);
  assert.equal(document['type'], `urn:problem-type:summing-counters:${code}`);
  assert.equal(document['status'], status);
  assert.equal(document['retryable'], retryable);
  assert.equal(document['counted'], counted);
  assert.ok(typeof document['title'] === 'string' && document['title'] !== '');
  assert.ok(typeof document['detail'] === 'string' && document['detail'] !== '');
  if (status === 503) assert.match(String(answer.headers['retry-after']), /^[1-9][0-9]*$/);
  return document['detail'];
}

/** Asserts that the answer is 202 `created`. */
export function assertCreated(answer: Answer): void {
  assert.deepEqual(
    { status: answer.status, type: answer.headers['content-type'], body: answer.body },
    { status: 202, type: 'text/plain', body: 'created' },
  );
}

/** The same of an answer over a raw connection. */
export function assertRawProblem(answer: RawAnswer, code: ErrorCode): string {
  return assertProblem({ ...answer, headers: Object.fromEntries(answer.headers) }, code);
}
