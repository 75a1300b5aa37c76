import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BodyMemory, GatheredBody } from '#product/http/gathered-body.js';

function bytesOf(text: string): Uint8Array {
  return Buffer.from(text);
}

test('a body is the concatenation of its pieces, of any size', () => {
  const body = new GatheredBody(new BodyMemory(1_000_000));
  const pieces = ['', 'a', 'b'.repeat(1023), 'c'.repeat(5000), 'd', 'e'.repeat(100_000)];
  for (const piece of pieces) assert.ok(body.append(bytesOf(piece)));
  assert.equal(Buffer.from(body.bytes).toString(), pieces.join(''));
  assert.equal(body.length, pieces.join('').length);
});

test('a piece is refused if there is no memory for it, and the body is unchanged', () => {
  const memory = new BodyMemory(4096);
  const body = new GatheredBody(memory);
  assert.ok(body.append(bytesOf('x'.repeat(2048))));
  assert.equal(memory.free, 2048);
  assert.equal(body.append(bytesOf('y'.repeat(2049))), false);
  assert.equal(Buffer.from(body.bytes).toString(), 'x'.repeat(2048));
  assert.equal(memory.free, 2048);
  assert.ok(body.append(bytesOf('y'.repeat(2048))));
  assert.equal(memory.free, 0);
});

test('bodies share the memory, and a body can use what another has released', () => {
  const memory = new BodyMemory(4096);
  const bodies = Array.from({ length: 4 }, () => new GatheredBody(memory));
  for (const body of bodies) assert.ok(body.append(bytesOf('z')));
  const late = new GatheredBody(memory);
  assert.equal(late.append(bytesOf('z')), false);
  bodies[0]?.release();
  assert.equal(bodies[0]?.length, 0);
  assert.ok(late.append(bytesOf('z')));
  for (const body of [...bodies, late]) body.release();
  assert.equal(memory.free, 4096);
});
