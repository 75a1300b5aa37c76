import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { sumOf } from '../../support/counters.js';
import { increment, type RequestOptions } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';

const LARGEST = 9007199254740991;
const ndjson = (contentType = 'application/x-ndjson'): RequestOptions => ({ headers: { 'content-type': contentType } });

describe('POST /increment', () => {
  const node = new SuiteServer({ MAX_KEY_BYTES: '64' });
  let made = 0;
  /** A key that no other test uses. */
  const fresh = (name: string): string => `${name}-${(made += 1)}`;

  async function assertCounted(body: string | Uint8Array, sums: Readonly<Record<string, bigint>>, options = {}) {
    assertCreated(await increment(node.url, body, options));
    for (const [key, sum] of Object.entries(sums)) assert.equal(await sumOf(node.url, key), sum, key);
  }

  /** Asserts a refusal, and that the valid part of the body was not counted either. */
  async function assertRefused(body: string | Uint8Array, options = {}, bystander?: string): Promise<string> {
    const detail = assertProblem(await increment(node.url, body, options), 'invalid-request');
    if (bystander !== undefined) assert.equal(await sumOf(node.url, bystander), undefined, detail);
    return detail;
  }

  test('one increment is answered 202, text/plain, "created", and is counted', async () => {
    await assertCounted('{"page:/home": 1}', { 'page:/home': 1n });
  });

  test('each of several increments in one body is counted', async () => {
    const [a, b, c] = [fresh('a'), fresh('b'), fresh('c')];
    await assertCounted(JSON.stringify({ [a]: 1, [b]: -2, [c]: 40 }), { [a]: 1n, [b]: -2n, [c]: 40n });
  });

  test('a key that occurs twice counts twice', async () => {
    const key = fresh('twice');
    await assertCounted(`{"${key}":1,"${key}":2}`, { [key]: 3n });
    await assertCounted(`{"${key}":1,"other-${key}":7,"${key}":-5}`, { [key]: -1n, [`other-${key}`]: 7n });
  });

  test('__proto__, constructor, spaces, emoji, quotes, control characters and dots are ordinary keys', async () => {
    const keys = [
      '__proto__',
      'constructor',
      'toString',
      ' ',
      '  two  ',
      '😀',
      'é',
      '"\\',
      '\u0001',
      '\u007f',
      '.',
      '..',
    ];
    for (const key of [...keys, '/', '?', '#', '%', '+', '&=', '\uffff', '\u2028', 'null', '0']) {
      assertCreated(await increment(node.url, `{${JSON.stringify(key)}:5}`));
      assert.equal(await sumOf(node.url, key), 5n, JSON.stringify(key));
    }
  });

  test('a key written with escapes is the same key', async () => {
    const key = fresh('é😀');
    const escaped = Array.from({ length: key.length }, (_, index) => unicodeEscape(key.charCodeAt(index)));
    await assertCounted(`{"${escaped.join('')}":1,"${key}":1}`, { [key]: 2n });
  });

  test('a key has 1 to MAX_KEY_BYTES bytes of UTF-8', async () => {
    await assertCounted('{"k":1}', { k: 1n });
    await assertCounted(`{"${'k'.repeat(64)}":1}`, { ['k'.repeat(64)]: 1n });
    await assertCounted(`{"${'😀'.repeat(16)}":1}`, { ['😀'.repeat(16)]: 1n });
    await assertRefused('{"bystander-1":1,"":1}', {}, 'bystander-1');
    await assertRefused(`{"bystander-1":1,"${'k'.repeat(65)}":1}`, {}, 'bystander-1');
    await assertRefused(`{"bystander-1":1,"${'😀'.repeat(16)}k":1}`, {}, 'bystander-1');
  });

  test('U+0000 and unpaired surrogates are not allowed in keys', async () => {
    for (const key of ['\\u0000', 'a\\u0000b', '\\ud800', '\\udc00', '\\ud800\\u0041', '\\udc00\\ud800']) {
      await assertRefused(`{"bystander-2":1,"${key}":1}`, {}, 'bystander-2');
    }
    await assertRefused(
      Buffer.concat([Buffer.from('{"bystander-2":1,"'), Buffer.from([0xed, 0xa0, 0x80, 0x22]), Buffer.from(':1}')]),
    );
    await assertRefused(Buffer.from('{"bystander-2":1,"\xff":1}', 'latin1'), {}, 'bystander-2');
    await assertRefused(Buffer.from('{"bystander-2":1,"\0":1}'), {}, 'bystander-2');
  });

  test('amounts range from -(2^53-1) to 2^53-1', async () => {
    const [high, low] = [fresh('high'), fresh('low')];
    await assertCounted(`{"${high}":${LARGEST},"${low}":-${LARGEST}}`, {
      [high]: BigInt(LARGEST),
      [low]: -BigInt(LARGEST),
    });
    for (const amount of ['9007199254740992', '-9007199254740992', '9007199254740993', '1e16', '1e400', '-1e400']) {
      await assertRefused(`{"bystander-3":1,"x":${amount}}`, {}, 'bystander-3');
    }
  });

  test('an integer in any JSON notation is an amount', async () => {
    const spellings: [string, bigint][] = [
      ['1.0', 1n],
      ['1e3', 1000n],
      ['1E+3', 1000n],
      ['-2.50e1', -25n],
      ['1000e-3', 1n],
      ['9007199254740991.0', BigInt(LARGEST)],
      ['9.007199254740991e15', BigInt(LARGEST)],
      ['9007199254740990.9999', BigInt(LARGEST)],
      ['1e-400', 0n],
    ];
    for (const [spelling, sum] of spellings) {
      const key = fresh('spelling');
      await assertCounted(`{"${key}":${spelling}}`, { [key]: sum });
    }
  });

  test('zero and -0 are amounts and create the counter', async () => {
    for (const zero of ['0', '-0', '0.0', '-0e9']) {
      const key = fresh('zero');
      assert.equal(await sumOf(node.url, key), undefined);
      await assertCounted(`{"${key}":${zero}}`, { [key]: 0n });
    }
  });

  test('an amount that is not an integer is refused, and nothing of its request is counted', async () => {
    const bad = [
      '1.5',
      '"1"',
      'null',
      'true',
      'false',
      '[]',
      '[1]',
      '{}',
      '{"a":1}',
      'NaN',
      'Infinity',
      '+1',
      '01',
      '.5',
      '1.',
      '0x1',
      '',
    ];
    for (const amount of bad) await assertRefused(`{"bystander-4":1,"bad":${amount}}`, {}, 'bystander-4');
  });

  test('a refusal names the member and the byte offset', async () => {
    assert.match(await assertRefused('{"fine":1,"bäd":1.5}'), /"bäd".*byte 17\b/);
    assert.match(await assertRefused('{"fine":1,}'), /byte 10\b/);
    assert.match(await assertRefused('{"fine":1'), /byte 9\b/);
    assert.match(await assertRefused('{"a":1}\n{"b":"x"}', ndjson()), /"b".*byte 13\b/);
  });

  test('a body without an increment is refused: {}, nothing, white space', async () => {
    for (const body of ['{}', ' { } ', '', ' ', '\r\n\t ']) await assertRefused(body);
  });

  test('a body that is not one JSON object is refused', async () => {
    const bodies = [
      '[]',
      '[{"a":1}]',
      '1',
      '"a"',
      'null',
      'a',
      '{',
      '}',
      '{"a"}',
      '{"a":}',
      '{a:1}',
      "{'a':1}",
      '{"a":1,}',
    ];
    for (const body of [...bodies, '{"a":1}{"b":1}', '{"a":1} x', '{"a":1}\0', '{,}', '{"a" 1}', '{"a":1 "b":1}']) {
      await assertRefused(body);
    }
  });

  test('JSON white space around and within the object is allowed', async () => {
    const key = fresh('space');
    await assertCounted(` \t\r\n{ \n"${key}"\t:\r 1 , "${key}":2 } \n`, { [key]: 3n });
  });

  test('a byte order mark is refused, also in NDJSON', async () => {
    for (const options of [{}, ndjson()]) {
      assert.match(await assertRefused('\ufeff{"bystander-5":1}', options, 'bystander-5'), /byte order mark/);
    }
  });

  test('a Content-Type other than NDJSON is ignored', async () => {
    for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded', 'image/png', 'x']) {
      const key = fresh('type');
      await assertCounted(`{"${key}":1}`, { [key]: 1n }, ndjson(type));
    }
    await assertRefused('{"bystander-6":1}\n{"bystander-6":1}', ndjson('application/json'), 'bystander-6');
  });

  test('NDJSON has one object a line; its media type is compared without case and parameters', async () => {
    const types = [
      'application/x-ndjson',
      'Application/X-NDJSON',
      'application/x-ndjson; charset=utf-8',
      'application/x-ndjson ;q=1',
    ];
    for (const type of types) {
      const key = fresh('lines');
      await assertCounted(
        `{"${key}":1}\n{"${key}":2,"more-${key}":3}\n`,
        { [key]: 3n, [`more-${key}`]: 3n },
        ndjson(type),
      );
    }
    await assertRefused('{"bystander-7":1}\n{"bystander-7":1}', ndjson('application/x-ndjsonx'), 'bystander-7');
  });

  test('in NDJSON a last line without a newline counts, and lines of white space, including CRLF, are skipped', async () => {
    const key = fresh('odd-lines');
    await assertCounted(`\n \t\r\n{"${key}":1}\r\n\r\n\n{"${key}":10}\n\n {"${key}":100} `, { [key]: 111n }, ndjson());
  });

  test('in NDJSON a line {}, a value that spans lines, two objects on a line, or an empty body is refused', async () => {
    const bodies = [
      '{"bystander-8":1}\n{}\n',
      '{"bystander-8":\n1}',
      '{"bystander-8":1\n}',
      '{"bystander-8":1}{"bystander-8":1}',
    ];
    for (const body of [...bodies, '', '\n', ' \r\n\r\n', '{}', '{"bystander-8":1}\n[]', '{"bystander-8":1}\nx']) {
      await assertRefused(body, ndjson(), 'bystander-8');
    }
  });

  test('one invalid line refuses all lines, on all shards', async () => {
    const keys = Array.from({ length: 50 }, (_, index) => `line-${index}`);
    const lines = keys.map((key) => `{"${key}":1}`);
    await assertRefused([...lines, '{"last":0.5}'].join('\n'), ndjson());
    for (const key of keys) assert.equal(await sumOf(node.url, key), undefined);
  });

  test('each of a thousand keys in one body is counted, on every shard', async () => {
    const entries = Array.from({ length: 1000 }, (_, index) => [`many-${index}`, index] as const);
    assertCreated(await increment(node.url, Object.fromEntries(entries)));
    for (const [key, amount] of entries.filter((_, index) => index % 37 === 0)) {
      assert.equal(await sumOf(node.url, key), BigInt(amount));
    }
  });
});

function unicodeEscape(unit: number): string {
  return `\\u${unit.toString(16).padStart(4, '0')}`;
}
