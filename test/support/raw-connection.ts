/**
 * A TCP connection on which a test controls every byte: bodies in pieces, pipelined requests, requests that never end.
 */
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';

/** An answer as received. */
export interface RawAnswer {
  readonly status: number;
  /** By name in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** Timeout of every wait here, in ms. */
const TIMEOUT_MS = 10_000;

/** One connection. */
export class RawConnection {
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #closed = false;
  #wake: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    // Every piece is a TCP segment of its own.
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#notify();
    });
    // A reset shows as closed.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#closed = true;
      this.#notify();
    });
  }

  /** Connects to the host and port of `base`. */
  static async open(base: string): Promise<RawConnection> {
    const { hostname, port } = new URL(base);
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    return new RawConnection(socket);
  }

  /** True once the other side has closed. */
  get isClosed(): boolean {
    return this.#closed;
  }

  /** Sends these bytes; settles when the system has taken them. */
  write(bytes: string | Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }

  /** The next complete answer; `head`: to a HEAD request, so without a body. Rejects if the connection closes first. */
  async answer(head = false): Promise<RawAnswer> {
    for (const deadline = performance.now() + TIMEOUT_MS; ;) {
      const answer = this.#take(head);
      if (answer !== undefined) return answer;
      if (this.#closed) throw new Error(`closed before an answer: ${this.#received.toString()}`);
      await this.#change(deadline, 'an answer');
    }
  }

  /** Waits until the other side closes; {@link answer} can still read the bytes received meanwhile. */
  async closed(): Promise<void> {
    for (const deadline = performance.now() + TIMEOUT_MS; !this.#closed;) await this.#change(deadline, 'the end');
  }

  /** Closes this side with a reset, like a client that dies. */
  abort(): void {
    this.#socket.resetAndDestroy();
  }

  /** Closes this side. */
  close(): void {
    this.#socket.destroy();
  }

  #take(head: boolean): RawAnswer | undefined {
    const end = this.#received.indexOf('\r\n\r\n');
    if (end < 0) return undefined;
    const [statusLine = '', ...lines] = this.#received.subarray(0, end).toString('latin1').split('\r\n');
    const headers = new Map(
      lines.map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
      }),
    );
    const length = head ? 0 : Number(headers.get('content-length') ?? 0);
    if (this.#received.length < end + 4 + length) return undefined;
    const body = this.#received.subarray(end + 4, end + 4 + length).toString('utf8');
    this.#received = this.#received.subarray(end + 4 + length);
    return { status: Number(statusLine.split(' ')[1]), headers, body };
  }

  async #change(deadline: number, what: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((_, reject) => {
      const error = new Error(`waited too long for ${what}: ${this.#received.toString()}`);
      timer = setTimeout(() => reject(error), Math.max(1, deadline - performance.now()));
    });
    try {
      await Promise.race([new Promise<void>((resolve) => this.#wake.push(resolve)), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}
