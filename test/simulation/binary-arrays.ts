/** Decodes the product's binary arrays like PostgreSQL's array_recv, textrecv and numeric_recv, and makes those that it sends. */

/** Elements of a text[]. */
export function decodeTexts(array: Buffer): string[] {
  return elementsOf(array).map((bytes) => bytes.toString());
}

/** Elements of a bytea[]. */
export function decodeBytes(array: Buffer): Buffer[] {
  return elementsOf(array).map((bytes) => Buffer.from(bytes));
}

/** Elements of a numeric[], all integers. */
export function decodeIntegers(array: Buffer): bigint[] {
  return elementsOf(array).map((bytes) => {
    const groups = bytes.readInt16BE(0);
    const weight = bytes.readInt16BE(2);
    let value = 0n;
    for (let group = 0; group <= weight; group += 1) {
      value = value * 10_000n + BigInt(group < groups ? bytes.readUInt16BE(8 + 2 * group) : 0);
    }
    return bytes.readUInt16BE(4) === 0x4000 ? -value : value;
  });
}

/** A float8[], as array_send makes it. */
export function encodeDoubles(values: readonly number[]): Buffer {
  return encodeElements(
    FLOAT8_OID,
    values.map((value) => {
      const bytes = Buffer.alloc(8);
      bytes.writeDoubleBE(value);
      return bytes;
    }),
  );
}

/** A text[], as array_send makes it. */
export function encodeTexts(values: readonly string[]): Buffer {
  return encodeElements(
    TEXT_OID,
    values.map((value) => Buffer.from(value)),
  );
}

/** A bytea[], as array_send makes it. */
export function encodeBytes(values: readonly Buffer[]): Buffer {
  return encodeElements(BYTEA_OID, values);
}

const FLOAT8_OID = 701;
const TEXT_OID = 25;
const BYTEA_OID = 17;

function encodeElements(type: number, elements: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(elements.length === 0 ? 12 : 20);
  header.writeUInt32BE(type, 8);
  if (elements.length > 0) {
    header.writeInt32BE(1, 0);
    header.writeInt32BE(elements.length, 12);
    header.writeInt32BE(1, 16);
  }
  const withLengths = elements.flatMap((bytes) => {
    const length = Buffer.alloc(4);
    length.writeInt32BE(bytes.length);
    return [length, bytes];
  });
  return Buffer.concat([header, ...withLengths]);
}

function elementsOf(array: Buffer): Buffer[] {
  const elements: Buffer[] = [];
  if (array.readInt32BE(0) === 0) return elements;
  let at = 20;
  for (let left = array.readInt32BE(12); left > 0; left -= 1) {
    const bytes = array.readInt32BE(at);
    elements.push(array.subarray(at + 4, at + 4 + bytes));
    at += 4 + bytes;
  }
  return elements;
}
