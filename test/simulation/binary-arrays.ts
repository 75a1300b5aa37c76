/** Decodes the product's binary arrays like PostgreSQL's array_recv, textrecv and numeric_recv. */

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

function elementsOf(array: Buffer): Buffer[] {
  const elements: Buffer[] = [];
  let at = 20;
  for (let left = array.readInt32BE(12); left > 0; left -= 1) {
    const bytes = array.readInt32BE(at);
    elements.push(array.subarray(at + 4, at + 4 + bytes));
    at += 4 + bytes;
  }
  return elements;
}
