import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventStream } from '#product/http/events/event-stream.js';
import type { HttpResponse } from '#product/http/uws.js';

/** A socket that takes bytes or not, as the test says; only what a stream uses. */
class Socket {
  takes = true;
  written = '';
  isClosed = false;
  isEnded = false;
  aborted = (): void => undefined;
  writable = (): boolean => true;

  onAborted(handler: () => void): this {
    this.aborted = handler;
    return this;
  }
  onWritable(handler: () => boolean): this {
    this.writable = handler;
    return this;
  }
  cork(handler: () => void): this {
    handler();
    return this;
  }
  writeStatus(): this {
    return this;
  }
  writeHeader(): this {
    return this;
  }
  write(text: string): boolean {
    this.written += text;
    return this.takes;
  }
  end(): this {
    this.isEnded = true;
    return this;
  }
  close(): this {
    this.isClosed = true;
    this.aborted();
    return this;
  }
}

function open(): { readonly socket: Socket; readonly stream: EventStream; readonly over: () => number } {
  const socket = new Socket();
  let over = 0;
  const stream = new EventStream(socket as unknown as HttpResponse);
  stream.onOver(() => (over += 1));
  socket.written = '';
  return { socket, stream, over: () => over };
}

test('a client is closed when more than 64 KiB have been written since its socket stopped taking them', () => {
  const { socket, stream, over } = open();
  socket.takes = false;
  // This write is the one that the socket did not take whole.
  stream.write('x'.repeat(100_000));
  stream.write('ü'.repeat(16_384));
  stream.write('x'.repeat(32_768));
  assert.deepEqual([socket.isClosed, over()], [false, 0]);
  stream.write(Buffer.from('x'));
  assert.deepEqual([socket.isClosed, over(), stream.isOver], [true, 1, true]);
  stream.write('more');
  stream.end();
  assert.ok(!socket.written.includes('more'));
  assert.deepEqual([socket.isEnded, over()], [false, 1]);
});

test('a socket that has taken a part only does not begin at zero, and each time it is given more', () => {
  const { socket, stream, over } = open();
  socket.takes = false;
  stream.write('begins');
  stream.write('x'.repeat(40_000));
  socket.written = '';
  socket.writable();
  // Without a write uWebSockets.js would keep what it holds.
  assert.equal(socket.written, ':\n\n');
  stream.write('x'.repeat(40_000));
  assert.equal(over(), 1);
});

test('a socket that has taken everything begins at zero', () => {
  const { socket, stream } = open();
  for (let round = 0; round < 3; round += 1) {
    socket.takes = false;
    stream.write('begins');
    stream.write('x'.repeat(65_536));
    socket.takes = true;
    socket.writable();
    stream.write('x'.repeat(200_000));
  }
  assert.equal(socket.isClosed, false);
});

test('a comment is written every 15 seconds, and none after the end', () => {
  const { socket, stream, over } = open();
  const began = performance.now();
  for (let second = 1; second <= 46; second += 1) stream.tick(began + second * 1_000);
  assert.equal(socket.written, ':\n\n'.repeat(3));
  stream.end();
  assert.deepEqual([socket.isEnded, over()], [true, 1]);
  for (let second = 47; second <= 70; second += 1) stream.tick(began + second * 1_000);
  assert.equal(socket.written, ':\n\n'.repeat(3));
});
