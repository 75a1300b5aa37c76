/**
 * The OpenAPI 3.1 document, made once from the table of operations, the document types and the error catalogue. Any
 * thread.
 */
import typia from 'typia';
import { errorCatalogue, type ErrorCode } from '../core/errors.js';
import { errorsOf, operationsByPath, type ApiOperation, type ApiParameter, type ReplyContent } from './api.js';
import type {
  CounterDocument,
  CounterListDocument,
  FlushDocument,
  IncrementsDocument,
  ProblemDocument,
  ReadinessDocument,
  RequestedCountersDocument,
  DeletedCounterDocument,
  VersionDocument,
} from './documents.js';
import { EVENTS_MEDIA_TYPE } from './events/event-stream.js';
import { KEYS_MAX, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, METRICS_MEDIA_TYPE } from './routes.js';
import { packageVersion } from './version.js';

type Json = string | number | boolean | null | undefined | readonly Json[] | { readonly [name: string]: Json };

/** The part of the configuration in the document. */
export interface OpenApiFacts {
  readonly bodyBytesMax: number;
  readonly keyBytesMax: number;
  /** Whether requests need bearer tokens. */
  readonly hasBearerTokens: boolean;
}

// The schemas of typia are JSON, and are only used as JSON.
const schemas = typia.json.schemas<
  [
    CounterDocument,
    CounterListDocument,
    FlushDocument,
    IncrementsDocument,
    ProblemDocument,
    ReadinessDocument,
    RequestedCountersDocument,
    DeletedCounterDocument,
    VersionDocument,
  ]
>().components.schemas as unknown as Readonly<Record<string, Json>>;

const MEDIA_TYPE_OF_TEXT = 'text/plain';

/** The document's text. */
export function openApiText(facts: OpenApiFacts): string {
  return JSON.stringify(openApiDocument(facts));
}

function openApiDocument(facts: OpenApiFacts): Json {
  return {
    openapi: '3.1.0',
    info: {
      title: 'summing-counters',
      version: packageVersion(),
      summary: 'Counts increments at very high rates and keeps exact sums in PostgreSQL.',
      description: DESCRIPTION,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths: Object.fromEntries(
      Array.from(operationsByPath(), ([path, operations]) => [
        path,
        Object.fromEntries(
          operations.map(([name, operation]) => [operation.method, operationOf(name, operation, facts)]),
        ),
      ]),
    ),
    components: {
      schemas: { ...schemas, IncrementsDocument: incrementsSchema(facts) },
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description: 'A token with the scope write, read, or admin (which permits everything).',
        },
      },
    },
  };
}

const DESCRIPTION =
  'The server adds amounts to the sums of their keys, each exactly once. 202 means that the journal holds them. Every ' +
  'error is a problem document (RFC 9457). It has a stable `code` and says whether a retry can succeed and whether the ' +
  'attempt was counted. HEAD answers like GET, without a body. Another method of a path gets 405 `method-not-allowed` ' +
  'with `Allow`, an unknown path 404 `not-found`.';

function operationOf(name: string, operation: ApiOperation, facts: OpenApiFacts): Json {
  const { access, summary, parameters, body } = operation;
  return {
    operationId: name,
    summary,
    // Without configured tokens everything is open.
    security: access === 'open' || !facts.hasBearerTokens ? [] : [{ bearer: [access] }],
    parameters: parameters.map((parameter) => parameterOf(parameter, facts)),
    ...(body === undefined ? {} : { requestBody: requestBody(facts) }),
    responses: responsesOf(operation),
  };
}

/** The error codes of an operation, by HTTP status. */
function errorsByStatus(operation: ApiOperation): ReadonlyMap<number, readonly ErrorCode[]> {
  const statuses = new Map<number, ErrorCode[]>();
  for (const code of errorsOf(operation)) {
    const { status } = errorCatalogue[code];
    statuses.set(status, [...(statuses.get(status) ?? []), code]);
  }
  return new Map([...statuses].sort(([a], [b]) => a - b));
}

function responsesOf(operation: ApiOperation): Json {
  const { status, says, content } = operation.reply;
  const success = {
    description: says,
    ...(operation.body === undefined ? {} : { headers: { 'Idempotency-Replayed': REPLAYED } }),
    content: contentOf(content),
  };
  const problems: Record<string, Json> = {};
  for (const [problem, codes] of errorsByStatus(operation)) problems[problem] = problemOf(problem, codes);
  return {
    [status]: success,
    ...problems,
    default: { description: 'Another error, of the server or of HTTP.', content: problemContent(PROBLEM) },
  };
}

function contentOf(contents: readonly ReplyContent[]): Json {
  const [first, ...others] = contents;
  if (first === 'metrics') return { [METRICS_MEDIA_TYPE]: { schema: { type: 'string' } } };
  if (first === 'events') return { [EVENTS_MEDIA_TYPE]: { schema: { type: 'string' } } };
  if (first === 'text') return { [MEDIA_TYPE_OF_TEXT]: { schema: { type: 'string' } } };
  if (first === 'openapi') return { 'application/json': { schema: { type: 'object' } } };
  const references = contents.map((name) => ({ $ref: `#/components/schemas/${name}` }));
  return { 'application/json': { schema: others.length === 0 ? references[0] : { oneOf: references } } };
}

const PROBLEM = { $ref: '#/components/schemas/ProblemDocument' };
const REPLAYED = {
  description: 'A request with this Idempotency-Key was counted before; this one is not counted again.',
  schema: { const: 'true' },
};

function problemContent(schema: Json): Json {
  return { 'application/problem+json': { schema } };
}

function problemOf(status: number, codes: readonly ErrorCode[]): Json {
  const description = codes.map((code) => `\`${code}\`: ${errorCatalogue[code].title}.`).join(' ');
  const schema = { allOf: [PROBLEM, { properties: { status: { const: status }, code: { enum: codes } } }] };
  return { description, ...headersOf(status), content: problemContent(schema) };
}

function headersOf(status: number): { readonly headers?: Json } {
  if (status === 401) return { headers: { 'WWW-Authenticate': { required: true, schema: { const: 'Bearer' } } } };
  if (status !== 503) return {};
  const schema = { type: 'integer', minimum: 1 };
  return { headers: { 'Retry-After': { description: 'In seconds.', required: true, schema } } };
}

function parameterOf(parameter: ApiParameter, { keyBytesMax }: OpenApiFacts): Json {
  const query = { in: 'query', required: false, schema: { type: 'string' } };
  const key = `A counter's key, 1 to ${keyBytesMax} bytes of UTF-8 without U+0000`;
  switch (parameter) {
    case 'keyPath':
      return {
        name: 'key',
        in: 'path',
        required: true,
        description: `${key}, percent-encoded. The rest of the path is the key, slashes included.`,
        schema: { type: 'string', minLength: 1 },
      };
    case 'keys':
      return { ...keysParameter(), description: `${key}; up to ${KEYS_MAX} of them. Returns only these counters.` };
    case 'keysRequired':
      return { ...keysParameter(), required: true, description: `${key}; up to ${KEYS_MAX} of them.` };
    case 'keyRequired':
      return { ...query, name: 'key', required: true, description: `${key}.` };
    case 'name':
      return { ...query, name: 'name', required: true, description: `${key}.` };
    case 'prefix':
      return { ...query, name: 'prefix', description: 'Only keys that begin with this.' };
    case 'after':
      return { ...query, name: 'after', description: 'The `next` of the previous page: only keys above it.' };
    case 'limit':
      return {
        ...query,
        name: 'limit',
        description: 'Most counters of the page.',
        schema: { type: 'integer', minimum: 1, maximum: LIST_LIMIT_MAX, default: LIST_LIMIT_DEFAULT },
      };
    case 'idempotencyKey':
      return {
        name: 'Idempotency-Key',
        in: 'header',
        required: false,
        description: 'Identifies the request: it takes effect once, as a whole, no matter how often it is sent.',
        schema: { type: 'string', pattern: '^[!-~]{1,255}$' },
      };
  }
}

/** `key=A&key=B`. */
function keysParameter(): Readonly<Record<string, Json>> {
  const schema = { type: 'array', minItems: 1, maxItems: KEYS_MAX, items: { type: 'string', minLength: 1 } };
  return { in: 'query', name: 'key', required: false, style: 'form', explode: true, schema };
}

/** Adds rules that the type cannot express: at least one member, and the form of its name. */
function incrementsSchema({ keyBytesMax }: OpenApiFacts): Json {
  const { type, description, additionalProperties } = typia.assert<{
    type: 'object';
    description: string;
    additionalProperties: { type: 'integer'; minimum: number; maximum: number };
  }>(schemas['IncrementsDocument']);
  const names = { minLength: 1, description: `1 to ${keyBytesMax} bytes of UTF-8 without U+0000.` };
  return { type, description, minProperties: 1, propertyNames: names, additionalProperties };
}

function requestBody({ bodyBytesMax }: OpenApiFacts): Json {
  const schema = { $ref: '#/components/schemas/IncrementsDocument' };
  return {
    required: true,
    description:
      `At most ${bodyBytesMax} bytes of JSON in UTF-8. The server ignores Content-Type, except application/x-ndjson, ` +
      'which means one such object on each line.',
    content: {
      'application/json': {
        schema,
        examples: { one: { value: { 'page:/home': 1 } }, several: { value: { a: 1, b: -2, c: 40 } } },
      },
      'application/x-ndjson': { schema: { type: 'string' }, example: '{"a":1}\n{"a":2,"b":1}\n' },
    },
  };
}
