/**
 * Load by autocannon. Used if wrk is not installed, and for checked runs, because it counts each status separately and
 * can send a fixed number of requests and wait for the last answer.
 */
import autocannon from 'autocannon';
import type { LoadFigures, LoadGenerator, LoadRequest } from './load-generator.js';
import { distinctBody, nthIdempotencyKey, type Workload } from './workload.js';

const TIMEOUT_SECONDS = 30;

/** The generator, in this process. */
export const autocannonGenerator: LoadGenerator = { name: 'autocannon', run };

async function run({ url, workload, connections, seconds, amount }: LoadRequest): Promise<LoadFigures> {
  const nextBody = bodySource(workload);
  const nextHeaders = headerSource(workload);
  const result = await autocannon({
    url,
    connections,
    timeout: TIMEOUT_SECONDS,
    ...(amount === undefined ? { duration: seconds } : { amount }),
    requests: [
      {
        method: 'POST',
        setupRequest: (request) => ({ ...request, headers: nextHeaders(), body: nextBody() }),
      },
    ],
  });
  const acknowledged = result.statusCodeStats?.['202']?.count ?? 0;
  const answered = result['1xx'] + result['2xx'] + result['3xx'] + result['4xx'] + result['5xx'];
  const { p50, p90, p99, p99_9, max } = result.latency;
  return {
    acknowledged,
    refused: answered - acknowledged,
    socketErrors: result.errors,
    seconds: result.duration,
    latency: { p50Ms: p50, p90Ms: p90, p99Ms: p99, p999Ms: p99_9, maxMs: max },
  };
}

function headerSource({ contentType, idempotencyKeyPrefix }: Workload): () => Record<string, string> {
  const headers = { 'content-type': contentType };
  if (idempotencyKeyPrefix === undefined) return () => headers;
  let n = -1;
  return () => ({ ...headers, 'idempotency-key': nthIdempotencyKey(idempotencyKeyPrefix, 0, ++n) });
}

function bodySource({ bodies }: Workload): () => string {
  let n = -1;
  if (bodies.kind === 'distinct') return () => distinctBody(bodies.prefix, ++n);
  // There is at least one body.
  return () => bodies.texts[++n % bodies.texts.length] as string;
}
