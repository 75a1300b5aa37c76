/**
 * A primary and a standby that streams from it, for tests of failovers.
 */
import { connectTo, createDatabaseOn, runStatements } from './database-connection.js';
import { eventually } from './eventually.js';
import type { OutagePostgres } from './outage-postgres.js';

/** Whether a commit waits until the standby has it on disk. */
export type Replication = 'synchronous' | 'asynchronous';

/** A standby refuses to start with fewer connections or senders than the cluster was made with. */
const SETTINGS = { max_wal_senders: '10', wal_keep_size: '1GB', max_connections: '100' };

/** What a failover was like. */
export interface Failover {
  /** By `performance.now()`. */
  readonly killedAtMs: number;
  readonly promotedAtMs: number;
  /** The positions of all streams together, as the standby had them. */
  readonly positions: bigint;
}

/** See the file's head. */
export class PostgresPair {
  readonly primary: OutagePostgres;
  readonly standby: OutagePostgres;
  /** The database at the primary, and at the standby. */
  readonly primaryUrl: string;
  readonly standbyUrl: string;

  private constructor(primary: OutagePostgres, standby: OutagePostgres, primaryUrl: string) {
    this.primary = primary;
    this.standby = standby;
    this.primaryUrl = primaryUrl;
    const url = new URL(standby.url);
    url.pathname = new URL(primaryUrl).pathname;
    this.standbyUrl = url.href;
  }

  /** Starts both from copies of a cluster that has never run, and makes an empty database that both have. */
  static async start(unused: OutagePostgres, replication: Replication): Promise<PostgresPair> {
    const isSynchronous = replication === 'synchronous';
    const primary = await unused.copy({ ...SETTINGS, ...(isSynchronous && { synchronous_standby_names: 'standby' }) });
    const standby = await unused.prepareStandby(primary, SETTINGS);
    try {
      await primary.start();
      await standby.start();
      const pair = new PostgresPair(primary, standby, await createDatabaseOn(primary.url));
      await pair.caughtUp();
      return pair;
    } catch (error) {
      await Promise.all([primary.dispose(), standby.dispose()]);
      throw error;
    }
  }

  /** DATABASE_URL of a server, with `hosts` in this order. */
  listOf(...hosts: readonly string[]): string {
    const url = new URL(this.primaryUrl);
    const named = hosts.map((host) => new URL(host).host).join(',');
    return `postgresql://${url.username}:${url.password}@${named}${url.pathname}?target_session_attrs=read-write`;
  }

  /** The primary first. */
  get url(): string {
    return this.listOf(this.primaryUrl, this.standbyUrl);
  }

  /** Settles when the standby has everything that the primary has committed until now. */
  async caughtUp(): Promise<void> {
    const lsn = await this.#one(this.primary.url, 'select pg_current_wal_lsn()::text as value');
    const text = `select (pg_last_wal_replay_lsn() >= '${lsn}'::pg_lsn)::text as value`;
    await eventually('the standby has caught up', async () => (await this.#one(this.standby.url, text)) === 'true');
  }

  /** From now on the standby gets nothing more. */
  async cutOff(): Promise<void> {
    await runStatements(this.standby.url, `alter system set primary_conninfo = ''`);
    await runStatements(this.standby.url, 'select pg_reload_conf()');
    const text = 'select count(*)::text as value from pg_stat_wal_receiver';
    await eventually('the end of the replication', async () => (await this.#one(this.standby.url, text)) === '0');
  }

  /** Ends the sessions whose commits wait for the standby. PostgreSQL keeps these commits. True where there was one. */
  async endWaits(): Promise<boolean> {
    const text = `select count(pg_terminate_backend(pid))::text as value from pg_stat_activity where wait_event = 'SyncRep'`;
    return (await this.#one(this.primary.url, text)) !== '0';
  }

  /** Kills the primary, lets the standby apply what it got, and promotes it. */
  async failOver(): Promise<Failover> {
    const killedAtMs = performance.now();
    await this.primary.kill();
    // What it got may end within a record, so no position says that all of it is applied.
    let before: string | undefined;
    await eventually('the standby has applied all', async () => {
      const last = before;
      before = await this.#one(this.standby.url, 'select pg_last_wal_replay_lsn()::text as value');
      return before === last;
    });
    const positions = await this.positions(this.standbyUrl);
    await runStatements(this.standby.url, 'select pg_promote()');
    return { killedAtMs, promotedAtMs: performance.now(), positions };
  }

  /** How far the streams are flushed, all together. */
  async positions(url: string): Promise<bigint> {
    return BigInt((await this.#one(url, 'select coalesce(sum(lsn), 0)::text as value from journal_checkpoints')) ?? 0);
  }

  /** Settles with the first flush at the new primary. Resolves to when that was, in words. */
  async firstFlush({ killedAtMs, promotedAtMs, positions }: Failover): Promise<string> {
    await eventually('the first flush', async () => (await this.positions(this.standbyUrl)) > positions);
    const now = performance.now();
    const seconds = (sinceMs: number): string => ((now - sinceMs) / 1000).toFixed(2);
    return `${seconds(killedAtMs)} s after the death of the primary, ${seconds(promotedAtMs)} s after the promotion`;
  }

  /** Ends both and deletes their data. */
  async dispose(): Promise<void> {
    await Promise.all([this.primary.dispose(), this.standby.dispose()]);
  }

  async #one(url: string, text: string): Promise<string | undefined> {
    const connection = await connectTo(url, 'test-observer');
    try {
      const [row] = await connection.query<{ value: string }>({ text });
      return row?.value;
    } finally {
      await connection.close();
    }
  }
}
