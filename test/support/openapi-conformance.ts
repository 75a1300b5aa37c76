/**
 * Compares answers of the real server with the OpenAPI document that it serves, and records which of the document's
 * responses occurred so far.
 */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import type { Answer } from './http.js';

/** The part of the document that is used here. */
export interface OpenApi {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: object;
}

interface Operation {
  readonly operationId: string;
  readonly responses: Readonly<Record<string, Response>>;
}

interface Response {
  readonly headers?: Readonly<Record<string, { readonly required?: boolean; readonly schema: object }>>;
  readonly content: Readonly<Record<string, { readonly schema: object }>>;
}

interface SchemaValidator {
  compile(schema: object): { (value: unknown): boolean; readonly errors?: unknown };
}

// The JSON Schema 2020-12 validator under the validator of OpenAPI documents; untyped from here.
const fromValidator = createRequire(createRequire(import.meta.url).resolve('@seriousme/openapi-schema-validator'));
const { default: Ajv2020 } = fromValidator('ajv/dist/2020.js') as {
  default: new (options: object) => SchemaValidator;
};
const { default: addFormats } = fromValidator('ajv-formats') as { default: (validator: SchemaValidator) => void };

/** Collects which responses of the document the server has given. */
export class OpenApiConformance {
  readonly #document: OpenApi;
  readonly #validator: SchemaValidator;
  readonly #met = new Set<string>();

  constructor(document: OpenApi) {
    this.#document = document;
    this.#validator = new Ajv2020({ strict: false });
    addFormats(this.#validator);
  }

  /** Every response of the document, as "operationId status". */
  get documented(): readonly string[] {
    return this.#operations().flatMap(({ operationId, responses }) =>
      Object.keys(responses)
        .filter((status) => status !== 'default')
        .map((status) => `${operationId} ${status}`),
    );
  }

  /** Those for which {@link check} got no answer. */
  get unmet(): readonly string[] {
    return this.documented.filter((response) => !this.#met.has(response));
  }

  /** Asserts that the answer is a response of the operation: its status, media type, headers and body. */
  check(operationId: string, answer: Answer): void {
    const operation = this.#operations().find((candidate) => candidate.operationId === operationId);
    assert.ok(operation, `${operationId} is not in the document`);
    const what = `${operationId} ${answer.status}: ${answer.body.slice(0, 500)}`;
    const response = operation.responses[String(answer.status)];
    assert.ok(response, `not documented: ${what}`);
    const mediaType = answer.headers['content-type'] ?? '';
    const content = response.content[mediaType];
    assert.ok(content, `media type ${mediaType} not documented: ${what}`);
    this.#validate(content.schema, mediaType.endsWith('json') ? JSON.parse(answer.body) : answer.body, what);
    for (const [name, { required, schema }] of Object.entries(response.headers ?? {})) {
      const value = answer.headers[name.toLowerCase()];
      assert.ok(value !== undefined || required !== true, `no ${name}: ${what}`);
      const isNumber = 'type' in schema && schema.type === 'integer';
      if (value !== undefined) this.#validate(schema, isNumber ? Number(value) : value, `${name} of ${what}`);
    }
    this.#met.add(`${operationId} ${answer.status}`);
  }

  #operations(): readonly Operation[] {
    return Object.values(this.#document.paths).flatMap((methods) => Object.values(methods));
  }

  #validate(schema: object, value: unknown, what: string): void {
    const validate = this.#validator.compile({ ...schema, components: this.#document.components });
    assert.ok(validate(value), `${JSON.stringify(validate.errors)}: ${what}`);
  }
}
