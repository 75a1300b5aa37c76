import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Validator } from '@seriousme/openapi-schema-validator';
import { errorCatalogue } from '#product/core/errors.js';
import { api } from '#product/http/api.js';
import { openApiText } from '#product/http/openapi.js';

const facts = { bodyBytesMax: 1_048_576, keyBytesMax: 512, hasBearerTokens: true };

interface OpenApi {
  readonly openapi: string;
  readonly info: { readonly version: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

interface Operation {
  readonly operationId: string;
  readonly security: readonly Readonly<Record<string, readonly string[]>>[];
  readonly responses: Readonly<Record<string, unknown>>;
}

const text = openApiText(facts);
const document = JSON.parse(text) as OpenApi;

function operationsOf({ paths }: OpenApi): readonly Operation[] {
  return Object.values(paths).flatMap((methods) => Object.values(methods));
}

test('the document is valid OpenAPI 3.1, with and without tokens', async () => {
  for (const hasBearerTokens of [true, false]) {
    const validator = new Validator();
    const result = await validator.validate(
      JSON.parse(openApiText({ ...facts, hasBearerTokens })) as Record<string, unknown>,
    );
    assert.deepEqual(result, { valid: true });
    assert.equal(validator.version, '3.1');
  }
});

test('every reference in the document has a target', () => {
  const references = Array.from(text.matchAll(/"\$ref":"#\/([^"]+)"/g), ([, path]) => path ?? '');
  assert.ok(references.length > 0);
  for (const path of references) {
    let place: unknown = document;
    for (const name of path.split('/')) place = (place as Record<string, unknown> | undefined)?.[name];
    assert.equal(typeof place, 'object', path);
  }
});

test('the document has each operation of the table once, under its method and path', () => {
  for (const [name, { method, path }] of Object.entries(api)) {
    assert.equal(document.paths[path]?.[method]?.operationId, name);
  }
  const ids = operationsOf(document).map(({ operationId }) => operationId);
  assert.deepEqual(ids.toSorted(), Object.keys(api).toSorted());
});

test('only the probes need no token, and without configured tokens nothing needs one', () => {
  const open = operationsOf(document).filter(({ security }) => security.length === 0);
  assert.deepEqual(
    open.map(({ operationId }) => operationId),
    ['health', 'readiness'],
  );
  const unsecured = JSON.parse(openApiText({ ...facts, hasBearerTokens: false })) as OpenApi;
  assert.ok(operationsOf(unsecured).every(({ security }) => security.length === 0));
});

test('the document has a response for every status of the catalogue that a known path can have', () => {
  const documented = new Set(operationsOf(document).flatMap(({ responses }) => Object.keys(responses)));
  const missing = Object.entries(errorCatalogue).filter(([, { status }]) => !documented.has(String(status)));
  assert.deepEqual(
    missing.map(([code]) => code),
    // Only other methods get it, and they are not in the document.
    ['method-not-allowed'],
  );
});

test('the version is that of the package, and the limits are those of the configuration', () => {
  const root = join(import.meta.dirname, '../../../..');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  assert.equal(document.info.version, version);
  const other = openApiText({ ...facts, bodyBytesMax: 4321, keyBytesMax: 77 });
  assert.match(other, /At most 4321 bytes/);
  assert.match(other, /1 to 77 bytes/);
});
