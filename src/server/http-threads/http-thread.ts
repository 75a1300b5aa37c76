/**
 * The root of a further front-end thread: serves HTTP on the port that all front ends share, and asks the main thread for
 * what only that can answer.
 *
 * The application must be closed before the thread ends, whatever ends it, or the process aborts: an error that nothing
 * caught closes it and is reported, and the thread stays until the main thread lets it go.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { StartError } from '../../core/errors.js';
import type { FrontEndCommand, FrontEndReport, FrontEndTask } from './messages.js';
import { loadUws } from '../../http/uws.js';
import { createLogger } from '../../core/logger.js';
import { RemoteOperations } from './remote-operations.js';
import { ServingFrontEnd } from './http-server.js';
import { gaugeTotal } from '../../shard-worker/protocol/conservation.js';
import { GAUGE } from '../../shard-worker/protocol/messages.js';

class FrontEndServer {
  readonly #operations: RemoteOperations;
  readonly #frontEnd: ServingFrontEnd;
  #closed = false;

  constructor(task: FrontEndTask) {
    const { config, gauges } = task;
    const ceiling = new Float64Array(task.tokenCeiling);
    const total = (cell: number): number => gaugeTotal(gauges, config.shards, cell);
    this.#operations = new RemoteOperations((id, call) => {
      report({ kind: 'call', id, call });
    });
    this.#frontEnd = new ServingFrontEnd({
      config,
      uws: loadUws().uws,
      port: task.port,
      gauges,
      reservations: task.reservations,
      tokenRoom: () => (ceiling[0] ?? 0) - total(GAUGE.claimedTokens) - total(GAUGE.pendingTokens),
      operations: this.#operations,
      logger: createLogger(config.logLevel, { frontEnd: task.frontEnd }),
    });
  }

  async listen(): Promise<void> {
    await this.#frontEnd.listen();
    report({ kind: 'listening' });
  }

  obey(command: FrontEndCommand): void {
    switch (command.kind) {
      case 'connect':
        this.#frontEnd.link.connect(command.shard, command.port);
        return;
      case 'disconnect':
        // First: nothing may be sent to a shard that is not there.
        this.#frontEnd.setDoor(command.shard, 'journal-unavailable');
        this.#frontEnd.link.disconnect(command.shard);
        return;
      case 'door':
        this.#frontEnd.setDoor(command.shard, command.door);
        return;
      case 'gate':
        this.#frontEnd.setGate(command.gate);
        return;
      case 'result':
        this.#operations.resolve(command.id, command.result);
        return;
      case 'failed':
        this.#operations.reject(command.id, command.code, command.detail);
        return;
      case 'accept':
        this.#frontEnd.accept();
        break;
      case 'drain':
        this.#frontEnd.drain();
        break;
      case 'close':
        this.close();
        break;
      case 'load':
    }
    report({ kind: 'done', id: command.id, load: this.#frontEnd.load });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#frontEnd.close();
  }
}

function report(message: FrontEndReport): void {
  parentPort?.postMessage(message);
}

function run(port: NonNullable<typeof parentPort>): void {
  // The main thread starts this file with a task and in no other way.
  const server = new FrontEndServer(workerData as FrontEndTask);
  process.on('uncaughtException', (error) => {
    server.close();
    report({ kind: 'broken', detail: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  });
  port.on('message', (command: FrontEndCommand) => {
    server.obey(command);
  });
  server.listen().catch((error: unknown) => {
    if (!(error instanceof StartError)) throw error;
    report({ kind: 'refused', problems: error.problems, exitCode: error.exitCode });
  });
}

if (parentPort !== null) run(parentPort);
