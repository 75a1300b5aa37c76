import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { nodeProblem, SUPPORTED_NODES } from '#product/core/supported-node.js';

test('a Node that is older than 20.15, or than 22.2 of those after 20, is refused with a sentence', () => {
  for (const version of ['0.12.18', '12.22.12', '18.20.8', '20.14.0', '21.7.3', '22.0.0', '22.1.0']) {
    assert.equal(nodeProblem(version), `Node ${version} is too old: use ${SUPPORTED_NODES}.`);
  }
});

test('a supported Node passes, and so does a later one, where the native build decides', () => {
  for (const version of ['20.15.0', '20.20.2', '22.2.0', '22.23.3', '24.0.0', '24.21.0', '25.1.0', '26.12.1']) {
    assert.equal(nodeProblem(version), undefined);
  }
});

test('engines of package.json names the versions that the sentence names', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../../package.json'), 'utf8');
  const { engines } = JSON.parse(text) as { readonly engines: { readonly node: string } };
  assert.equal(engines.node, '^20.15.0 || ^22.2.0 || ^24.0.0');
  assert.equal(SUPPORTED_NODES, 'Node 20 (20.15 or later), Node 22 (22.2 or later) or Node 24');
});
