/** Event streams over real sockets: what uWebSockets.js does with a client that does not read. */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { EventStream } from '#product/http/events/event-stream.js';
import { loadUws, type us_listen_socket, type UwsApp } from '#product/http/uws.js';
import { eventually } from '../../support/eventually.js';

describe('a client that does not read its events', () => {
  const { uws } = loadUws();
  let app: UwsApp;
  let port: number;
  let opened: EventStream | undefined;
  before(async () => {
    app = uws.App();
    app.get('/events', (res) => {
      opened = new EventStream(res);
    });
    const socket = await new Promise<us_listen_socket | false>((resolve) => app.listen('127.0.0.1', 0, 0, resolve));
    assert.ok(socket !== false);
    port = uws.us_socket_local_port(socket);
  });
  after(() => app.close());

  async function open(): Promise<{ readonly client: Socket; readonly stream: EventStream }> {
    opened = undefined;
    const client = connect(port, '127.0.0.1');
    await once(client, 'connect');
    client.on('error', () => undefined);
    client.pause();
    client.write('GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const stream = await eventually('the stream is open', async () => opened);
    return { client, stream };
  }

  test('a client that stops reading for a while gets everything once it reads again, without a further event', async () => {
    const { client, stream } = await open();
    const last = 'data: the last one\n\n';
    stream.write('x'.repeat(8_000_000));
    stream.write(last);
    let received = '';
    client.on('data', (chunk) => (received = (received + chunk.toString('latin1')).slice(-1_000)));
    client.resume();
    await eventually('the last event', async () => received.includes(last));
    assert.equal(stream.isOver, false);
    client.destroy();
    await eventually('the stream is over', async () => stream.isOver);
  });

  test('a client that never reads is closed, and what is held for it is bounded', async () => {
    const { client, stream } = await open();
    const piece = 'x'.repeat(16_384);
    let written = 0;
    await eventually('the stream is over', async () => {
      for (let times = 0; times < 100 && !stream.isOver; times += 1, written += piece.length) stream.write(piece);
      return stream.isOver;
    });
    // The buffers of the system, and 64 KiB.
    assert.ok(written < 20_000_000, String(written));
    client.resume();
    await eventually('the connection is closed', async () => client.destroyed);
  });
});
