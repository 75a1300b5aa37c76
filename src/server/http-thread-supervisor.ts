/**
 * Starts the HTTP threads besides the main thread, sends them commands, performs their operations, and closes their
 * applications before they end. Main thread.
 *
 * ```text
 * starting ──listening──► running ──close()──► closing ──► ended
 *     └──refused──────────────┴──thread fails──► lost (the process must end)
 * ```
 */
import { Worker } from 'node:worker_threads';
import type { Config } from '../config/config.js';
import { settledWithin } from '../core/clock.js';
import { CounterError, StartError } from '../core/errors.js';
import type {
  HttpThreadAnswer,
  HttpThreadCommand,
  HttpThreadReport,
  HttpThreadRequest,
  HttpThreadTask,
  OperationCall,
  OperationResults,
} from './http-threads/messages.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { HttpServerLink } from '../shard-worker/protocol/control-messages.js';
import type { Admission } from '../core/increment.js';
import type { HttpServerLoad, Reloaded } from '../http/http-server.js';

/** How long a thread may take to close its application. */
const CLOSE_TIMEOUT_MS = 2_000;

const IDLE: HttpThreadAnswer = { load: { isAnswering: false, incrementsInFlight: 0 } };

/** What all HTTP threads share. */
export interface HttpThreadsOptions {
  readonly config: Config;
  readonly port: number;
  readonly stats: SharedArrayBuffer;
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  readonly reservations: SharedArrayBuffer;
  readonly idempotencyCeiling: SharedArrayBuffer;
  readonly operations: CounterOperations;
  /** Called if a thread has failed. The process must end. */
  readonly lost: (reason: string) => void;
}

/** One HTTP thread as the main thread sees it. */
class HttpThread {
  readonly link: HttpServerLink;
  /** Resolves once the thread listens. Rejects with StartError if it cannot. */
  readonly listening: Promise<void>;
  readonly #options: HttpThreadsOptions;
  readonly #name: string;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  readonly #waiting = new Map<number, (answer: HttpThreadAnswer) => void>();
  #nextId = 1;
  #state: 'running' | 'closing' | 'ended' = 'running';
  /** Why the thread ended, if it reported a reason. */
  #reason = 'the thread ended without an error';

  constructor(options: HttpThreadsOptions, httpThread: number) {
    this.#options = options;
    this.#name = `HTTP thread ${httpThread}`;
    const { config, port, stats, requestStats, batchStats, reservations, idempotencyCeiling } = options;
    const memory = { stats, requestStats, batchStats, reservations, idempotencyCeiling };
    const task: HttpThreadTask = { httpThread, port, config, ...memory };
    const worker = new Worker(new URL('./http-threads/http-thread.js', import.meta.url), { workerData: task });
    this.#worker = worker;
    this.link = {
      connect: (shard, shardPort) => {
        worker.postMessage({ kind: 'connect', shard, port: shardPort } satisfies HttpThreadCommand, [shardPort]);
      },
      disconnect: (shard) => {
        this.tell({ kind: 'disconnect', shard });
      },
    };
    this.listening = new Promise((resolve, reject) => {
      worker.on('message', (message: HttpThreadReport) => {
        if (message.kind === 'listening') resolve();
        else if (message.kind === 'refused') {
          reject(new StartError(message.problems, { exitCode: message.exitCode }));
        } else this.#receive(message);
      });
      worker.on('exit', () => {
        reject(new CounterError('internal-error', `${this.#name} did not start.`));
      });
    });
    // Awaited later, or never if the start is aborted.
    this.listening.catch(() => undefined);
    worker.on('error', (error) => {
      this.#reason = error.message;
    });
    this.#ended = new Promise((resolve) => {
      worker.on('exit', () => {
        this.#end();
        resolve();
      });
    });
  }

  tell(command: HttpThreadCommand): void {
    this.#worker.postMessage(command);
  }

  /** Resolves once the thread has answered, or at once if it has ended. */
  ask(request: HttpThreadRequest): Promise<HttpThreadAnswer> {
    if (this.#state === 'ended') return Promise.resolve(IDLE);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.tell({ ...request, id });
    });
  }

  /** Closes the application, then ends the thread. A thread that does not answer ends with the process. */
  async close(): Promise<void> {
    if (this.#state === 'running') this.#state = 'closing';
    if (!(await settledWithin(this.ask({ kind: 'close' }), CLOSE_TIMEOUT_MS))) return;
    await this.#worker.terminate();
    await this.#ended;
  }

  #receive(message: Exclude<HttpThreadReport, { kind: 'listening' | 'refused' }>): void {
    switch (message.kind) {
      case 'done': {
        const resolve = this.#waiting.get(message.id);
        this.#waiting.delete(message.id);
        resolve?.(message);
        return;
      }
      case 'call':
        this.#answer(message.id, message.call);
        return;
      case 'broken':
        this.#options.lost(`${this.#name} failed: ${message.detail}`);
    }
  }

  #answer(id: number, call: OperationCall): void {
    this.#perform(call).then(
      (result) => {
        this.tell({ kind: 'result', id, result });
      },
      (error: unknown) => {
        // Anything but a CounterError is a bug.
        const code = error instanceof CounterError ? error.code : 'internal-error';
        const detail =
          error instanceof CounterError ? error.detail : 'The server failed because of a bug; its log has the error.';
        this.tell({ kind: 'failed', id, code, detail });
      },
    );
  }

  async #perform(call: OperationCall): Promise<OperationResults[OperationCall['operation']]> {
    const { operations } = this.#options;
    switch (call.operation) {
      case 'read':
        return operations.read(call.keys);
      case 'delete':
        return operations.delete(call.key, call.id);
      case 'list':
        return operations.list(call.query);
      case 'flush':
        return operations.flush();
      case 'readiness':
        return operations.readiness();
      case 'metrics':
        return operations.metrics();
      case 'dashboard':
        return operations.dashboard(call.since);
    }
  }

  #end(): void {
    const wasRunning = this.#state === 'running';
    this.#state = 'ended';
    for (const resolve of this.#waiting.values()) resolve(IDLE);
    this.#waiting.clear();
    if (wasRunning) this.#options.lost(`${this.#name} failed: ${this.#reason}`);
  }
}

/** All HTTP threads of the process besides the main thread. */
export class HttpThreads {
  readonly #threads: readonly HttpThread[];

  /** Starts one thread less than HTTP_THREADS, because the main thread is one. */
  constructor(options: HttpThreadsOptions) {
    this.#threads = Array.from({ length: options.config.httpThreads - 1 }, (_, at) => new HttpThread(options, at + 1));
  }

  /** The links for the supervisor of the shards. */
  get links(): readonly HttpServerLink[] {
    return this.#threads.map(({ link }) => link);
  }

  /** Resolves once all threads listen. Rejects with StartError if one cannot. */
  async listening(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.listening));
  }

  setShardAdmission(shard: number, admission: Admission): void {
    for (const thread of this.#threads) thread.tell({ kind: 'shard-admission', shard, admission });
  }

  /** Sets the limit of bodies. Threads get it before a later {@link setAdmission}. */
  limitBodies(bodyBytesMax: number): void {
    for (const thread of this.#threads) thread.tell({ kind: 'limit-bodies', bodyBytesMax });
  }

  setAccepting(accepting: boolean): void {
    for (const thread of this.#threads) thread.tell({ kind: 'accepting', accepting });
  }

  /** Resolves once all threads have the new admission. */
  async setAdmission(admission: Admission): Promise<void> {
    await this.#ask({ kind: 'admission', admission });
  }

  /** Resolves once no thread listens any more. */
  async drain(): Promise<void> {
    await this.#ask({ kind: 'drain' });
  }

  /** The load of each thread. */
  load(): Promise<readonly HttpServerLoad[]> {
    return this.#ask({ kind: 'load' }).then((answers) => answers.map(({ load }) => load));
  }

  /** Applies settings that were read again. Resolves to the problems of threads. */
  async reload(reloaded: Reloaded): Promise<readonly string[]> {
    const answers = await this.#ask({ kind: 'reload', reloaded });
    return answers.flatMap(({ problem }) => problem ?? []);
  }

  /** Closes the applications, then ends the threads. */
  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }

  #ask(request: HttpThreadRequest): Promise<readonly HttpThreadAnswer[]> {
    return Promise.all(this.#threads.map((thread) => thread.ask(request)));
  }
}
