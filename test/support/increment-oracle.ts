/**
 * The meaning of a body by library functions: TextDecoder for UTF-8, JSON.parse for grammar and doubles, typia for the
 * shape, and in addition only the rules for keys that no library knows. Slow and obvious, to compare the scanner with.
 */
import typia, { type tags } from 'typia';

/** One increment: its key as text, its amount. */
export type Increment = readonly [key: string, amount: number];

type Amount = number & tags.Minimum<-9007199254740991> & tags.Maximum<9007199254740991>;

const isRecordOfAmounts = typia.createIs<Record<string, Amount>>();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The body's increments in order, including repeated names, or undefined if the body must be refused. */
export function oracleIncrements(body: Uint8Array, ndjson: boolean, keyBytesMax: number): Increment[] | undefined {
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    return undefined;
  }
  const documents = ndjson ? text.split('\n').filter((line) => !/^[ \t\r]*$/.test(line)) : [text];
  const increments: Increment[] = [];
  for (const document of documents) {
    const ofDocument = documentIncrements(document, keyBytesMax);
    if (ofDocument === undefined) return undefined;
    for (const increment of ofDocument) increments.push(increment);
  }
  return increments.length === 0 ? undefined : increments;
}

function documentIncrements(document: string, keyBytesMax: number): Increment[] | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(document);
  } catch {
    return undefined;
  }
  // Only an object needs the second parse; an array has no names to count.
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined;
  const numbered: unknown = JSON.parse(numberNames(document));
  if (!isRecordOfAmounts(numbered)) return undefined;
  const increments: Increment[] = [];
  for (const [name, amount] of Object.entries(numbered)) {
    const key = name.slice(name.indexOf(':') + 1);
    if (!Number.isInteger(amount) || !isKey(key, keyBytesMax)) return undefined;
    increments.push([key, Object.is(amount, -0) ? 0 : amount]);
  }
  return increments.length === 0 ? undefined : increments;
}

/**
 * Puts a number before each member name of a valid document, `"a"` → `"0:a"`: JSON.parse then keeps repeated names, and
 * the order of names that look like integers.
 */
function numberNames(document: string): string {
  let names = 0;
  return document.replace(/"(?:[^"\\]|\\.)*"(?:[ \t\r\n]*:)?/g, (text) =>
    text.endsWith(':') ? `"${names++}:${text.slice(1)}` : text,
  );
}

function isKey(key: string, keyBytesMax: number): boolean {
  if (key === '' || key.includes('\0') || /\p{Surrogate}/u.test(key)) return false;
  return Buffer.byteLength(key) <= keyBytesMax;
}
