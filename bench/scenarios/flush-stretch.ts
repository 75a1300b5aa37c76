/**
 * One stretch of writing rows: several writers, each with one statement after the other, then the check that every row
 * is there and that the sum is right.
 */
import type { BenchDatabase } from '../processes/bench-postgres.js';
import type { FlushMethod, FlushWriter } from './flush-methods.js';
import { cpuTime } from '../processes/process-cost.js';
import type { FlushFigures } from '../report/record.js';
import { RowSource } from './row-source.js';

/** Tables with more rows are emptied, so that every stretch has an index of about the same depth. */
const NEW_ROWS_MAX = 2_000_000;

/** A method on one kind of rows. */
export interface FlushSubject {
  readonly method: FlushMethod;
  readonly rows: 'new' | 'existing';
  readonly writers: number;
  readonly rowsAStatement: number;
}

/** A database for one method, and its writers, which continue from stretch to stretch. */
export class FlushTable {
  readonly #database: BenchDatabase;
  readonly #method: FlushMethod;
  readonly #postgresPid: number;
  readonly #writers: FlushWriter[] = [];
  /** Keys a writer, if rows are updated. */
  readonly #circle: number | undefined;
  #added = 0;
  #rows = 0;

  constructor(database: BenchDatabase, method: FlushMethod, postgresPid: number, circle?: number) {
    this.#database = database;
    this.#method = method;
    this.#postgresPid = postgresPid;
    this.#circle = circle;
  }

  /** Opens the writers. If rows are to be updated, writes them first. */
  async open(writers: number): Promise<void> {
    for (let writer = 0; writer < writers; writer += 1) {
      const source = new RowSource(writer, this.#circle);
      const opened = await this.#method.open(this.#database.target, source);
      this.#writers.push(opened);
      if (this.#circle === undefined) continue;
      await opened.write(this.#circle);
      this.#added += this.#circle;
      this.#rows += this.#circle;
    }
    if (this.#circle !== undefined) await this.#run('vacuum analyze counters');
  }

  /**
   * Writes statements of `rowsAStatement` rows for `seconds`. With `goOn` the table is not emptied, however large it
   * is.
   */
  async run(writers: number, rowsAStatement: number, seconds: number, goOn = false): Promise<FlushFigures> {
    if (this.#circle === undefined && this.#rows > NEW_ROWS_MAX && !goOn) {
      await this.#run('truncate counters');
      this.#rows = 0;
      this.#added = 0;
    }
    const walBefore = await this.#walBytes();
    const databaseBefore = this.#databaseCpuMs();
    const clientBefore = process.cpuUsage();
    const startMs = performance.now();
    const counts = await Promise.all(
      this.#writers.slice(0, writers).map(async (writer) => {
        let rows = 0;
        let elapsedMs = 0;
        while (elapsedMs < seconds * 1000) {
          await writer.write(rowsAStatement);
          rows += rowsAStatement;
          elapsedMs = performance.now() - startMs;
        }
        // Each writer has its own clock: the last statement of one must not count as time of the others.
        return { rows, perSecond: rows / (elapsedMs / 1000) };
      }),
    );
    const elapsedSeconds = (performance.now() - startMs) / 1000;
    const { user, system } = process.cpuUsage(clientBefore);
    const databaseMs = this.#databaseCpuMs() - databaseBefore;
    const walBytes = (await this.#walBytes()) - walBefore;
    const rows = counts.reduce((total, count) => total + count.rows, 0);
    this.#added += rows;
    if (this.#circle === undefined) this.#rows += rows;
    await this.#check();
    return {
      rows,
      seconds: elapsedSeconds,
      rowsPerSecond: counts.reduce((total, count) => total + count.perSecond, 0),
      databaseCpuUs: (databaseMs * 1000) / rows,
      clientCpuUs: (user + system) / rows,
      walBytes: walBytes / rows,
    };
  }

  async close(): Promise<void> {
    for (const writer of this.#writers) await writer.close();
    await this.#database.connection.close();
  }

  async #check(): Promise<void> {
    const [found] = await this.#run<{ sum: string; rows: string }>(
      'select coalesce(sum(sum), 0)::text as sum, count(*)::text as rows from counters',
    );
    if (Number(found?.sum) !== this.#added || Number(found?.rows) !== this.#rows) {
      throw new Error(
        `${this.#method.name}: the table has ${found?.rows ?? 0} rows with a sum of ${found?.sum ?? 0}; ` +
          `${this.#rows} with ${this.#added} were written.`,
      );
    }
  }

  async #walBytes(): Promise<number> {
    const [row] = await this.#run<{ bytes: string }>(
      `select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::text as bytes`,
    );
    return Number(row?.bytes);
  }

  #databaseCpuMs(): number {
    const { ownMs, descendantsMs } = cpuTime(this.#postgresPid);
    return ownMs + descendantsMs;
  }

  #run<Row extends object>(text: string): Promise<Row[]> {
    return this.#database.connection.query<Row>({ text });
  }
}
