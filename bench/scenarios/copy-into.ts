/**
 * COPY … FROM STDIN in binary format over a connection of pg, which itself refuses it: one query that sends its bytes
 * when the server asks for them. Only for the benchmark.
 */
import type pg from 'pg';

const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const TRAILER = Buffer.from([0xff, 0xff]);
const ARRAY_HEADER_BYTES = 20;
const COUNT_OFFSET = 12;

/** What pg's connection has besides what its types declare. */
interface CopyConnection {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}

/** Runs the COPY statement with these bytes; settles after the server's CommandComplete. */
export function copyInto(client: pg.Client, statement: string, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    client.query(new CopyQuery(statement, bytes, resolve, reject));
  });
}

/** The messages as pg's client hands them to the query that is active. */
class CopyQuery {
  readonly #statement: string;
  readonly #bytes: Buffer;
  readonly #resolve: () => void;
  readonly #reject: (error: Error) => void;
  #error: Error | undefined;

  constructor(statement: string, bytes: Buffer, resolve: () => void, reject: (error: Error) => void) {
    this.#statement = statement;
    this.#bytes = bytes;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  submit(connection: pg.Connection): void {
    connection.query(this.#statement);
  }

  handleCopyInResponse(connection: CopyConnection): void {
    connection.sendCopyFromChunk(this.#bytes);
    connection.endCopyFrom();
  }

  handleCommandComplete(): void {
    // The server is ready a message later.
  }

  handleError(error: Error): void {
    this.#error = error;
    this.#reject(error);
  }

  handleReadyForQuery(): void {
    if (this.#error === undefined) this.#resolve();
  }
}

/**
 * The rows of (key, amount) as COPY takes them, from the two arrays in binary format that a flush sends: the elements of
 * an array and the fields of a row are written alike, each behind its length.
 */
export function copyRows(keys: Buffer, amounts: Buffer): Buffer {
  const count = keys.readInt32BE(COUNT_OFFSET);
  const rows = Buffer.allocUnsafe(
    SIGNATURE.length + 2 * count + keys.length + amounts.length - 2 * ARRAY_HEADER_BYTES + TRAILER.length,
  );
  let at = SIGNATURE.copy(rows);
  let key = ARRAY_HEADER_BYTES;
  let amount = ARRAY_HEADER_BYTES;
  for (let row = 0; row < count; row += 1) {
    at = rows.writeInt16BE(2, at);
    const keyEnd = key + 4 + keys.readInt32BE(key);
    at = append(rows, at, keys, key, keyEnd);
    key = keyEnd;
    const amountEnd = amount + 4 + amounts.readInt32BE(amount);
    at = append(rows, at, amounts, amount, amountEnd);
    amount = amountEnd;
  }
  TRAILER.copy(rows, at);
  return rows;
}

/** A loop: for fields as short as these it is faster than a call of copy. */
function append(to: Buffer, at: number, from: Buffer, start: number, end: number): number {
  let next = at;
  // In range by the lengths that were just read.
  for (let byte = start; byte < end; byte += 1) to[next++] = from[byte] as number;
  return next;
}
