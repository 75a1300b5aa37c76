/**
 * The part of PostgreSQL that the product uses, at read committed: sessions that are lost before or after a commit,
 * transactions of several statements, row locks, a clock of its own, and statements that continue when the process that sent
 * them has ended. `database/` has the parts: tables, locks, transactions, and the meaning of each statement.
 *
 * ```text
 * sent → arrived → (waiting for a lock) → executed → (committed) → answered        each takes a while
 *
 * transaction: begin → statement... → commit | rollback | refused: aborted, locks released → rollback
 *              its session is lost: rolled back once the server notices, unless the commit has arrived
 * ```
 *
 * A statement outside of a transaction is one of its own. What it does happens with its commit, all at once.
 */
import pg from 'pg';
import type { Statement } from '#product/db/connection.js';
import * as sql from '#product/db/statements.js';
import * as upkeep from '#product/db/upkeep-statements.js';
import type { Mulberry32 } from '../support/mulberry32.js';
import { DatabaseClock, DEFAULT_SCALE, type TimeScale } from './database/database-clock.js';
import type { DatabaseMutations } from './database/database-mutations.js';
import type { FlushEffect } from './database/flush-effect.js';
import { LockTable } from './database/locks.js';
import { otherStatements } from './database/other-statements.js';
import { logOwnerStatements } from './database/log-owner-statements.js';
import { APPENDS, logWriterStatements } from './database/log-writer-statements.js';
import { elsewhereStreamStatements } from './database/elsewhere-stream-statements.js';
import { FLUSHES, ownerStatements } from './database/owner-statements.js';
import { prunerStatements } from './database/pruner-statements.js';
import { SimulatedSession } from './database/session.js';
import { setAsideStatements } from './database/set-aside-statements.js';
import { type Plan, rowLock, type Server, type StatementMeaning } from './database/statement.js';
import { add, copyTables, newTables, type Tables, type UncoveredRow } from './database/tables.js';
import { takingStatements } from './database/taking-statements.js';
import { Transaction } from './database/transaction.js';
import { refusal, type Row } from './database/values.js';
import { Life, type Scheduler } from './scheduler.js';

/** The client's own time limit for a statement. */
const CLIENT_TIMEOUT_MS = 40_000;
/** The first of the times at which the server looks whether the client of an idle transaction is gone. */
const FIRST_LOOK_MS = 20;

const IN_FAILED_TRANSACTION = '25P02';
const READ_ONLY_TRANSACTION = '25006';
/** Codes of refusals that say: the same again, later. */
const RETRYABLE = ['55P03', '57014', '40001', '40P01', '53100', READ_ONLY_TRANSACTION] as const;

const BEGINS: readonly string[] = [sql.BEGIN_TAKING, upkeep.BEGIN_PRUNING];
const COMMITS: readonly string[] = [sql.COMMIT_TAKING, upkeep.COMMIT_PRUNING];
const ROLLBACKS: readonly string[] = [sql.ROLL_BACK_TAKING];

const MEANINGS: ReadonlyMap<string, StatementMeaning> = new Map([
  ...takingStatements,
  ...ownerStatements,
  ...prunerStatements,
  ...logWriterStatements,
  ...logOwnerStatements,
  ...elsewhereStreamStatements,
  ...setAsideStatements,
  ...otherStatements,
]);

/** Called with each commit, and with the effect of a flush if it was one. */
export interface DatabaseWatch {
  sent(stream: string, toLsn: number): void;
  committed(effect: FlushEffect | undefined): void;
  /** The pruner has retired a stream of which nothing was heard. */
  expired?(stream: string): void;
}

/** A request as a node that never fails counts it. */
export interface RequestElsewhere {
  readonly idempotencyKey: string;
  readonly digest: Buffer;
  readonly sums: readonly (readonly [string, bigint])[];
}

interface Execution {
  readonly session: SimulatedSession;
  readonly text: string;
  readonly values: readonly unknown[];
  readonly resolve: (rows: Row[]) => void;
  readonly reject: (error: Error) => void;
}

/** The server. */
export class PostgresModel implements Server {
  readonly #scheduler: Scheduler;
  readonly #random: Mulberry32;
  readonly #watch: DatabaseWatch;
  readonly mutations: DatabaseMutations;
  readonly databaseId: string;
  readonly clock: DatabaseClock;
  readonly locks = new LockTable();
  tables: Tables;
  /** The highest LSN that each stream's row ever had. */
  readonly highWater = new Map<string, number>();
  prunerSession: SimulatedSession | undefined;
  /** How often the pruner or an operator has retired a stream. */
  expirations = 0;
  /** These streams. */
  readonly retiredStreams = new Set<string>();
  /** Ends with the server process. */
  #life = new Life(throwOn);
  #sessions: SimulatedSession[] = [];
  /** Sessions that the server has not ended. A client may have lost its side, and what it has sent may still arrive. */
  readonly #serverSides = new Set<SimulatedSession>();
  #backends = 0;
  /** The machine is down, whatever the network does. */
  isDead = false;
  #network: 'fine' | 'gone' | 'silent' = 'fine';
  /** The number of following statements that are refused with a retryable code. */
  refuseNext = 0;
  /** Until then a trigger drops every row of counters. */
  dropsRowsUntil = 0;
  /** Until then a trigger drops every row of idempotency_keys. */
  dropsTokensUntil = 0;
  /** The next append, flush or commit loses its connection at some point. */
  loseNext = 0;
  /** Multiplies the time that statements take. */
  slowness = 1;

  constructor(
    scheduler: Scheduler,
    random: Mulberry32,
    watch: DatabaseWatch,
    mutations: DatabaseMutations,
    id: string,
    scale: TimeScale = DEFAULT_SCALE,
  ) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#watch = watch;
    this.mutations = mutations;
    this.databaseId = id;
    this.clock = new DatabaseClock(scheduler, random, scale);
    this.tables = newTables(this.clock.now());
  }

  get dropsRows(): boolean {
    return this.#scheduler.now < this.dropsRowsUntil;
  }

  get dropsTokens(): boolean {
    return this.#scheduler.now < this.dropsTokensUntil;
  }

  /** `gone`: connections are refused; `silent`: nothing passes in either direction. */
  get network(): 'fine' | 'gone' | 'silent' {
    return this.isDead ? 'gone' : this.#network;
  }

  set network(network: 'fine' | 'gone' | 'silent') {
    this.#network = network;
  }

  /** Opens a session for a client's life. Rejects with the network's errors. `timeoutMs`: how long the client waits for an answer. */
  async connect(life: Life, timeoutMs = CLIENT_TIMEOUT_MS): Promise<SimulatedSession> {
    const { network } = this;
    await this.#pause(network === 'silent' ? 2000 : 1 + this.below(3), life);
    if (this.network !== 'fine' || network !== 'fine') {
      throw Object.assign(new Error('connect'), { code: network === 'silent' ? 'ETIMEDOUT' : 'ECONNREFUSED' });
    }
    this.#backends += 1;
    const session = new SimulatedSession(this, life, this.#backends, timeoutMs);
    this.#sessions = this.#sessions.filter((other) => !other.lost && !other.clientIsGone);
    this.#sessions.push(session);
    this.#serverSides.add(session);
    return session;
  }

  /** The server process ends: what is not committed is lost. */
  crash(): void {
    this.#life.end();
    this.#life = new Life(throwOn);
    this.locks.clear();
    this.prunerSession = undefined;
    // A frozen client does not know it yet.
    for (const session of this.#serverSides) {
      session.isEnded = true;
      session.transaction = undefined;
    }
    this.#serverSides.clear();
    this.#cutSessions();
  }

  /** The network closes every session; the server continues the statements that have reached it. */
  cut(): void {
    this.#cutSessions();
  }

  /** The network silently drops every current session; new ones work. */
  silence(): void {
    for (const session of this.#sessions) session.isSilent = true;
  }

  /** A failover to a standby that had received up to `tables`, on a machine with another clock. */
  failOver(tables: Tables): void {
    this.crash();
    this.tables = copyTables(tables);
    this.clock.step();
  }

  snapshot(): Tables {
    return copyTables(this.tables);
  }

  /** Somebody deletes a stream's row, and its claims if `withClaims`. False while a transaction has it locked. */
  deleteStream(stream: string, withClaims: boolean): boolean {
    if (this.locks.isHeldByOther(rowLock(stream), this)) return false;
    const row = this.tables.checkpoints.get(stream);
    if (row === undefined) return false;
    if (withClaims) this.tables.claims.delete(stream);
    this.tables.deleted.set(stream, row.lsn);
    return this.tables.checkpoints.delete(stream);
  }

  /**
   * A node that never fails counts a request, as the statement of an operator does: records its idempotency key and adds the
   * sums, in one. False where the key is recorded already. Its own stream holds nothing up, since nothing is ever pending there.
   */
  countElsewhere({ idempotencyKey, digest, sums }: RequestElsewhere): boolean {
    const { tokens, counters } = this.tables;
    if (tokens.has(idempotencyKey)) return false;
    tokens.set(idempotencyKey, { digest, claimedAt: this.clock.now() });
    for (const [key, amount] of sums) add(counters, key, amount);
    this.committed({ stream: undefined, epoch: 0, from: 0, to: 0, sums, uncovered: [] });
    return true;
  }

  /** Somebody keeps increments of a stream that has no row. */
  putAside(rows: readonly UncoveredRow[]): void {
    this.tables.uncovered.push(...rows);
    this.committed(undefined);
  }

  /** Takes a statement from a session; settles its promise. */
  submit(
    session: SimulatedSession,
    { text, values = [] }: Statement,
    resolve: (rows: Row[]) => void,
    reject: (error: Error) => void,
  ): void {
    // Copies: the shard reuses the memory of its parameters.
    const copied = values.map((value) => (Buffer.isBuffer(value) ? Buffer.from(value) : value));
    const execution: Execution = { session, text, values: copied, resolve, reject };
    const isFlush = FLUSHES.includes(text);
    if (isFlush) this.#watch.sent(String(values[0]), Number(values[3]));
    if ((isFlush || APPENDS.includes(text) || COMMITS.includes(text)) && this.loseNext > 0) {
      this.loseNext -= 1;
      this.#scheduler.after(this.below(20), session.life, () => session.lose());
    }
    if (this.network === 'silent') this.#loseLater(session);
    else if (session.isSilent && this.below(2) === 0) this.#loseAtTimeout(session);
    else this.after(this.#latency(), () => this.#arrive(execution));
  }

  below(bound: number): number {
    return this.#random.below(bound);
  }

  after(delayMs: number, callback: () => void): void {
    this.#scheduler.after(delayMs, this.#life, callback);
  }

  committed(effect: FlushEffect | undefined): void {
    this.#watch.committed(effect);
  }

  expired(stream: string): void {
    this.retired(stream);
    this.#watch.expired?.(stream);
  }

  retired(stream: string): void {
    this.expirations += 1;
    this.retiredStreams.add(stream);
  }

  backend(pid: unknown): SimulatedSession | undefined {
    return this.#sessions.find(({ backend, isEnded }) => backend.pid === pid && !isEnded);
  }

  isIdle({ idleSince }: SimulatedSession): boolean {
    return idleSince < this.#scheduler.now - 1000;
  }

  /** The server ends an idle session. */
  endSession(session: SimulatedSession): void {
    session.isEnded = true;
    this.#serverSides.delete(session);
    this.#endTransaction(session.transaction, session);
    if (this.prunerSession === session) this.prunerSession = undefined;
    if (!session.isSilent) session.lose();
  }

  #arrive(execution: Execution): void {
    if (execution.session.clientIsGone) {
      // Data in the network's buffers may arrive late, or never.
      if (this.below(2) === 0) return;
      this.after(this.below(3000), () => this.#start(execution));
      return;
    }
    this.#start(execution);
  }

  #start(execution: Execution): void {
    const { session, text, values } = execution;
    if (session.isEnded) {
      this.#loseAtTimeout(session);
      return;
    }
    session.idleSince = Number.POSITIVE_INFINITY;
    session.statements += 1;
    const isBegin = BEGINS.includes(text);
    const isRollback = ROLLBACKS.includes(text);
    if (this.refuseNext > 0 && !isBegin && !isRollback) {
      this.refuseNext -= 1;
      const code = this.#random.pick(RETRYABLE);
      this.#refuse(execution, session.transaction, refusal(code));
      return;
    }
    const arrivedAt = this.clock.now();
    if (isBegin) session.transaction ??= this.#begin(arrivedAt);
    const inTransaction = session.transaction;
    if (isBegin || isRollback || COMMITS.includes(text)) {
      this.#finish(execution, inTransaction, isBegin ? 'open' : isRollback ? 'rollback' : 'commit', []);
      return;
    }
    if (inTransaction?.isAborted === true) {
      this.#answer(execution, refusal(IN_FAILED_TRANSACTION));
      return;
    }
    const meaning = MEANINGS.get(text);
    if (meaning === undefined) throw new Error(`The model does not know this statement: ${text}`);
    const transaction = inTransaction ?? this.#begin(arrivedAt);
    const plan = meaning({ server: this, session, transaction, values, arrivedAt });
    this.#lock(execution, transaction, plan);
  }

  #begin(now: number): Transaction {
    return new Transaction(now, () => this.tables);
  }

  #lock(execution: Execution, transaction: Transaction, plan: Plan): void {
    const { lock } = plan;
    let isWaiting = true;
    const run = (): void => {
      isWaiting = false;
      this.#run(execution, transaction, plan);
    };
    if (lock === undefined || this.locks.acquire(lock.name, transaction, lock.mode, run)) {
      run();
      return;
    }
    this.after(this.clock.scale.lockTimeoutMs, () => {
      if (!isWaiting) return;
      this.locks.giveUp(lock.name, transaction);
      this.#refuse(execution, transaction, refusal('55P03'));
    });
  }

  #run(execution: Execution, transaction: Transaction, plan: Plan): void {
    let rows: Row[] | Plan;
    try {
      rows = plan.run();
    } catch (error) {
      if (!(error instanceof pg.DatabaseError)) throw error;
      this.#refuse(execution, transaction, error);
      return;
    }
    if (!Array.isArray(rows)) {
      this.#lock(execution, transaction, rows);
      return;
    }
    this.#finish(execution, transaction, execution.session.transaction === undefined ? 'commit' : 'open', rows);
  }

  /** The statement takes a while; then its transaction ends, or stays open. */
  #finish(
    execution: Execution,
    transaction: Transaction | undefined,
    end: 'open' | 'commit' | 'rollback',
    rows: Row[],
  ): void {
    const { session } = execution;
    const slow = this.below(12) === 0 ? 200 : 2;
    const late = session.clientIsGone && this.below(2) === 0 ? this.below(3000) : 0;
    this.after(late + this.below(slow) * this.slowness, () => {
      if (end !== 'open') {
        // The commit of an aborted transaction rolls it back.
        if (end === 'commit' && transaction?.isAborted === false) this.#commit(transaction);
        this.#endTransaction(transaction, session);
      }
      this.#answer(execution, rows);
    });
  }

  #commit(transaction: Transaction): void {
    transaction.commit();
    for (const stream of transaction.changedStreams) {
      const lsn = this.tables.checkpoints.get(stream)?.lsn ?? 0;
      this.highWater.set(stream, Math.max(this.highWater.get(stream) ?? 0, lsn));
    }
    this.committed(transaction.flushed);
  }

  #endTransaction(transaction: Transaction | undefined, session: SimulatedSession): void {
    if (session.transaction === transaction) session.transaction = undefined;
    if (transaction !== undefined) this.locks.releaseAll(transaction);
  }

  /** An error ends what the transaction has locked; in a transaction of several statements only a rollback may follow. */
  #refuse(execution: Execution, transaction: Transaction | undefined, error: pg.DatabaseError): void {
    if (transaction !== undefined) {
      transaction.isAborted = true;
      this.locks.releaseAll(transaction);
    }
    if (COMMITS.includes(execution.text)) this.#endTransaction(transaction, execution.session);
    this.#answer(execution, error);
  }

  #answer({ session, resolve, reject }: Execution, answer: Row[] | pg.DatabaseError): void {
    session.idleSince = this.#scheduler.now;
    if (session.transaction !== undefined) this.#watchIdle(session, session.statements, 0, FIRST_LOOK_MS);
    if (session.isSilent) {
      this.#loseAtTimeout(session);
      return;
    }
    if (this.network === 'silent') {
      this.#loseLater(session);
      return;
    }
    this.#scheduler.after(this.#latency(), session.life, () => {
      if (Array.isArray(answer)) {
        session.settle(() => resolve(answer));
        return;
      }
      session.settle(() => reject(answer));
      // Like a DatabaseConnection that takes no writes.
      if (answer.code === READ_ONLY_TRANSACTION) session.lose();
    });
  }

  /** Ends a transaction whose client is gone or silent: the server notices soon, or late. */
  #watchIdle(session: SimulatedSession, statement: number, idleMs: number, lookInMs: number): void {
    this.after(lookInMs, () => {
      if (session.statements !== statement || session.isEnded) return;
      const idle = idleMs + lookInMs;
      const { idleTimeoutMs } = this.clock.scale;
      if (idle >= idleTimeoutMs || (session.clientIsGone && this.below(2) === 0)) this.endSession(session);
      else this.#watchIdle(session, statement, idle, Math.min(2 * lookInMs, idleTimeoutMs - idle));
    });
  }

  #cutSessions(): void {
    const sessions = this.#sessions;
    this.#sessions = [];
    for (const session of sessions) session.lose();
  }

  /** Keep-alives and timeouts detect after some time that nobody answers. */
  #loseLater(session: SimulatedSession): void {
    const ms = Math.min(session.timeoutMs, 1000 + this.below(7000));
    this.#scheduler.after(ms, session.life, () => session.lose());
  }

  #loseAtTimeout(session: SimulatedSession): void {
    this.#scheduler.after(session.timeoutMs, session.life, () => session.lose());
  }

  #latency(): number {
    return this.below(20) / 10;
  }

  #pause(ms: number, life: Life): Promise<void> {
    return new Promise((resolve) => this.#scheduler.after(ms, life, resolve));
  }
}

function throwOn(error: unknown): never {
  throw error;
}
