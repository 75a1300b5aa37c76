/**
 * Byte-level damage to bodies, for tests that search for a body that two readers read differently.
 */

/** One damage; positions and lengths are reduced to the body's length, so any numbers are valid. */
export interface Mutation {
  readonly kind: MutationKind;
  /** Position of the damage. */
  readonly at: number;
  /** Length of a run, or position in the other body. */
  readonly run: number;
  /** Bit or byte to set, or which fragment to insert. */
  readonly value: number;
}

/** Kinds of damage. */
export const mutationKinds = [
  'flip-bit',
  'set-byte',
  'insert-byte',
  'insert-fragment',
  'delete',
  'duplicate',
  'splice',
  'truncate',
] as const;

/** One of {@link mutationKinds}. */
type MutationKind = (typeof mutationKinds)[number];

const LONGEST_RUN = 12;

/** Fragments that matter to a JSON reader. */
const fragments: readonly Uint8Array[] = [
  ...['{', '}', '"', ':', ',', '[', ']', '\\', ' ', '\n', '\r\n', '\t', '-', '+', '.', 'e', 'E', '0', '1', '9'],
  ...[
    '{}',
    '""',
    '"a":1',
    ',"a":2',
    '{"a":1}',
    '\n{"b":-2}\n',
    'null',
    'true',
    '-0',
    '1e3',
    '1.0',
    '.5',
    '1.',
    '0x1',
    '01',
  ],
  ...[
    '9007199254740991',
    '9007199254740992',
    '9007199254740993',
    '-9007199254740991',
    '1e308',
    '1e309',
    '1e-400',
    '10e-1',
  ],
  ...[
    '\\n',
    '\\/',
    '\\u0000',
    '\\u0041',
    '\\ud83d\\ude00',
    '\\ud83d',
    '\\ude00',
    '\\uD83D\\u0041',
    '\\x41',
    '__proto__',
  ],
  ...['\0', '\x1f', '\x7f', 'é', '€', '😀', '\ufeff', '\u2028'],
].map((text) => Buffer.from(text));

/** Malformed UTF-8: overlong forms, surrogates, beyond U+10FFFF, stray and missing continuation bytes. */
const malformed: readonly Uint8Array[] = [
  [0x80],
  [0xc0, 0x80],
  [0xc1, 0xbf],
  [0xc3],
  [0xe0, 0x80, 0x80],
  [0xe0, 0x9f, 0xbf],
  [0xe2, 0x82],
  [0xed, 0xa0, 0x80],
  [0xed, 0xbf, 0xbf],
  [0xf0, 0x80, 0x80, 0x80],
  [0xf0, 0x8f, 0xbf, 0xbf],
  [0xf0, 0x9f, 0x98],
  [0xf4, 0x90, 0x80, 0x80],
  [0xf5, 0x80, 0x80, 0x80],
  [0xff],
].map((bytes) => Uint8Array.from(bytes));

const inserts = [...fragments, ...malformed];

/** A damaged copy of `body`; a splice takes its end from `other`. */
export function mutate(body: Uint8Array, other: Uint8Array, mutation: Mutation): Uint8Array {
  const { kind, value } = mutation;
  const at = mutation.at % (body.length + 1);
  const run = 1 + (mutation.run % LONGEST_RUN);
  switch (kind) {
    case 'flip-bit':
      return withByte(body, at, (byte) => byte ^ (1 << (value & 7)));
    case 'set-byte':
      return withByte(body, at, () => value & 0xff);
    case 'insert-byte':
      return join(body.subarray(0, at), Uint8Array.of(value & 0xff), body.subarray(at));
    case 'insert-fragment':
      return join(body.subarray(0, at), inserts[value % inserts.length], body.subarray(at));
    case 'delete':
      return join(body.subarray(0, at), undefined, body.subarray(at + run));
    case 'duplicate':
      return join(body.subarray(0, at + run), undefined, body.subarray(at));
    case 'splice':
      return join(body.subarray(0, at), undefined, other.subarray(mutation.run % (other.length + 1)));
    case 'truncate':
      return body.slice(0, at);
  }
}

function withByte(body: Uint8Array, at: number, change: (byte: number) => number): Uint8Array {
  const copy = body.slice();
  const byte = copy[at];
  if (byte !== undefined) copy[at] = change(byte);
  return copy;
}

const NOTHING = new Uint8Array(0);

function join(before: Uint8Array, between: Uint8Array = NOTHING, after: Uint8Array = NOTHING): Uint8Array {
  const whole = new Uint8Array(before.length + between.length + after.length);
  whole.set(before);
  whole.set(between, before.length);
  whole.set(after, before.length + between.length);
  return whole;
}
