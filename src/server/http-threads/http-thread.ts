/**
 * The entry of an HTTP thread: serves HTTP on the shared port, and forwards operations to the main thread.
 *
 * The process aborts if the thread ends before its application is closed. So an uncaught error closes the application and is
 * reported, and the main thread then ends the thread.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { StartError } from '../../core/errors.js';
import type { HttpThreadCommand, HttpThreadReport, HttpThreadTask } from './messages.js';
import { loadUws } from '../../http/uws.js';
import { createLogger } from '../../core/logger.js';
import { RemoteOperations } from './remote-operations.js';
import { makeHttpServer } from './make-http-server.js';
import type { HttpServer, Reloaded } from '../../http/http-server.js';
import type { ShardRouter } from '../../shard-worker/client/shard-router.js';
import { STAT, statTotal } from '../../shard-worker/protocol/stats.js';

class HttpThreadServer {
  readonly #operations: RemoteOperations;
  readonly #server: HttpServer;
  readonly #router: ShardRouter;
  #closed = false;

  constructor(task: HttpThreadTask) {
    const { config, stats, requestStats, batchStats, httpThread } = task;
    const ceiling = new Float64Array(task.idempotencyCeiling);
    const total = (cell: number): number => statTotal(stats, config.shards, cell);
    this.#operations = new RemoteOperations((id, call) => {
      report({ kind: 'call', id, call });
    });
    const { server, router } = makeHttpServer({
      config,
      uws: loadUws(),
      port: task.port,
      stats,
      requestStats,
      batchStats,
      httpThread,
      reservations: task.reservations,
      idempotencyRoom: () => (ceiling[0] ?? 0) - total(STAT.recordedIdempotencyKeys) - total(STAT.pendingIdempotent),
      operations: this.#operations,
      logger: createLogger(config.logLevel, { httpThread: task.httpThread }),
    });
    this.#server = server;
    this.#router = router;
  }

  async listen(): Promise<void> {
    await this.#server.listen();
    report({ kind: 'listening' });
  }

  obey(command: HttpThreadCommand): void {
    switch (command.kind) {
      case 'connect':
        this.#router.connect(command.shard, command.port);
        return;
      case 'disconnect':
        this.#router.disconnect(command.shard);
        return;
      case 'shard-admission':
        this.#router.setShardAdmission(command.shard, command.admission);
        return;
      case 'limit-bodies':
        this.#server.limitBodies(command.bodyBytesMax);
        return;
      case 'accepting':
        this.#server.setAccepting(command.accepting);
        return;
      case 'result':
        this.#operations.resolve(command.id, command.result);
        return;
      case 'failed':
        this.#operations.reject(command.id, command.code, command.detail);
        return;
      case 'admission':
        this.#server.setAdmission(command.admission);
        break;
      case 'drain':
        this.#server.drain();
        break;
      case 'close':
        this.close();
        break;
      case 'reload':
        void this.#reload(command.id, command.reloaded);
        return;
      case 'load':
    }
    report({ kind: 'done', id: command.id, load: this.#server.load });
  }

  async #reload(id: number, reloaded: Reloaded): Promise<void> {
    const problem = this.#closed ? undefined : await this.#server.reload(reloaded);
    report({ kind: 'done', id, load: this.#server.load, problem });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#server.close();
  }
}

function report(message: HttpThreadReport): void {
  parentPort?.postMessage(message);
}

function run(port: NonNullable<typeof parentPort>): void {
  // The main thread starts this file, always with a task.
  const server = new HttpThreadServer(workerData as HttpThreadTask);
  process.on('uncaughtException', (error) => {
    server.close();
    report({ kind: 'broken', detail: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  });
  port.on('message', (command: HttpThreadCommand) => {
    server.obey(command);
  });
  server.listen().catch((error: unknown) => {
    if (!(error instanceof StartError)) throw error;
    report({ kind: 'refused', problems: error.problems, exitCode: error.exitCode });
  });
}

if (parentPort !== null) run(parentPort);
