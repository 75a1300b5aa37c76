import assert from 'node:assert/strict';
import { test } from 'node:test';
import { documentReply } from '#product/http/reply.js';

test('integers of any size are literals, whether numbers or bigints', () => {
  const document = { a: 0, b: -7, c: 2n ** 200n, d: [-(10n ** 30n), 9007199254740991] };
  const text = `{"a":0,"b":-7,"c":${2n ** 200n},"d":[-1${'0'.repeat(30)},9007199254740991]}`;
  assert.equal(documentReply<{ a: number; b: number; c: number; d: number[] }>(document).body, text);
});

test('all other values are as JSON.stringify writes them, and undefined members are left out', () => {
  const document = {
    text: 'quote " backslash \\ \u0001 \ud800 é 😀',
    none: null,
    yes: true,
    list: [{ key: '__proto__' }, []],
    left: undefined,
    'odd "name"': '',
  };
  assert.equal(documentReply(document).body, JSON.stringify(document));
});
