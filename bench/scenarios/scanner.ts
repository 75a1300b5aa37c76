/**
 * Micro benchmark of the body scanner: nanoseconds a body for a few shapes, for the scanner and for JSON.parse with
 * UTF-8 decoding, and the ratio of the two in the same run. `node dist-test/bench/scenarios/scanner.js`
 */
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';

interface Shape {
  readonly name: string;
  readonly text: string;
  readonly ndjson?: true;
  /** Set if JSON.parse alone does less work than the scanner. */
  readonly refused?: true;
}

const shapes: readonly Shape[] = [
  { name: 'one key', text: '{"page:/home": 1}' },
  { name: 'one key, 40 bytes', text: '{"page:/articles/2024/11/hello-world":-12}' },
  { name: 'ten keys', text: JSON.stringify(Object.fromEntries(keys(10))) },
  { name: 'a thousand keys', text: JSON.stringify(Object.fromEntries(keys(1000))) },
  {
    name: 'NDJSON, ten lines',
    text: keys(10)
      .map(([key, amount]) => `{"${key}":${amount}}\n`)
      .join(''),
    ndjson: true,
  },
  { name: 'Unicode key', text: '{"страница:/главная": 1}' },
  { name: 'escaped key', text: '{"page:\\/h\\u00f6me": 1}' },
  { name: 'amount 1e3', text: '{"page:/home": 1e3}' },
  { name: 'refused: text amount', text: '{"page:/home": "1"}', refused: true },
  { name: 'refused: cut off', text: '{"page:/home": ', refused: true },
];

function keys(count: number): [string, number][] {
  return Array.from({ length: count }, (_, n) => [`page:/articles/${n}`, n % 7]);
}

/** Uses the results, so that V8 does not remove a loop. */
let sink = 0;

function nanosecondsEach(work: () => void, millis: number): number {
  const batch = 100;
  const start = process.hrtime.bigint();
  const until = start + BigInt(millis) * 1_000_000n;
  let runs = 0;
  let now = start;
  while (now < until) {
    for (let n = 0; n < batch; n += 1) work();
    runs += batch;
    now = process.hrtime.bigint();
  }
  return Number(now - start) / runs;
}

function scanOnce(scanner: IncrementBodyScanner, body: Uint8Array, ndjson: boolean): void {
  try {
    sink += scanner.scan(body, ndjson).count;
  } catch {
    sink += 1;
  }
}

function parseOnce(body: Buffer, ndjson: boolean): void {
  try {
    const text = body.toString('utf8');
    for (const line of ndjson ? text.trimEnd().split('\n') : [text]) {
      const value: unknown = JSON.parse(line);
      sink += typeof value === 'object' && value !== null ? Object.keys(value).length : 0;
    }
  } catch {
    sink += 1;
  }
}

const scanner = new IncrementBodyScanner({ keyBytesMax: 512 });
const prepared = shapes.map((shape) => ({ shape, body: Buffer.from(shape.text), ndjson: shape.ndjson === true }));
// All shapes are warmed up before the first is measured, because a server has seen all of them.
for (const { body, ndjson } of prepared) {
  nanosecondsEach(() => scanOnce(scanner, body, ndjson), 200);
  nanosecondsEach(() => parseOnce(body, ndjson), 200);
}
console.log('shape                     bytes    scanner ns   JSON.parse ns   ratio');
for (const { shape, body, ndjson } of prepared) {
  const ours = nanosecondsEach(() => scanOnce(scanner, body, ndjson), 500);
  const theirs = nanosecondsEach(() => parseOnce(body, ndjson), 500);
  const cells = [ours.toFixed(0).padStart(13), theirs.toFixed(0).padStart(16), (ours / theirs).toFixed(2).padStart(8)];
  console.log(`${shape.name.padEnd(24)}${String(body.length).padStart(7)}${cells.join('')}`);
}
if (sink === 0) process.exitCode = 1;
