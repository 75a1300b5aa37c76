/**
 * COPY … FROM STDIN in binary format over a connection of pg, which does not support it: one query that sends its bytes
 * when the server asks for them. Only for the benchmark.
 */
import type pg from 'pg';

const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const TRAILER = Buffer.from([0xff, 0xff]);
const ARRAY_HEADER_BYTES = 20;
const COUNT_OFFSET = 12;

/** Members of pg's connection that its types do not declare. */
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

/** The messages that pg's client passes to the active query. */
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
    // The server is ready one message later.
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
 * The rows (key, amount) for COPY, from the two arrays in binary format that a flush sends. Elements of an array and
 * fields of a row have the same form: the length, then the value.
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

/** Copies with a loop, which is faster than a call of copy for such short fields. */
function append(to: Buffer, at: number, from: Buffer, start: number, end: number): number {
  let next = at;
  // In range because of the lengths that were just read.
  for (let byte = start; byte < end; byte += 1) to[next++] = from[byte] as number;
  return next;
}
