/** A client of server-sent events, which reads as a browser does. */
import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { eventually, PATIENCE_MS } from './eventually.js';

/** An event as received. */
export interface ReceivedEvent {
  readonly event: string;
  readonly data: string;
  /** On the clock of `performance.now()`. */
  readonly atMs: number;
}

/** One open stream. */
export class EventReader {
  readonly #response: IncomingMessage;
  readonly events: ReceivedEvent[] = [];
  /** Comment lines. */
  comments = 0;
  #buffer = '';
  #end: 'open' | 'ended' | 'cut' = 'open';

  private constructor(response: IncomingMessage) {
    this.#response = response;
    response.setEncoding('utf8');
    response.on('data', (text: string) => this.#take(text));
    response.on('end', () => (this.#end = 'ended'));
    response.on('error', () => (this.#end = 'cut'));
  }

  /** Opens a stream; rejects where the answer is none. */
  static async open(base: string, path: string, headers: Readonly<Record<string, string>> = {}): Promise<EventReader> {
    const outgoing = request(new URL(path, base), { headers, agent: false });
    outgoing.end();
    // Typed by node:http: the event has one argument, the response.
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    const type = response.headers['content-type'];
    if (response.statusCode === 200 && type === 'text/event-stream') return new EventReader(response);
    let body = '';
    for await (const chunk of response) body += String(chunk);
    throw new Error(`${response.statusCode} ${type}: ${body}`);
  }

  /** `ended`: the server has ended the stream in good order; `cut`: the connection was closed. */
  get end(): 'open' | 'ended' | 'cut' {
    return this.#end;
  }

  /** The data of all events of a counter so far. */
  of(key: string): readonly string[] {
    const prefix = `{"key":${JSON.stringify(key)},`;
    return this.events.filter(({ data }) => data.startsWith(prefix)).map(({ data }) => data);
  }

  /** The sums of a counter so far, as text. */
  sums(key: string): readonly string[] {
    return this.of(key).map((data) => /"sum":([^,]*)/.exec(data)?.[1] ?? '');
  }

  /** Waits until the last sum of a counter is `sum`. Resolves to the time of that event. */
  async until(key: string, sum: string, ms = PATIENCE_MS): Promise<number> {
    await eventually(`${key} is ${sum}`, async () => this.sums(key).at(-1) === sum, ms);
    return this.events.findLast(({ data }) => data.startsWith(`{"key":${JSON.stringify(key)},`))?.atMs ?? 0;
  }

  /** Stops reading; the socket fills up. */
  pause(): void {
    this.#response.pause();
  }

  resume(): void {
    this.#response.resume();
  }

  close(): void {
    this.#response.destroy();
  }

  #take(text: string): void {
    this.#buffer += text;
    for (let end = this.#buffer.indexOf('\n\n'); end >= 0; end = this.#buffer.indexOf('\n\n')) {
      this.#takeBlock(this.#buffer.slice(0, end));
      this.#buffer = this.#buffer.slice(end + 2);
    }
  }

  #takeBlock(block: string): void {
    let event = 'message';
    const data: string[] = [];
    for (const line of block.split('\n')) {
      if (line.startsWith(':')) this.comments += 1;
      else if (line.startsWith('event: ')) event = line.slice('event: '.length);
      else if (line.startsWith('data: ')) data.push(line.slice('data: '.length));
    }
    if (data.length > 0) this.events.push({ event, data: data.join('\n'), atMs: performance.now() });
  }
}
