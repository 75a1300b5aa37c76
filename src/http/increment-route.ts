/**
 * POST /increment, the hot path: body bytes to the receiver, 202 when everything is in the journal. Front-end thread.
 *
 * A body that comes in one piece is scanned where it lies; what outlives the callback is copied by the receiver. Replies
 * are written in a cork each, through one function that is not made anew per request.
 */
import { nativeText, type HttpRequest, type HttpResponse } from './uws.js';
import { CounterError, type ErrorCode } from '../core/errors.js';
import type { Admission, IncrementReceiver, ParsedIncrements, PendingReply } from '../core/increment.js';
import { BodyMemory, GatheredBody } from './gathered-body.js';
import { problemReply, replyOfError, writeReply } from './reply.js';
import { isIdempotencyKey, IDEMPOTENCY_KEY_RULE } from './request-parameters.js';
import { IncrementBodyScanner, isNdjson } from './scanner/increment-body-scanner.js';

/** A body longer than this many times the limit ends its connection. */
const DISCARD_FACTOR = 8;

const REFUSAL_DETAILS: Partial<Record<ErrorCode, string>> = {
  overloaded:
    'Pending keys or bytes, journal room, memory for bodies or the in-flight window are exhausted. Nothing was counted.',
  starting: 'The server is recovering. Nothing was counted.',
  draining: 'The server is shutting down. Nothing was counted.',
  'journal-unavailable': 'The journal refused the request. Nothing was counted.',
  'idempotency-mismatch': 'The token was used with other content, which stays counted. This request was not counted.',
  'outcome-unknown': 'Some of the request may have been counted. A retry may count it again.',
};
const UNKNOWN_WITH_IDEMPOTENCY_KEY =
  'The request may have been counted. A retry with the same Idempotency-Key counts it once.';

/** Limits of a body. */
export interface IncrementLimits {
  readonly bodyBytesMax: number;
  readonly keyBytesMax: number;
  /** Of all bodies together that have come in part. */
  readonly gatheredBytesMax: number;
}

const HEADER = {
  idempotencyKey: nativeText('idempotency-key'),
  contentEncoding: nativeText('content-encoding'),
  contentLength: nativeText('content-length'),
  contentType: nativeText('content-type'),
} as const;

// A status line is written as it is given, so the header can ride on it: one call into C++ less for each reply.
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

/** The route of one HTTP server. */
export class IncrementRoute {
  readonly #server: { readonly admission: Admission };
  readonly #receiver: IncrementReceiver;
  readonly #scanner: IncrementBodyScanner;
  readonly #bodyBytesMax: number;
  /** Digits of that: a shorter length needs no closer look. */
  readonly #lengthDigits: number;
  readonly #bodyMemory: BodyMemory;
  /** Requests whose body is being read or whose outcome is awaited. */
  inFlight = 0;
  /** Requests whose body has come in part. */
  readonly #unread = new Set<IncrementReply>();

  /** `server` says whether increments are taken, `receiver` takes them. */
  constructor(server: { readonly admission: Admission }, receiver: IncrementReceiver, limits: IncrementLimits) {
    this.#server = server;
    this.#receiver = receiver;
    this.#scanner = new IncrementBodyScanner({ keyBytesMax: limits.keyBytesMax });
    this.#bodyBytesMax = limits.bodyBytesMax;
    this.#lengthDigits = String(limits.bodyBytesMax).length;
    this.#bodyMemory = new BodyMemory(limits.gatheredBytesMax);
  }

  /** Refuses the requests whose body has come in part: it may be long until the rest does. */
  refuseUnread(code: ErrorCode): void {
    for (const reply of this.#unread) {
      reply.settle(code);
      this.#forgetBody(reply);
    }
  }

  /** Handles a request; `req` is valid only during the call. */
  handle(res: HttpResponse, req: HttpRequest): void {
    const token = req.getHeader(HEADER.idempotencyKey);
    if (this.#refusesHead(res, req, token)) return;
    this.inFlight += 1;
    const reply = new IncrementReply(res, this, isNdjson(req.getHeader(HEADER.contentType)), token);
    res.onAborted(() => {
      reply.abort();
      this.#forgetBody(reply);
    });
    res.onData((chunk, isLast) => {
      if (isLast && reply.body === undefined) this.#take(new Uint8Array(chunk), reply);
      else this.#gather(chunk, isLast, reply);
    });
  }

  /** Refuses what the head alone shows to be refused; true if it was. */
  #refusesHead(res: HttpResponse, req: HttpRequest, token: string): boolean {
    const { admission } = this.#server;
    if (admission !== 'open') {
      refuse(res, admission, REFUSAL_DETAILS[admission] ?? 'Nothing was counted.');
      return true;
    }
    const encoding = req.getHeader(HEADER.contentEncoding);
    if (encoding !== '' && !isIdentity(req, encoding)) {
      refuse(res, 'unsupported-encoding', 'Only the identity content encoding is understood.');
      return true;
    }
    if (token !== '' && !isIdempotencyKey(token)) {
      refuse(res, 'invalid-request', IDEMPOTENCY_KEY_RULE);
      return true;
    }
    const length = req.getHeader(HEADER.contentLength);
    if (length.length >= this.#lengthDigits && Number(length) > this.#bodyBytesMax) {
      this.#refuseTooLarge(res, Number(length) > DISCARD_FACTOR * this.#bodyBytesMax);
      return true;
    }
    return false;
  }

  #refuseTooLarge(res: HttpResponse, close: boolean): void {
    const detail = `The body is longer than ${this.#bodyBytesMax} bytes.`;
    const reply = problemReply('body-too-large', detail);
    res.cork(() => {
      if (close) {
        // Discarding this much would cost more than the connection is worth.
        res.writeStatus('413 Content Too Large').writeHeader('content-type', reply.contentType).end(reply.body, true);
      } else writeReply(res, reply, false);
    });
  }

  /** Collects a body that comes in pieces; uWebSockets.js discards what follows an early answer. */
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
      reply.settle('overloaded');
      this.#forgetBody(reply);
    } else if (isLast) {
      this.#take(body.bytes, reply);
      this.#forgetBody(reply);
    }
  }

  /** What is needed of a body is copied before this, or not needed any more. */
  #forgetBody(reply: IncrementReply): void {
    if (reply.body === undefined) return;
    this.#unread.delete(reply);
    reply.body.release();
    reply.body = undefined;
  }

  #submit(increments: ParsedIncrements, reply: IncrementReply): ErrorCode | undefined {
    if (reply.token === '') return this.#receiver.submit(increments, reply);
    return this.#receiver.submitIdempotent(reply.token, increments, reply);
  }

  #take(body: Uint8Array, reply: IncrementReply): void {
    if (reply.isOver) return;
    if (body.length > this.#bodyBytesMax) {
      const { res } = reply;
      reply.finish();
      this.#refuseTooLarge(res, false);
      return;
    }
    let refusal: ErrorCode | undefined;
    try {
      const increments = this.#scanner.scan(body, reply.ndjson);
      // The server may have closed to increments while the body was on its way.
      const { admission } = this.#server;
      refusal = admission === 'open' ? this.#submit(increments, reply) : admission;
    } catch (error) {
      if (!(error instanceof CounterError)) throw error;
      reply.fail(error);
      return;
    }
    if (refusal !== undefined) reply.settle(refusal);
  }
}

/** A request whose answer is due. */
class IncrementReply implements PendingReply {
  readonly res: HttpResponse;
  readonly ndjson: boolean;
  /** '' where the request has none. */
  readonly token: string;
  readonly #route: IncrementRoute;
  body: GatheredBody | undefined;
  #state: 'open' | 'aborted' | 'over' = 'open';

  constructor(res: HttpResponse, route: IncrementRoute, ndjson: boolean, token: string) {
    this.res = res;
    this.#route = route;
    this.ndjson = ndjson;
    this.token = token;
  }

  /** True where no answer can be given any more. */
  get isOver(): boolean {
    return this.#state !== 'open';
  }

  settle(refusal: ErrorCode | undefined, replayed = false): void {
    const { res } = this;
    if (!this.finish()) return;
    if (refusal === undefined) {
      corked = res;
      res.cork(replayed ? writeReplayed : writeCreated);
    } else refuse(res, refusal, this.#detailOf(refusal));
  }

  #detailOf(refusal: ErrorCode): string {
    if (refusal === 'outcome-unknown' && this.token !== '') return UNKNOWN_WITH_IDEMPOTENCY_KEY;
    return REFUSAL_DETAILS[refusal] ?? 'The request was refused.';
  }

  /** Answers with an error of the catalogue. */
  fail(error: CounterError): void {
    const { res } = this;
    if (!this.finish()) return;
    res.cork(() => {
      writeReply(res, replyOfError(error), false);
    });
  }

  /** The client went away. */
  abort(): void {
    if (this.#state !== 'open') return;
    this.#state = 'aborted';
    this.#route.inFlight -= 1;
  }

  /** Takes the right to answer; false where there is no one to answer. */
  finish(): boolean {
    if (this.#state !== 'open') return false;
    this.#state = 'over';
    this.#route.inFlight -= 1;
    return true;
  }
}

/** Whether every Content-Encoding of the head says identity; `first` is what the first one says. */
function isIdentity(req: HttpRequest, first: string): boolean {
  const values = [first];
  req.forEach((name, value) => {
    if (name === 'content-encoding') values.push(value);
  });
  return values.every((value) => value.split(',').every((coding) => coding.trim().toLowerCase() === 'identity'));
}

function refuse(res: HttpResponse, code: ErrorCode, detail: string): void {
  res.cork(() => {
    writeReply(res, problemReply(code, detail), false);
  });
}
