import assert from 'node:assert/strict';
import { test } from 'node:test';
import { childEnvironment } from '#product/config/child-environment.js';
import { misspelledSettings } from '#product/config/misspelled-settings.js';
import { settings } from '#product/config/settings.js';

const variables = Object.values(settings).map(({ variable }) => variable);

function meantBy(name: string): string | undefined {
  const warnings = misspelledSettings({ [name]: 'x' });
  assert.ok(warnings.length <= 1);
  return /^(\S+) is not a setting and has no effect; did you mean (\S+)\?$/.exec(warnings[0] ?? '')?.[2];
}

test('a variable one letter from a setting is a warning that names the setting', () => {
  for (const [name, variable] of [
    ['POR', 'PORT'],
    ['PORTS', 'PORT'],
    ['HOSTS', 'HOST'],
    ['SHARD', 'SHARDS'],
    ['DATABASE_UR', 'DATABASE_URL'],
    ['DATABASE_URl', 'DATABASE_URL'],
    ['AUTH_TOKEN', 'AUTH_TOKENS'],
  ] as const) {
    assert.equal(meantBy(name), variable, name);
  }
});

test('two letters are a warning from eight letters of the setting on, and not below', () => {
  assert.equal(meantBy('LOGLEVLE'), undefined);
  assert.equal(meantBy('LOG_LEVLE'), 'LOG_LEVEL');
  assert.equal(meantBy('DATABSAE_URL'), 'DATABASE_URL');
  assert.equal(meantBy('HTTPTHREAD'), 'HTTP_THREADS');
  assert.equal(meantBy('HTTPTHREA'), undefined);
  assert.equal(meantBy('PROT'), undefined);
  assert.equal(meantBy('SHADR'), undefined);
  assert.equal(meantBy('JOURNL'), 'JOURNAL');
  assert.equal(meantBy('JOUNRL'), undefined);
});

test('a setting itself, a variable without a value, and variables of others are no warning', () => {
  for (const variable of variables) assert.equal(meantBy(variable), undefined, variable);
  assert.deepEqual(misspelledSettings({ PORTS: '', HOSTS: ' ', SHARD: undefined }), []);
  const others = ['HOME', 'NODE', 'MODE', 'JOURNAL_STREAM', 'PGHOST', 'PGPORT', 'SSL_CERT_FILE', 'PATH', 'PWD', 'USER'];
  for (const name of [...others, 'HTTP_PROXY', 'https_proxy', 'NO_PROXY', 'ALL_PROXY', 'SHELL', 'NODE_ENV']) {
    assert.equal(meantBy(name), undefined, name);
  }
});

test('every setting is warned about for each of its names with one letter less', () => {
  for (const variable of variables) {
    for (let at = 0; at < variable.length; at += 1) {
      const name = variable.slice(0, at) + variable.slice(at + 1);
      if (!variables.some((other) => other === name)) assert.notEqual(meantBy(name), undefined, name);
    }
  }
});

test('child processes get an environment without any setting', () => {
  const ours = Object.fromEntries(variables.map((variable) => [variable, 'secret']));
  const env = { ...ours, SUMMING_COUNTERS_TOKEN: 'secret', PATH: '/bin', LANG: 'C' };
  assert.deepEqual(childEnvironment(env), { PATH: '/bin', LANG: 'C' });
});
