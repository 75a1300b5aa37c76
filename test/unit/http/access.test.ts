import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AccessControl, HostRule, isLoopback, type Access } from '#product/http/access.js';

const control = AccessControl.of([
  { scope: 'write', token: 'w-token' },
  { scope: 'read', token: 'r-token' },
  { scope: 'admin', token: 'a-token' },
  { scope: 'write', token: 'both' },
  { scope: 'read', token: 'both' },
]);
assert.ok(control !== undefined);
const known: AccessControl = control;

const accesses: readonly Access[] = ['write', 'read', 'admin', 'any', 'open'];

function outcomes(authorization: string): readonly string[] {
  return accesses.map((access) => known.refusal(authorization, access) ?? 'granted');
}

test('without tokens there is no access control', () => {
  assert.equal(AccessControl.of([]), undefined);
});

test('a scope permits its own operations, admin permits everything, two scopes of one token permit both', () => {
  const f = 'forbidden';
  assert.deepEqual(outcomes('Bearer w-token'), ['granted', f, f, 'granted', 'granted']);
  assert.deepEqual(outcomes('Bearer r-token'), [f, 'granted', f, 'granted', 'granted']);
  assert.deepEqual(outcomes('Bearer a-token'), ['granted', 'granted', 'granted', 'granted', 'granted']);
  assert.deepEqual(outcomes('Bearer both'), ['granted', 'granted', f, 'granted', 'granted']);
});

test('the scheme has any case, and spaces around the token are ignored', () => {
  for (const header of ['bearer a-token', 'BEARER a-token', 'BeArEr   a-token', 'Bearer a-token  ']) {
    assert.equal(known.refusal(header, 'admin'), undefined, header);
  }
});

test('anything but a complete valid token is unauthorized for all but open operations', () => {
  const strangers = [
    '',
    'a-token',
    'Bearer',
    'Bearer ',
    'Bearera-token',
    'Basic a-token',
    'Bearer a-toke',
    'Bearer a-token2',
    'Bearer A-TOKEN',
    'Bearer a-token w-token',
    'Bearer "a-token"',
    'Bearer a-token,',
    'Bearer \u00e9',
    ' Bearer a-token',
    `Bearer ${'x'.repeat(10_000)}`,
  ];
  const u = 'unauthorized';
  for (const header of strangers) assert.deepEqual(outcomes(header), [u, u, u, u, 'granted'], header);
});

test('only addresses of this machine are loopback addresses', () => {
  for (const host of ['127.0.0.1', '127.1.2.3', '::1', 'localhost', 'LOCALHOST', '::ffff:127.0.0.1']) {
    assert.ok(isLoopback(host), host);
  }
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.example.org', 'localhost.example.org', '128.0.0.1', '']) {
    assert.ok(!isLoopback(host), host);
  }
});

test('a server without tokens on a loopback address allows the Host names of this machine, and those it is given', () => {
  const rule = HostRule.of({ host: '127.0.0.1', authTokens: [], allowedHosts: ['counters.test'] });
  assert.ok(rule !== undefined);
  const allowed = [
    '127.0.0.1',
    '127.0.0.1:3333',
    '[::1]:3333',
    '[::1]',
    '10.0.0.7:80',
    'localhost',
    'LocalHost:3333',
    'counters.test',
    'COUNTERS.test:3333',
    '',
  ];
  const refused = [
    'evil.example',
    'evil.example:3333',
    'localhost.evil.example',
    'evil.localhost',
    '127.0.0.1.evil.example',
    'localhost:',
    'localhost:3333:1',
    '[::1',
    'x@localhost',
    'localhost.',
    ' ',
  ];
  // Twice, because the rule remembers the last one that it allowed.
  for (const header of [...allowed, ...allowed]) assert.ok(rule.allows(header), header);
  for (const header of [...refused, ...refused]) assert.ok(!rule.allows(header), header);
  assert.ok(rule.allows('localhost'));
});

test('the Host rule does not apply with tokens, beyond loopback, or with ALLOWED_HOSTS=*', () => {
  const open = { host: '127.0.0.1', authTokens: [], allowedHosts: [] };
  assert.ok(HostRule.of(open) !== undefined);
  assert.equal(HostRule.of({ ...open, authTokens: [{ scope: 'read', token: 'r' }] }), undefined);
  assert.equal(HostRule.of({ ...open, host: '0.0.0.0' }), undefined);
  assert.equal(HostRule.of({ ...open, allowedHosts: ['*'] }), undefined);
});
