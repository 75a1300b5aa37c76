/**
 * POST /increment, the hot path: scans bodies and hands the increments to the router. HTTP thread.
 *
 * A body that arrives in one piece is scanned in the buffer of uWebSockets.js, and the router copies what it needs before the
 * callback returns. Each reply is written in one cork, by a function that is not created per request.
 */
import { nativeText, type HttpRequest, type HttpResponse } from './uws.js';
import type { BoundSentences } from '../config/bound-sentences.js';
import { codeOfRefusal, isBound, type Refusal } from '../core/bounds.js';
import { CounterError, errorCatalogue, type ErrorCode } from '../core/errors.js';
import type { Admission, IncrementReceiver, ParsedIncrements, PendingReply } from '../core/increment.js';
import { BodyMemory, GatheredBody } from './gathered-body.js';
import { problemReply, replyOfError, writeLastReply, writeReply, type HttpReply } from './reply.js';
import type { RequestStats, RouteStats } from './request-stats.js';
import { isIdempotencyKey, IDEMPOTENCY_KEY_RULE } from './request-parameters.js';
import { IncrementBodyScanner, isNdjson } from './scanner/increment-body-scanner.js';

/** A body longer than this times the limit ends its connection. */
const DISCARD_FACTOR = 8;

const REFUSAL_DETAILS: Partial<Record<ErrorCode, string>> = {
  starting: 'The server is starting. Nothing was counted; try again later.',
  draining: 'The server is shutting down. Nothing was counted; retry later or on another server.',
  'journal-unavailable': 'The journal is unavailable. Nothing was counted; try again later.',
  'idempotency-mismatch':
    'The Idempotency-Key was already used with other content, which stays counted. This request was not counted; ' +
    'send it with another key.',
  'outcome-unknown': 'The request may have been counted, wholly or in part. A retry may count it again.',
};
const UNKNOWN_WITH_IDEMPOTENCY_KEY =
  'The request may have been counted. A retry with the same Idempotency-Key counts it once.';

/** Limits of request bodies. */
export interface IncrementLimits {
  readonly bodyBytesMax: number;
  readonly keyBytesMax: number;
  /** Memory of all unfinished bodies together. */
  readonly gatheredBytesMax: number;
  /** The details of refusals at a bound. */
  readonly boundSentences: BoundSentences;
  readonly stats: RequestStats;
}

const HEADER = {
  idempotencyKey: nativeText('idempotency-key'),
  contentEncoding: nativeText('content-encoding'),
  contentLength: nativeText('content-length'),
  contentType: nativeText('content-type'),
} as const;

// uWebSockets.js writes the status line unchanged, so a header in it saves one call into C++ a reply.
const CREATED = nativeText('202 Accepted\r\ncontent-type: text/plain');
const REPLAYED = nativeText('202 Accepted\r\ncontent-type: text/plain\r\nidempotency-replayed: true');
const CREATED_BODY = nativeText('created');

let corked: HttpResponse;

function writeCreated(): void {
  corked.writeStatus(CREATED).end(CREATED_BODY);
}

function writeReplayed(): void {
  corked.writeStatus(REPLAYED).end(CREATED_BODY);
}

/** The header names the accepted encoding (RFC 9110, 12.5.3). */
const ENCODING_REFUSED = problemReply(
  'unsupported-encoding',
  'Only the content encoding identity is supported; send the body uncompressed.',
  [['accept-encoding', 'identity']],
);

const TRANSFER_ENCODING_REFUSED = problemReply(
  'invalid-request',
  'Only the transfer encoding chunked is supported; send the body with a Content-Length or in chunks.',
);

/** The route of one HTTP server. */
export class IncrementRoute {
  readonly #server: { readonly admission: Admission };
  readonly #receiver: IncrementReceiver;
  readonly #scanner: IncrementBodyScanner;
  #bodyBytesMax: number;
  /** Number of digits of `#bodyBytesMax`: a Content-Length with fewer digits is within the limit. */
  #lengthDigits: number;
  readonly #bodyMemory: BodyMemory;
  readonly #boundSentences: BoundSentences;
  readonly #stats: RequestStats;
  readonly #answers: RouteStats;
  /** Number of requests that wait for their body or their outcome. */
  inFlight = 0;
  /** Requests with an unfinished body. */
  readonly #unread = new Set<IncrementReply>();

  /** `server` has the admission, `receiver` takes the increments. */
  constructor(server: { readonly admission: Admission }, receiver: IncrementReceiver, limits: IncrementLimits) {
    this.#server = server;
    this.#receiver = receiver;
    this.#scanner = new IncrementBodyScanner({ keyBytesMax: limits.keyBytesMax });
    this.#bodyBytesMax = limits.bodyBytesMax;
    this.#lengthDigits = String(limits.bodyBytesMax).length;
    this.#bodyMemory = new BodyMemory(limits.gatheredBytesMax);
    this.#boundSentences = limits.boundSentences;
    this.#stats = limits.stats;
    this.#answers = limits.stats.of('/increment');
  }

  /** Sets the limit of bodies, at most that of the constructor, which sized the memory of unfinished bodies. */
  limitBodies(bodyBytesMax: number): void {
    this.#bodyBytesMax = bodyBytesMax;
    this.#lengthDigits = String(bodyBytesMax).length;
  }

  /** Counts an answer: 202, or a refusal. */
  count(refusal: Refusal | undefined): void {
    if (refusal === undefined) {
      this.#answers.count(202);
      return;
    }
    this.#answers.count(errorCatalogue[codeOfRefusal(refusal)].status);
    this.#stats.countRefusal(refusal);
  }

  /** Refuses requests with an unfinished body, because the rest may never arrive. */
  refuseUnread(code: ErrorCode): void {
    for (const reply of this.#unread) {
      reply.settle(code);
      this.#forgetBody(reply);
    }
  }

  /** Handles a request. `req` is valid only during the call. */
  handle(res: HttpResponse, req: HttpRequest): void {
    const idempotencyKey = req.getHeader(HEADER.idempotencyKey);
    if (this.#refusesHead(res, req, idempotencyKey)) return;
    this.inFlight += 1;
    const reply = new IncrementReply(res, this, isNdjson(req.getHeader(HEADER.contentType)), idempotencyKey);
    res.onAborted(() => {
      // The client is gone, or the parser has answered with an error because of bytes behind the body.
      if (reply.abort()) this.#receiver.withdraw(reply);
      this.#forgetBody(reply);
    });
    res.onData((chunk, isLast) => {
      if (isLast && reply.body === undefined) this.#take(new Uint8Array(chunk), reply);
      else this.#gather(chunk, isLast, reply);
    });
  }

  /** Refuses the request if its head is reason enough; true if so. */
  #refusesHead(res: HttpResponse, req: HttpRequest, idempotencyKey: string): boolean {
    const { admission } = this.#server;
    if (admission !== 'open') {
      this.count(admission);
      refuse(res, admission, REFUSAL_DETAILS[admission] ?? 'Nothing was counted.');
      return true;
    }
    const length = req.getHeader(HEADER.contentLength);
    const isChunked = length === '';
    // getHeader reads only the first line of a header, and reading all lines of every request costs too much.
    if (isChunked && !isChunkedOnly(linesOf(req, 'transfer-encoding'))) {
      this.count('invalid-request');
      // The parser takes any value for chunked, so there may be no body.
      res.cork(() => {
        writeLastReply(res, TRANSFER_ENCODING_REFUSED);
      });
      return true;
    }
    const hasEncoding = isChunked || req.getHeader(HEADER.contentEncoding) !== '';
    if (hasEncoding && !linesOf(req, 'content-encoding').every(isIdentity)) {
      this.count('unsupported-encoding');
      res.cork(() => {
        writeReply(res, ENCODING_REFUSED, false);
      });
      return true;
    }
    if (idempotencyKey !== '' && !isIdempotencyKey(idempotencyKey)) {
      this.count('invalid-request');
      refuse(res, 'invalid-request', IDEMPOTENCY_KEY_RULE);
      return true;
    }
    if (length.length >= this.#lengthDigits && Number(length) > this.#bodyBytesMax) {
      this.#refuseTooLarge(res, Number(length) > DISCARD_FACTOR * this.#bodyBytesMax);
      return true;
    }
    return false;
  }

  #refuseTooLarge(res: HttpResponse, close: boolean): void {
    this.count('body-too-large');
    const detail = `The body is longer than ${this.#bodyBytesMax} bytes; split it.`;
    const reply = problemReply('body-too-large', detail);
    res.cork(() => {
      // Discarding a long body would cost more than a new connection.
      if (close) writeLastReply(res, reply);
      else writeReply(res, reply, false);
    });
  }

  /** Collects a body that arrives in pieces. uWebSockets.js discards the rest after an early answer. */
  #gather(chunk: ArrayBuffer, isLast: boolean, reply: IncrementReply): void {
    if (reply.isOver) return;
    const body = reply.body ?? new GatheredBody(this.#bodyMemory);
    reply.body = body;
    this.#unread.add(reply);
    if (body.length + chunk.byteLength > this.#bodyBytesMax) {
      const { res } = reply;
      reply.finish();
      this.#forgetBody(reply);
      this.#refuseTooLarge(res, false);
    } else if (!body.append(new Uint8Array(chunk))) {
      reply.settle('body-bytes');
      this.#forgetBody(reply);
    } else if (isLast) {
      this.#take(body.bytes, reply);
      this.#forgetBody(reply);
    }
  }

  /** Releases an unfinished body. */
  #forgetBody(reply: IncrementReply): void {
    if (reply.body === undefined) return;
    this.#unread.delete(reply);
    reply.body.release();
    reply.body = undefined;
  }

  /** The detail of a refusal. */
  detailOf(refusal: Refusal): string {
    if (isBound(refusal)) return this.#boundSentences[refusal];
    return REFUSAL_DETAILS[refusal] ?? 'The request was refused.';
  }

  #submit(increments: ParsedIncrements, reply: IncrementReply): Refusal | undefined {
    if (reply.idempotencyKey === '') return this.#receiver.submit(increments, reply);
    return this.#receiver.submitIdempotent(reply.idempotencyKey, increments, reply);
  }

  #take(body: Uint8Array, reply: IncrementReply): void {
    if (reply.isOver) return;
    if (body.length > this.#bodyBytesMax) {
      const { res } = reply;
      reply.finish();
      this.#refuseTooLarge(res, false);
      return;
    }
    let refusal: Refusal | undefined;
    try {
      const increments = this.#scanner.scan(body, reply.ndjson);
      // The admission may have changed since the head was checked.
      const { admission } = this.#server;
      refusal = admission === 'open' ? this.#submit(increments, reply) : admission;
    } catch (error) {
      if (!(error instanceof CounterError)) throw error;
      // A compressed body whose Content-Encoding was not seen. Its first bytes are never JSON.
      if (isGzip(body)) reply.fail('unsupported-encoding', ENCODING_REFUSED);
      else reply.fail(error.code, replyOfError(error));
      return;
    }
    if (refusal !== undefined) reply.settle(refusal);
  }
}

/** A request that must be answered. */
class IncrementReply implements PendingReply {
  readonly res: HttpResponse;
  readonly ndjson: boolean;
  /** '' if the request has none. */
  readonly idempotencyKey: string;
  readonly #route: IncrementRoute;
  body: GatheredBody | undefined;
  #state: 'open' | 'aborted' | 'over' = 'open';

  constructor(res: HttpResponse, route: IncrementRoute, ndjson: boolean, idempotencyKey: string) {
    this.res = res;
    this.#route = route;
    this.ndjson = ndjson;
    this.idempotencyKey = idempotencyKey;
  }

  /** Whether the request is answered, or its client is gone. */
  get isOver(): boolean {
    return this.#state !== 'open';
  }

  settle(refusal: Refusal | undefined, replayed = false): void {
    const { res } = this;
    if (!this.finish()) return;
    this.#route.count(refusal);
    if (refusal === undefined) {
      corked = res;
      res.cork(replayed ? writeReplayed : writeCreated);
    } else refuse(res, codeOfRefusal(refusal), this.#detailOf(refusal));
  }

  #detailOf(refusal: Refusal): string {
    if (refusal === 'outcome-unknown' && this.idempotencyKey !== '') return UNKNOWN_WITH_IDEMPOTENCY_KEY;
    return this.#route.detailOf(refusal);
  }

  /** Answers with a reply other than those of {@link settle}. */
  fail(code: ErrorCode, reply: HttpReply): void {
    const { res } = this;
    if (!this.finish()) return;
    this.#route.count(code);
    res.cork(() => {
      writeReply(res, reply, false);
    });
  }

  /** The client can no longer be answered. Returns false if the request is answered. */
  abort(): boolean {
    if (this.#state !== 'open') return false;
    this.#state = 'aborted';
    this.#route.inFlight -= 1;
    return true;
  }

  /** Marks the request as answered. Returns false if it must no longer be answered. */
  finish(): boolean {
    if (this.#state !== 'open') return false;
    this.#state = 'over';
    this.#route.inFlight -= 1;
    return true;
  }
}

/** The values of all lines of a header. `name` is in lower case. */
function linesOf(req: HttpRequest, name: string): readonly string[] {
  const values: string[] = [];
  req.forEach((key, value) => {
    if (key === name) values.push(value);
  });
  return values;
}

/** Whether a line of Content-Encoding names no coding but identity. Empty members are ignored. */
function isIdentity(line: string): boolean {
  return line.split(',').every((coding) => ['', 'identity'].includes(coding.trim().toLowerCase()));
}

/** Whether Transfer-Encoding is absent, or one line with chunked. */
function isChunkedOnly(lines: readonly string[]): boolean {
  return lines.length <= 1 && lines.every((line) => line.toLowerCase() === 'chunked');
}

function isGzip(body: Uint8Array): boolean {
  return body[0] === 0x1f && body[1] === 0x8b;
}

function refuse(res: HttpResponse, code: ErrorCode, detail: string): void {
  res.cork(() => {
    writeReply(res, problemReply(code, detail), false);
  });
}
