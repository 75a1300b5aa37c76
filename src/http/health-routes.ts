import type { Readiness } from '../core/counter-operations.js';
import type { ReadinessDocument } from './documents.js';
import { exactJson } from './exact-json.js';
import { jsonReply, problemReply, textReply, type HttpReply } from './reply.js';

/** GET /healthz: this thread runs its event loop, which is what being able to answer shows. */
export function healthRoute(): HttpReply {
  return textReply(200, 'ok');
}

/** GET /readyz: whether increments are accepted. */
export function readinessRoute(readiness: Readiness): HttpReply {
  switch (readiness.state) {
    case 'ok':
      return jsonReply(200, exactJson<ReadinessDocument>({ status: 'ok' }));
    case 'degraded':
      return jsonReply(200, exactJson<ReadinessDocument>({ status: 'degraded', reason: readiness.reason }));
    case 'refusing':
      return problemReply(readiness.code, readiness.reason);
  }
}
