/**
 * The takeovers of a run, as the database saw them, and how long each took: from the last sign of life of who had the stream, or
 * from when somebody who stopped in order released it, to the epoch of another thread.
 *
 * A trigger notes each new epoch of an open stream. What PostgreSQL and the servers could do meanwhile is watched from outside.
 * A takeover that had to wait for PostgreSQL, for a broker that is the only one, or for any server that flushes, is measured from
 * when there was nothing to wait for any more.
 */
import { connectTo, runStatements } from '../support/database-connection.js';
import type { DatabaseConnection } from '#product/db/connection.js';

const WATCH_INTERVAL_MS = 100;
/** PostgreSQL counts as unavailable where it has not answered for this long. */
const SILENCE_MS = 1_000;

/** Who had the stream: who flushed it; where that stays the same, who wrote it. A queue has no writers to take over from. */
const PREDECESSORS = {
  any: 'case when new.owner is distinct from old.owner and old.owner is not null then old.owner else new.stream end',
  flushers: 'case when new.owner is distinct from old.owner then old.owner end',
};

const makeTable = (of: keyof typeof PREDECESSORS): string => `
create table crash_test_epochs (stream uuid not null, at timestamptz not null, alive_at timestamptz not null);
create table crash_test_releases (stream uuid primary key, at timestamptz not null);
create function crash_test_note_release() returns trigger language plpgsql as $$
begin
  insert into crash_test_releases values (new.stream, clock_timestamp())
  on conflict (stream) do update set at = excluded.at;
  return new;
end $$;
create trigger crash_test_note_release before update on journal_checkpoints for each row
  when (old.owner is not null and new.owner is null and new.retired_at is null) execute function crash_test_note_release();
create function crash_test_note_epoch() returns trigger language plpgsql as $$
declare
  last_sign timestamptz;
begin
  select max(alive_at) into last_sign from journal_heartbeats
  where id = ${PREDECESSORS[of]};
  if last_sign is not null then
    insert into crash_test_epochs values (new.stream, clock_timestamp(),
      greatest(last_sign, (select at from crash_test_releases where stream = new.stream)));
  end if;
  return new;
end $$;
create trigger crash_test_note_epoch before update on journal_checkpoints for each row
  when (new.epoch <> old.epoch and old.retired_at is null) execute function crash_test_note_epoch();
`;

/** Takings of streams whose owner was heard of just now are no takeovers: a server finishes what it wrote itself. */
const READ_TAKEOVERS = `
select stream::text, extract(epoch from alive_at)::float8 * 1000 as from_ms, extract(epoch from at)::float8 * 1000 as to_ms
from crash_test_epochs where at - alive_at >= interval '6 seconds' order by at`;

/** Two times, ms since 1970. */
interface Period {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A takeover. */
export interface Takeover {
  readonly stream: string;
  /** When the new epoch was written, ms since 1970. */
  readonly atMs: number;
  /** Since the last sign of life. */
  readonly silentMs: number;
  /** Of it, the time up to the takeover in which PostgreSQL and the broker answered, and a server that flushes was there. */
  readonly possibleMs: number;
}

/** See the file's head. */
export class TakeoverLog {
  readonly #url: string;
  readonly #canTakeOver: () => readonly object[];
  readonly #outages: Period[] = [];
  /** By server: since when it is able to take over. */
  readonly #ableSince = new Map<object, number>();
  readonly #able: Period[] = [];
  readonly #stopped = new AbortController();
  readonly #watching: Promise<void>;

  private constructor(url: string, canTakeOver: () => readonly object[]) {
    this.#url = url;
    this.#canTakeOver = canTakeOver;
    this.#watching = this.#watch();
  }

  /**
   * Begins once the tables are there. `canTakeOver`: the server processes that flush, are ready and not suspended now. `of`: whose
   * streams are taken over, those of all who are gone, or of those who flushed only.
   */
  static async start(
    url: string,
    canTakeOver: () => readonly object[],
    of: keyof typeof PREDECESSORS = 'any',
  ): Promise<TakeoverLog> {
    await runStatements(url, makeTable(of));
    return new TakeoverLog(url, canTakeOver);
  }

  /** The only broker, or the queue, did not answer from then until now. Times are ms since 1970. */
  noteOutage(fromMs: number): void {
    this.#outages.push({ fromMs, toMs: Date.now() });
  }

  /** Ends the watch, and reads what was noted. PostgreSQL must be available. */
  async finish(): Promise<readonly Takeover[]> {
    await this.stop();
    const connection = await connectTo(this.#url, 'test-takeovers');
    try {
      const rows = await connection.query<{ stream: string; from_ms: number; to_ms: number }>({ text: READ_TAKEOVERS });
      return rows.map(({ stream, from_ms: fromMs, to_ms: atMs }) => {
        return { stream, atMs, silentMs: atMs - fromMs, possibleMs: atMs - this.#possibleSince(fromMs, atMs) };
      });
    } finally {
      await connection.close();
    }
  }

  /** Ends the watch. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#watching;
  }

  #possibleSince(fromMs: number, atMs: number): number {
    const outageEnds = this.#outages.filter((outage) => outage.fromMs < atMs).map(({ toMs }) => toMs);
    const able = this.#able.filter((period) => period.fromMs < atMs && period.toMs >= atMs - WATCH_INTERVAL_MS);
    const ableSince = Math.min(atMs, ...able.map((period) => period.fromMs));
    return Math.min(atMs, Math.max(fromMs, ableSince, ...outageEnds));
  }

  async #watch(): Promise<void> {
    let connection: DatabaseConnection | undefined;
    let answeredAt = Date.now();
    while (!this.#stopped.signal.aborted) {
      try {
        connection ??= await connectTo(this.#url, 'test-watch');
        await connection.query({ text: 'select 1' });
        const now = Date.now();
        if (now - answeredAt > SILENCE_MS) this.#outages.push({ fromMs: answeredAt, toMs: now });
        answeredAt = now;
      } catch {
        connection?.destroy();
        connection = undefined;
      }
      this.#noteAble(this.#canTakeOver());
      await new Promise((resolve) => setTimeout(resolve, WATCH_INTERVAL_MS));
    }
    this.#noteAble([]);
    await connection?.close();
  }

  #noteAble(able: readonly object[]): void {
    const now = Date.now();
    for (const server of able) if (!this.#ableSince.has(server)) this.#ableSince.set(server, now);
    for (const [server, fromMs] of this.#ableSince) {
      if (able.includes(server)) continue;
      this.#able.push({ fromMs, toMs: now });
      this.#ableSince.delete(server);
    }
  }
}
