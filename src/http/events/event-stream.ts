/**
 * Streams of server-sent events. HTTP thread.
 *
 * ```text
 * open ──end()──────────────────────────► over      a stop, or the owner has nothing more to say
 *   ├──the client has gone──────────────► over
 *   └──64 KiB behind a full socket──────► over      the client does not read
 * ```
 */
import type { RouteStats } from '../request-stats.js';
import type { HttpResponse } from '../uws.js';
import type { SharedWatchers } from '../request-stats.js';
import { Phases } from './phases.js';

/** The media type of server-sent events. */
export const EVENTS_MEDIA_TYPE = 'text/event-stream';

/** Most bytes written to a client with a full socket. */
const UNREAD_BYTES_MAX = 65_536;

/** A comment is written this often, so that proxies and clients keep the stream open. */
const COMMENT_MS = 15_000;
const COMMENT = ':\n\n';

/** How often streams are checked. */
const BEAT_MS = 1_000;

/** How long a browser waits before it connects again, in ms. */
const RECONNECT_MS = 1_000;

/** One open stream. */
export class EventStream {
  readonly #res: HttpResponse;
  readonly #whenOver: (() => void)[] = [];
  #isOver = false;
  /** True while the socket has bytes that it could not take. */
  #isBlocked = false;
  #unreadBytes = 0;
  #commentDueAtMs = performance.now() + COMMENT_MS;

  /** Writes the head. */
  constructor(res: HttpResponse) {
    this.#res = res;
    res.onAborted(() => {
      this.#finish();
    });
    res.onWritable(() => {
      // uWebSockets.js sends its unsent bytes only with another write.
      this.#isBlocked = !res.write(COMMENT);
      // Its unsent bytes count towards the 64 KiB until all are sent.
      if (!this.#isBlocked) this.#unreadBytes = 0;
      return true;
    });
    res.cork(() => {
      writeHead(res);
      this.#isBlocked = !res.write(`retry: ${RECONNECT_MS}\n\n`);
    });
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Calls `whenOver` once the stream is over. Call it in the turn that opens the stream. */
  onOver(whenOver: () => void): void {
    this.#whenOver.push(whenOver);
  }

  /** Writes events made by {@link eventText}. Closes the connection of a client that does not read. */
  write(events: string | Uint8Array): void {
    if (this.#isOver) return;
    if (this.#isBlocked) {
      this.#unreadBytes += typeof events === 'string' ? Buffer.byteLength(events) : events.length;
      if (this.#unreadBytes > UNREAD_BYTES_MAX) {
        // Calls onAborted.
        this.#res.close();
        return;
      }
    }
    this.#res.cork(() => {
      if (!this.#res.write(events)) this.#isBlocked = true;
    });
  }

  /** Writes a comment if one is due. Call it once a second. `nowMs`: of `performance.now()`. */
  tick(nowMs: number): void {
    if (nowMs < this.#commentDueAtMs) return;
    this.#commentDueAtMs = nowMs + COMMENT_MS;
    this.write(COMMENT);
  }

  /** Ends the stream cleanly. */
  end(): void {
    if (this.#isOver) return;
    this.#finish();
    this.#res.cork(() => {
      this.#res.end();
    });
  }

  #finish(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const whenOver of this.#whenOver) whenOver();
  }
}

/** The open streams of an HTTP server. */
export class EventStreams {
  readonly #watchers: SharedWatchers;
  readonly #watchersMax: number;
  /** Whether the client of a stream is still permitted. */
  readonly #permitted = new Map<EventStream, () => boolean>();
  readonly #streams = new Phases<EventStream>((streams) => {
    // Half an interval early, because the next tick would be half an interval late.
    for (const stream of streams) stream.tick(performance.now() + BEAT_MS / 2);
  });

  /** `watchersMax` is MAX_WATCHERS; `watchers` counts the streams of all HTTP servers. */
  constructor(watchers: SharedWatchers, watchersMax: number) {
    this.#watchers = watchers;
    this.#watchersMax = watchersMax;
  }

  /** Opens a stream; undefined if MAX_WATCHERS streams are open. `isPermitted`: whether the client is still permitted. */
  open(res: HttpResponse, stats: RouteStats, isPermitted: () => boolean): EventStream | undefined {
    if (!this.#watchers.take(this.#watchersMax)) return undefined;
    const stream = new EventStream(res);
    stream.onOver(() => {
      this.#watchers.release();
      this.#streams.delete(stream);
      this.#permitted.delete(stream);
    });
    this.#permitted.set(stream, isPermitted);
    stats.count(200);
    this.#streams.add(stream);
    return stream;
  }

  /** Whether MAX_WATCHERS streams are open. */
  get isFull(): boolean {
    return this.#watchers.open >= this.#watchersMax;
  }

  /** Ends the streams whose clients may no longer have them. */
  endRefused(): void {
    for (const [stream, isPermitted] of [...this.#permitted]) if (!isPermitted()) stream.end();
  }

  /** Ends all streams. */
  end(): void {
    for (const stream of this.#streams.all()) stream.end();
  }
}

/** Answers a HEAD request like the GET of a stream. */
export function writeStreamHead(res: HttpResponse, stats: RouteStats): void {
  stats.count(200);
  res.cork(() => {
    writeHead(res);
    res.endWithoutBody();
  });
}

/** The text of an event. `data` is one line. */
export function eventText(event: string, data: string): string {
  return `event: ${event}\ndata: ${data}\n\n`;
}

function writeHead(res: HttpResponse): void {
  res.writeStatus('200 OK');
  res.writeHeader('content-type', EVENTS_MEDIA_TYPE).writeHeader('cache-control', 'no-store');
  // Otherwise nginx would buffer events.
  res.writeHeader('x-accel-buffering', 'no');
}
