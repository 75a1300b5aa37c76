import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exactJson } from '#product/http/exact-json.js';

test('integers of any size are literals, whether numbers or bigints', () => {
  const document = { a: 0, b: -7, c: 2n ** 200n, d: [-(10n ** 30n), 9007199254740991] };
  const text = `{"a":0,"b":-7,"c":${2n ** 200n},"d":[-1${'0'.repeat(30)},9007199254740991]}`;
  assert.equal(exactJson<{ a: number; b: number; c: number; d: number[] }>(document), text);
});

test('everything else is as JSON.stringify writes it, and what is undefined is left out', () => {
  const document = {
    text: 'quote " backslash \\ \u0001 \ud800 é 😀',
    none: null,
    yes: true,
    list: [{ key: '__proto__' }, []],
    left: undefined,
    'odd "name"': '',
  };
  assert.equal(exactJson(document), JSON.stringify(document));
});
