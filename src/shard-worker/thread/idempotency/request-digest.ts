/**
 * The digest of a request: its keys in bytewise order, each with its sum. Two bodies that add the same amounts to the same keys
 * have the same digest, however they are written. Shard thread.
 */
import { hash } from 'node:crypto';
import { amountAt, DIGEST_BYTES, incrementEnd, keyBytesAt, keyHashAt, keyStart } from '../../protocol/record-layout.js';
import { SummingMap } from '../summing-map.js';

/** Reused for each request of more than one increment. */
const scratch = new SummingMap();
let content = Buffer.alloc(4096);
const digest = Buffer.alloc(DIGEST_BYTES);

/** The digest of the entries at `bytes[start, end)`; valid until the next call. */
export function digestOf(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const contentBytes =
    incrementEnd(view, start) === end
      ? append(0, bytes, keyStart(start), keyBytesAt(view, start), String(amountAt(view, start)))
      : appendSums(bytes, view, start, end);
  // A digest as text costs less than half of a digest in a new Buffer.
  digest.write(hash('sha256', content.subarray(0, contentBytes), 'binary'), 0, DIGEST_BYTES, 'latin1');
  return digest;
}

/** Sums by key, in the order of the keys. Returns where the content ends. */
function appendSums(bytes: Uint8Array, view: DataView, start: number, end: number): number {
  scratch.clear(0);
  let at = start;
  while (at < end) {
    scratch.add(keyHashAt(view, at), bytes, keyStart(at), keyBytesAt(view, at), amountAt(view, at));
    at = incrementEnd(view, at);
  }
  const keys: { readonly entry: number; readonly bytes: Uint8Array }[] = [];
  for (let entry = 0; entry < scratch.size; entry += 1) {
    const from = scratch.keyStart(entry);
    keys.push({ entry, bytes: scratch.arena.subarray(from, from + scratch.keyBytes(entry)) });
  }
  keys.sort((a, b) => Buffer.compare(a.bytes, b.bytes));
  let contentEnd = 0;
  for (const { entry, bytes: key } of keys) {
    contentEnd = append(contentEnd, key, 0, key.length, String(scratch.sum(entry)));
  }
  return contentEnd;
}

/** Appends a key and its sum, each with a zero byte after it. Returns where the content ends. */
function append(at: number, key: Uint8Array, start: number, length: number, sum: string): number {
  const needed = at + length + sum.length + 2;
  if (needed > content.length) {
    const larger = Buffer.alloc(2 * needed);
    larger.set(content.subarray(0, at));
    content = larger;
  }
  let to = at;
  // In range by the caller's contract.
  for (let from = start; from < start + length; from += 1) content[to++] = key[from] as number;
  content[to++] = 0;
  to += content.write(sum, to, 'latin1');
  content[to++] = 0;
  return to;
}
