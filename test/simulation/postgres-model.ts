/**
 * The part of PostgreSQL that shards use: a model of every statement of `statements.ts` that they send, at read
 * committed, with row locks on checkpoints, sessions that are lost before or after a commit, and statements that
 * continue when the process that sent them has ended.
 *
 * A statement's states: sent → arrived → (waiting for a lock) → executed → committed → answered. Each takes a while.
 */
import pg from 'pg';
import type { Backend, Statement } from '#product/db/connection.js';
import { END_IDLE_BACKEND, IS_BACKEND_IDLE } from '#product/db/session-statements.js';
import * as sql from '#product/db/statements.js';
import type { Mulberry32 } from '../support/mulberry32.js';
import { decodeBytes, decodeIntegers, decodeTexts } from './binary-arrays.js';
import { Life, type Scheduler } from './scheduler.js';

const LOCK_TIMEOUT_MS = 5000;
/** The client's own time limit for a statement. */
const CLIENT_TIMEOUT_MS = 40_000;

/** A row of journal_checkpoints. */
export interface CheckpointRow {
  readonly epoch: number;
  readonly lsn: number;
  readonly acceptedThroughMs: number;
  readonly retired: boolean;
}

/** A row of journal_claims. */
export interface ClaimRow {
  readonly epoch: number;
  readonly claim: string;
  readonly lsn: number;
}

/** Everything committed. */
export interface Tables {
  /** By stream, in order of epochs. */
  readonly claims: Map<string, readonly ClaimRow[]>;
  readonly checkpoints: Map<string, CheckpointRow>;
  /** Sums by key, and the sums in rejected_increments by key. */
  readonly counters: Map<string, bigint>;
  readonly rejected: Map<string, bigint>;
  /** Digests by idempotency key. */
  readonly tokens: Map<string, Buffer>;
}

/** The effect of a flush. */
export interface FlushEffect {
  readonly stream: string;
  /** The epoch that the statement carried. */
  readonly epoch: number;
  readonly from: number;
  readonly to: number;
  readonly sums: readonly (readonly [string, bigint])[];
}

/** Called with each commit that changed sums or a checkpoint. */
export interface DatabaseWatch {
  sent(stream: string, toLsn: number): void;
  committed(effect: FlushEffect | undefined): void;
}

/** Bugs of less careful statements, to prove that the simulation finds them. */
export interface DatabaseMutations {
  readonly ignoreEpoch?: boolean;
  readonly separateTransactions?: boolean;
  /** A raise of the epoch accepts any current epoch, not only the one that was read. */
  readonly raiseAnyEpoch?: boolean;
}

/** The server refuses keys with this prefix, like rows that are too large. */
export const POISON_PREFIX = 'poison';

type Row = Record<string, unknown>;
type Step =
  { readonly rows: Row[]; readonly change?: () => FlushEffect | undefined } | { readonly refusal: pg.DatabaseError };

/** The server. */
export class PostgresModel {
  readonly #scheduler: Scheduler;
  readonly #random: Mulberry32;
  readonly #watch: DatabaseWatch;
  readonly mutations: DatabaseMutations;
  readonly databaseId: string;
  tables: Tables = {
    claims: new Map(),
    checkpoints: new Map(),
    counters: new Map(),
    rejected: new Map(),
    tokens: new Map(),
  };
  /** The highest LSN that each stream's row ever had. */
  readonly highWater = new Map<string, number>();
  /** Ends with the server process. */
  #life = new Life(throwOn);
  readonly #locks = new Map<string, Execution[]>();
  #sessions: SimulatedSession[] = [];
  #backends = 0;
  /** The machine is down, whatever the network does. */
  isDead = false;
  #network: 'fine' | 'gone' | 'silent' = 'fine';
  /** The number of following statements that are refused with a retryable code. */
  refuseNext = 0;
  /** The next flush loses its connection at some point. */
  loseNext = 0;
  /** Multiplies the time that statements take. */
  slowness = 1;

  constructor(
    scheduler: Scheduler,
    random: Mulberry32,
    watch: DatabaseWatch,
    mutations: DatabaseMutations,
    id: string,
  ) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#watch = watch;
    this.mutations = mutations;
    this.databaseId = id;
  }

  /** `gone`: connections are refused; `silent`: nothing passes in either direction. */
  get network(): 'fine' | 'gone' | 'silent' {
    return this.isDead ? 'gone' : this.#network;
  }

  set network(network: 'fine' | 'gone' | 'silent') {
    this.#network = network;
  }

  /** Opens a session for a client's life. Rejects with the network's errors. */
  async connect(life: Life): Promise<SimulatedSession> {
    const { network } = this;
    await this.#pause(network === 'silent' ? 2000 : 1 + this.#random.below(3), life);
    if (this.network !== 'fine' || network !== 'fine') {
      throw Object.assign(new Error('connect'), { code: network === 'silent' ? 'ETIMEDOUT' : 'ECONNREFUSED' });
    }
    this.#backends += 1;
    const session = new SimulatedSession(this, life, this.#backends);
    this.#sessions = this.#sessions.filter((other) => !other.lost && !other.clientIsGone);
    this.#sessions.push(session);
    return session;
  }

  /** The server process ends: uncommitted statements are lost. */
  crash(): void {
    this.#life.end();
    this.#life = new Life(throwOn);
    this.#locks.clear();
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

  /** A failover to a standby that had received up to `tables`. */
  failOver(tables: Tables): void {
    this.crash();
    this.tables = tables;
  }

  snapshot(): Tables {
    const { claims, checkpoints, counters, rejected, tokens } = this.tables;
    return {
      claims: new Map(claims),
      checkpoints: new Map(checkpoints),
      counters: new Map(counters),
      rejected: new Map(rejected),
      tokens: new Map(tokens),
    };
  }

  /** Takes a statement from a session; settles `execution`. */
  submit(
    session: SimulatedSession,
    statement: Statement,
    resolve: (rows: Row[]) => void,
    reject: (error: Error) => void,
  ): void {
    const values = statement.values ?? [];
    const execution = this.#decode(session, statement.text, values, resolve, reject);
    if (execution.flush !== undefined) this.#watch.sent(execution.flush.stream, execution.flush.to);
    const isFlush = execution.flush !== undefined;
    if (isFlush && this.loseNext > 0) {
      this.loseNext -= 1;
      this.#scheduler.after(this.#random.below(20), session.life, () => session.lose());
    }
    if (this.network === 'silent') this.#loseLater(session);
    else if (session.isSilent && this.#random.below(2) === 0) this.#loseAtTimeout(session);
    else this.#after(this.#latency(), () => this.#arrive(execution));
  }

  #arrive(execution: Execution): void {
    if (execution.session.clientIsGone) {
      // Data in the network's buffers may arrive late, or never.
      if (this.#random.below(2) === 0) return;
      this.#after(this.#random.below(3000), () => this.#start(execution));
      return;
    }
    this.#start(execution);
  }

  #start(execution: Execution): void {
    if (execution.session.isEnded) return;
    execution.session.idleSince = Number.POSITIVE_INFINITY;
    if (this.refuseNext > 0) {
      this.refuseNext -= 1;
      const code = this.#random.pick(['55P03', '57014', '40001', '40P01', '53100', '25006']);
      this.#answer(execution, { refusal: refusal(code) });
      return;
    }
    const { stream } = execution;
    const row = stream === undefined ? undefined : this.tables.checkpoints.get(stream);
    if (stream === undefined || row === undefined || !execution.locks(row)) {
      this.#finish(execution, execution.execute(row));
      return;
    }
    const queue = this.#locks.get(stream) ?? [];
    this.#locks.set(stream, queue);
    queue.push(execution);
    if (queue.length === 1) this.#locked(execution, stream);
    else this.#after(LOCK_TIMEOUT_MS, () => this.#giveUp(execution, stream));
  }

  #locked(execution: Execution, stream: string): void {
    execution.isWaiting = false;
    this.#finish(execution, execution.execute(this.tables.checkpoints.get(stream)), stream);
  }

  #giveUp(execution: Execution, stream: string): void {
    if (!execution.isWaiting) return;
    const queue = this.#locks.get(stream);
    const index = queue?.indexOf(execution) ?? -1;
    if (index <= 0) return;
    queue?.splice(index, 1);
    this.#answer(execution, { refusal: refusal('55P03') });
  }

  /** Commits after a while, then answers. */
  #finish(execution: Execution, step: Step, lock?: string): void {
    const slow = this.#random.below(12) === 0 ? 200 : 2;
    const late = execution.session.clientIsGone && this.#random.below(2) === 0 ? this.#random.below(3000) : 0;
    this.#after(late + this.#random.below(slow) * this.slowness, () => {
      if ('change' in step) this.#watch.committed(step.change?.());
      if (lock !== undefined) this.#release(lock);
      this.#answer(execution, step);
    });
  }

  #release(stream: string): void {
    const queue = this.#locks.get(stream) ?? [];
    queue.shift();
    const [next] = queue;
    if (next === undefined) this.#locks.delete(stream);
    else this.#locked(next, stream);
  }

  #answer(execution: Execution, step: Step): void {
    execution.session.idleSince = this.#scheduler.now;
    if (execution.session.isSilent) {
      this.#loseAtTimeout(execution.session);
      return;
    }
    if (this.network === 'silent') {
      this.#loseLater(execution.session);
      return;
    }
    this.#scheduler.after(this.#latency(), execution.session.life, () => {
      if (!('refusal' in step)) {
        execution.session.settle(() => execution.resolve(step.rows));
        return;
      }
      execution.session.settle(() => execution.reject(step.refusal));
      // Like a DatabaseConnection that takes no writes.
      if (step.refusal.code === '25006') execution.session.lose();
    });
  }

  #decode(
    session: SimulatedSession,
    text: string,
    values: readonly unknown[],
    resolve: (rows: Row[]) => void,
    reject: (error: Error) => void,
  ): Execution {
    // These are the product's statements: `statements.ts` documents their parameters.
    const [stream, epoch, from] = values as [string, number, number];
    const common = { session, resolve, reject, isWaiting: true };
    const matches = (row: CheckpointRow): boolean =>
      (this.mutations.ignoreEpoch === true || row.epoch === epoch) && row.lsn === from;
    const set = (change: Partial<CheckpointRow>): undefined => {
      const row = this.tables.checkpoints.get(stream);
      if (row !== undefined) this.tables.checkpoints.set(stream, { ...row, ...change });
    };
    switch (text) {
      case sql.DATABASE_ID:
        return { ...common, locks: () => false, execute: () => ({ rows: [{ database_id: this.databaseId }] }) };
      case sql.ENSURE_CHECKPOINT:
        return {
          ...common,
          locks: () => false,
          execute: () => ({ rows: [], change: () => this.#ensure(stream) }),
        };
      case sql.RAISE_EPOCH:
      case sql.READ_BACK: {
        const [, , ids = [], lsns = [], at] = values as [string, number, string[]?, number[]?, number?];
        const raise = ids.length;
        const raises = (row: CheckpointRow): boolean =>
          raise === 0 || this.mutations.raiseAnyEpoch === true || (row.epoch === epoch && row.lsn === at);
        const execute = (row: CheckpointRow | undefined): Step => {
          if (row === undefined || !raises(row)) return { rows: [] };
          const raised = row.epoch + raise + (raise === 0 ? 0 : this.#random.below(1_000_000));
          const rows = [{ epoch: String(raised), lsn: String(row.lsn), retired: row.retired }];
          if (raise === 0) return { rows };
          const change = (): undefined => {
            set({ epoch: raised });
            const made = ids.map((claim, index): ClaimRow => {
              const isLast = index === ids.length - 1;
              const lsn = Math.max(lsns[index] ?? 0, isLast ? row.lsn : 0);
              return { epoch: raised - ids.length + index + 1, claim, lsn };
            });
            const kept = (this.tables.claims.get(stream) ?? []).filter((known) => known.epoch <= epoch);
            this.tables.claims.set(stream, [...kept, ...made]);
            return undefined;
          };
          return { rows, change };
        };
        return { ...common, stream, locks: raises, execute };
      }
      case sql.READ_CLAIMS: {
        const known = (): readonly ClaimRow[] =>
          (this.tables.claims.get(stream) ?? []).filter((row) => row.epoch <= epoch);
        const rows = (): Row[] => known().map(({ claim, lsn }) => ({ claim, lsn: String(lsn) }));
        return { ...common, locks: () => false, execute: () => ({ rows: rows() }) };
      }
      case sql.TOUCH_CHECKPOINT:
      case sql.RETIRE_STREAM: {
        const acceptedThrough = values[3];
        const touched = acceptedThrough instanceof Date ? { acceptedThroughMs: acceptedThrough.getTime() } : {};
        const change: Partial<CheckpointRow> = text === sql.RETIRE_STREAM ? { retired: true } : touched;
        const execute = (row: CheckpointRow | undefined): Step =>
          row !== undefined && matches(row) ? { rows: [{ '?column?': 1 }], change: () => set(change) } : { rows: [] };
        return { ...common, stream, locks: matches, execute };
      }
      case sql.FLUSH:
      case sql.FLUSH_WITH_IDEMPOTENCY_KEYS:
      case sql.FLUSH_WITH_REJECTED:
        return { ...common, ...this.#flush(values, matches) };
      case sql.READ_DIGESTS: {
        const tokens = values[0] as string[];
        const rows = (): Row[] =>
          tokens.flatMap((token) => {
            const digest = this.tables.tokens.get(token);
            return digest === undefined ? [] : [{ token, digest }];
          });
        return { ...common, locks: () => false, execute: () => ({ rows: rows() }) };
      }
      case IS_BACKEND_IDLE: {
        const execute = (): Step => {
          const idleSince = this.#backend(values)?.idleSince ?? 0;
          return { rows: [{ idle: idleSince < this.#scheduler.now - 1000 }] };
        };
        return { ...common, locks: () => false, execute };
      }
      case END_IDLE_BACKEND: {
        const change = (): undefined => {
          const backend = this.#backend(values);
          if (backend === undefined || backend.idleSince === Number.POSITIVE_INFINITY) return;
          backend.isEnded = true;
          if (!backend.isSilent) backend.lose();
        };
        return { ...common, locks: () => false, execute: () => ({ rows: [], change }) };
      }
      case 'begin':
      case sql.PROBE_CONSTRAINTS:
      case 'rollback':
        return { ...common, locks: () => false, execute: () => ({ rows: [] }) };
      case sql.PROBE: {
        const poison = decodeTexts(values[0] as Buffer).some(isPoison);
        const step: Step = poison ? { refusal: refusal('54000') } : { rows: [] };
        return { ...common, locks: () => false, execute: () => step };
      }
      default:
        throw new Error(`The model does not know this statement: ${text}`);
    }
  }

  #flush(
    values: readonly unknown[],
    matches: (row: CheckpointRow) => boolean,
  ): Pick<Execution, 'stream' | 'flush' | 'locks' | 'execute'> {
    const flush = decodeFlush(values);
    const { stream, epoch, from, to, acceptedThroughMs } = flush;
    const apply = (rows: Row[]): FlushEffect => {
      const { tokens, counters, rejected } = this.tables;
      const claimed = new Set(flush.tokens.filter(([token]) => !tokens.has(token)).map(([token]) => token));
      for (const [token, digest] of flush.tokens) if (claimed.has(token)) tokens.set(token, digest);
      const counts = ({ token }: FlushedSum): boolean => token === undefined || claimed.has(token);
      const added = flush.increments.filter(counts);
      const setAside = flush.rejected.filter(counts);
      for (const { key, amount } of added) add(counters, key, amount);
      for (const { key, amount } of setAside) add(rejected, key, amount);
      const unclaimed = flush.tokens.map(([token]) => token).filter((token) => !claimed.has(token));
      Object.assign(rows[0] as Row, { claimed: claimed.size, unclaimed: unclaimed.length === 0 ? null : unclaimed });
      return {
        stream,
        epoch,
        from,
        to,
        sums: [...added, ...setAside].map(({ key, amount }) => [key, amount] as const),
      };
    };
    const change = (rows: Row[]): FlushEffect | undefined => {
      const row = this.tables.checkpoints.get(stream);
      if (row === undefined) throw new Error('a row that was locked is gone');
      this.tables.checkpoints.set(stream, { ...row, lsn: to, acceptedThroughMs });
      this.highWater.set(stream, Math.max(this.highWater.get(stream) ?? 0, to));
      if (this.mutations.separateTransactions !== true) return apply(rows);
      this.#after(this.#random.below(30), () => this.#watch.committed(apply([{}])));
      return undefined;
    };
    const execute = (row: CheckpointRow | undefined): Step => {
      if (row === undefined || !matches(row)) return { rows: [{ fenced: 0, claimed: 0, keys: 0, unclaimed: null }] };
      if (flush.increments.some(({ key }) => isPoison(key))) return { refusal: refusal('54000') };
      const rows = [{ fenced: 1, claimed: 0, keys: flush.increments.length, unclaimed: null }];
      return { rows, change: () => change(rows) };
    };
    return { stream, flush: { stream, to }, locks: matches, execute };
  }

  #ensure(stream: string): undefined {
    if (this.tables.checkpoints.has(stream)) return;
    this.tables.checkpoints.set(stream, { epoch: 0, lsn: 0, acceptedThroughMs: 0, retired: false });
  }

  #backend([pid]: readonly unknown[]): SimulatedSession | undefined {
    return this.#sessions.find(({ backend, isEnded }) => backend.pid === pid && !isEnded);
  }

  #cutSessions(): void {
    const sessions = this.#sessions;
    this.#sessions = [];
    for (const session of sessions) session.lose();
  }

  #after(delayMs: number, callback: () => void): void {
    this.#scheduler.after(delayMs, this.#life, callback);
  }

  /** Keep-alives and timeouts detect after some time that nobody answers. */
  #loseLater(session: SimulatedSession): void {
    this.#scheduler.after(1000 + this.#random.below(7000), session.life, () => session.lose());
  }

  #loseAtTimeout(session: SimulatedSession): void {
    this.#scheduler.after(CLIENT_TIMEOUT_MS, session.life, () => session.lose());
  }

  #latency(): number {
    return this.#random.below(20) / 10;
  }

  #pause(ms: number, life: Life): Promise<void> {
    return new Promise((resolve) => this.#scheduler.after(ms, life, resolve));
  }
}

interface Execution {
  readonly session: SimulatedSession;
  readonly stream?: string;
  readonly flush?: { readonly stream: string; readonly to: number };
  /** Whether the statement's snapshot of the row makes it wait for the row's lock. */
  readonly locks: (row: CheckpointRow) => boolean;
  readonly execute: (row: CheckpointRow | undefined) => Step;
  readonly resolve: (rows: Row[]) => void;
  readonly reject: (error: Error) => void;
  isWaiting: boolean;
}

/** One connection, as `ShardConnection` uses it. */
export class SimulatedSession {
  readonly life: Life;
  readonly backend: Backend;
  /** Nothing passes any more, in one direction or both. */
  isSilent = false;
  /** The server has ended its side. */
  isEnded = false;
  /** When the server last had nothing to do for it; infinite while it works for it. */
  idleSince = 0;
  readonly #server: PostgresModel;
  #lost = false;
  #reject: ((error: Error) => void) | undefined;

  constructor(server: PostgresModel, life: Life, pid: number) {
    this.#server = server;
    this.life = life;
    this.backend = { pid, startedAt: String(pid) };
  }

  get lost(): boolean {
    return this.#lost;
  }

  /** The other end cannot receive an answer any more. */
  get clientIsGone(): boolean {
    return this.#lost || this.life.isOver;
  }

  query<R>(statement: Statement): Promise<R[]> {
    if (this.#lost) return Promise.reject(new Error('Client has encountered a connection error and is not queryable'));
    return new Promise<Row[]>((resolve, reject) => {
      this.#reject = reject;
      this.#server.submit(this, statement, resolve, reject);
      // Rows have the columns that the statement selects, as the store's types say.
    }) as Promise<R[]>;
  }

  /** An answer arrives, unless the session is lost. */
  settle(answer: () => void): void {
    if (this.#lost) return;
    this.#reject = undefined;
    answer();
  }

  lose(): void {
    if (this.clientIsGone) return;
    this.#lost = true;
    this.#reject?.(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
  }

  close(): Promise<void> {
    this.lose();
    return Promise.resolve();
  }

  destroy(): void {
    this.lose();
  }
}

interface FlushedSum {
  readonly key: string;
  readonly amount: bigint;
  readonly token: string | undefined;
}

interface DecodedFlush {
  readonly stream: string;
  readonly epoch: number;
  readonly from: number;
  readonly to: number;
  readonly acceptedThroughMs: number;
  readonly tokens: readonly (readonly [token: string, digest: Buffer])[];
  readonly increments: readonly FlushedSum[];
  readonly rejected: readonly FlushedSum[];
}

/** Copies everything: the parameters are views that the shard reuses. */
function decodeFlush(values: readonly unknown[]): DecodedFlush {
  const [stream, epoch, from, to, acceptedThrough] = values as [string, number, number, number, Date];
  const [keys, amounts, tokens, digests, pairTokens, pairKeys, pairAmounts] = values.slice(5, 12) as Buffer[];
  const [rejectedKeys, rejectedAmounts, , , , rejectedTokens] = values.slice(12) as [
    Buffer?,
    Buffer?,
    unknown?,
    unknown?,
    unknown?,
    Buffer?,
  ];
  const refusedAmounts = rejectedAmounts === undefined ? [] : decodeIntegers(rejectedAmounts);
  const refusedTokens = rejectedTokens === undefined ? [] : decodeTexts(rejectedTokens);
  const names = tokens === undefined ? [] : decodeTexts(tokens);
  const contents = digests === undefined ? [] : decodeBytes(digests);
  return {
    stream,
    epoch,
    from,
    to,
    acceptedThroughMs: acceptedThrough.getTime(),
    tokens: names.map((name, index) => [name, contents[index] ?? Buffer.alloc(0)]),
    increments: [...decodeSums(keys, amounts, undefined), ...decodeSums(pairKeys, pairAmounts, pairTokens)],
    rejected: (rejectedKeys === undefined ? [] : decodeTexts(rejectedKeys)).map((key, index) => ({
      key,
      amount: refusedAmounts[index] ?? 0n,
      token: refusedTokens[index] === '' ? undefined : refusedTokens[index],
    })),
  };
}

function decodeSums(keys: Buffer | undefined, amounts: Buffer | undefined, tokens: Buffer | undefined): FlushedSum[] {
  if (keys === undefined || amounts === undefined) return [];
  const sums = decodeIntegers(amounts);
  const names = tokens === undefined ? [] : decodeTexts(tokens);
  return decodeTexts(keys).map((key, index) => ({ key, amount: sums[index] ?? 0n, token: names[index] }));
}

function add(table: Map<string, bigint>, key: string, amount: bigint): void {
  table.set(key, (table.get(key) ?? 0n) + amount);
}

function isPoison(key: string): boolean {
  return key.startsWith(POISON_PREFIX);
}

function refusal(code: string): pg.DatabaseError {
  const error = new pg.DatabaseError(`refused with ${code}`, 0, 'error');
  error.code = code;
  error.severity = 'ERROR';
  return error;
}

function throwOn(error: unknown): never {
  throw error;
}
