/**
 * A TCP proxy in front of PostgreSQL that makes the network fail on a test's command.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { freePort } from './free-port.js';

/** What happens to a piece of the client's bytes. */
export type ClientDataFate =
  | 'forward'
  /** Both ends are reset before the server gets it. */
  | 'cut-before'
  /** The server gets it; both ends are reset at once. */
  | 'cut-after'
  /** The server gets it; both ends are reset when its answer arrives at the proxy. The client never gets the answer. */
  | 'lose-answer'
  /** The server gets it; from then on nothing passes in either direction, without any error. */
  | 'blackhole'
  /** The server never gets it; from then on nothing passes in either direction, without any error. */
  | 'swallow'
  /**
   * Lost, as a packet that is too large for a link whose router says nothing about it. TCP cannot deliver what the client
   * sends after it, its orderly end included. The server's bytes pass, and so does a reset.
   */
  | 'lose-packet';

/** Decides on each piece of the client's bytes. */
export type ClientDataRule = (bytes: Buffer) => ClientDataFate;

interface Link {
  readonly client: Socket;
  readonly server: Socket;
  losing: boolean;
  dead: boolean;
  /** A packet of the client is lost. */
  holed: boolean;
}

const forwardAll: ClientDataRule = () => 'forward';

/** The proxy; its address stays the same while it refuses connections. */
export class TcpProxy {
  readonly #target: { readonly host: string; readonly port: number };
  readonly #links = new Set<Link>();
  #server: Server | undefined;
  readonly #port: number;
  #rule: ClientDataRule = forwardAll;
  /** How often the rule returned anything but `forward`. */
  faults = 0;
  /** Every piece of either side's bytes is delayed by this many ms. */
  delayMs = 0;

  private constructor(host: string, port: number, own: number) {
    this.#target = { host, port };
    this.#port = own;
  }

  /** Starts in front of the host and port of `url`. */
  static async start(url: string): Promise<TcpProxy> {
    const { hostname, port } = new URL(url);
    const proxy = new TcpProxy(hostname, Number(port), await freePort());
    await proxy.accept();
    return proxy;
  }

  /** `url` with the proxy's address. */
  urlOf(url: string): string {
    const rewritten = new URL(url);
    rewritten.hostname = '127.0.0.1';
    rewritten.port = String(this.#port);
    return rewritten.href;
  }

  /** Applies to the following pieces; without a rule everything passes. */
  setRule(rule: ClientDataRule = forwardAll): void {
    this.#rule = rule;
  }

  /** Current connections, including those that silently drop everything. */
  get connections(): number {
    return this.#links.size;
  }

  /** Accepts connections, again on the same port. */
  async accept(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer({ allowHalfOpen: true }, (client) => this.#link(client));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
  }

  /** Resets every connection and refuses new ones. */
  async refuse(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => {
      if (server === undefined) resolve();
      else server.close(() => resolve());
    });
    this.cut();
    await closed;
  }

  /** Resets every connection. */
  cut(): void {
    for (const link of this.#links) this.#reset(link);
  }

  async close(): Promise<void> {
    await this.refuse();
  }

  #link(client: Socket): void {
    const server = connect({ ...this.#target, allowHalfOpen: true });
    const link: Link = { client, server, losing: false, dead: false, holed: false };
    this.#links.add(link);
    client.on('data', (bytes) => this.#fromClient(link, bytes));
    server.on('data', (bytes) => {
      if (link.losing) this.#reset(link);
      else this.#pass(link, server, client, bytes);
    });
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.on('end', () => {
        if (!link.dead && !(link.holed && from === client)) this.#later(() => to.end());
      });
      from.on('error', () => this.#reset(link));
      from.on('close', () => {
        if (link.holed && from === client) return;
        this.#links.delete(link);
        if (!link.dead) this.#later(() => to.destroy());
      });
    }
  }

  #fromClient(link: Link, bytes: Buffer): void {
    if (link.holed) return;
    const fate = link.dead ? 'forward' : this.#rule(bytes);
    if (fate !== 'forward') this.faults += 1;
    switch (fate) {
      case 'cut-before':
        this.#reset(link);
        return;
      case 'cut-after':
        link.server.write(bytes, () => this.#reset(link));
        return;
      case 'lose-answer':
        link.losing = true;
        link.server.write(bytes);
        return;
      case 'blackhole':
        link.server.write(bytes);
        link.dead = true;
        return;
      case 'swallow':
        link.dead = true;
        return;
      case 'lose-packet':
        link.holed = true;
        return;
      case 'forward':
        this.#pass(link, link.client, link.server, bytes);
    }
  }

  #pass(link: Link, from: Socket, to: Socket, bytes: Buffer): void {
    if (link.dead) return;
    this.#later(() => {
      if (to.destroyed || link.dead) return;
      if (to.write(bytes)) return;
      from.pause();
      to.once('drain', () => from.resume());
    });
  }

  #later(action: () => void): void {
    if (this.delayMs === 0) action();
    else setTimeout(action, this.delayMs);
  }

  #reset(link: Link): void {
    this.#links.delete(link);
    link.client.resetAndDestroy();
    link.server.resetAndDestroy();
  }
}

/** True for a piece of a client's bytes that runs a flush, with idempotency keys or without. */
export function asksForFlush(bytes: Buffer): boolean {
  // Bind: 'B', length, portal name, statement name. The portal's name is empty.
  return bytes.includes('\0flush\0') || bytes.includes('\0flush-with-tokens\0');
}
