/**
 * The server as a command: arguments, configuration, signals, exit codes. Main thread. `server/server-process.ts` has the
 * order of start and stop.
 */
import { configHelp, readConfig, type Config } from './config/config.js';
import { discardUnreadOutput } from './core/closed-output.js';
import { StartError } from './core/errors.js';
import { loadUws } from './http/uws.js';
import { versionsWith } from './http/version.js';
import { createLogger, type Logger } from './core/logger.js';
import { ServerProcess } from './server/server-process.js';

const SAME_SIGNAL_MS = 1000;

function run(): void {
  const [argument] = process.argv.slice(2);
  if (argument === '--help' || argument === '-h') {
    discardUnreadOutput();
    process.stdout.write(`${configHelp()}\n`);
    return;
  }
  if (argument === '--version') {
    printVersion();
    return;
  }
  let config: Config;
  try {
    if (argument !== undefined) {
      throw new StartError([
        `Unknown argument "${argument}": the server is configured by environment variables, see --help.`,
      ]);
    }
    config = readConfig(process.env);
  } catch (error) {
    endWithProblems(error);
  }
  const logger = createLogger(config.logLevel);
  const server = new ServerProcess(config, logger, (code) => {
    process.exit(code);
  });
  handleSignals(server, logger);
  handleBugs(server, logger);
  server.start().catch((error: unknown) => {
    if (!(error instanceof StartError)) logger.error({ err: error }, 'The start failed');
    endWithProblems(error);
  });
}

function printVersion(): void {
  discardUnreadOutput();
  try {
    process.stdout.write(`${JSON.stringify(versionsWith(loadUws().version))}\n`);
  } catch (error) {
    endWithProblems(error);
  }
}

function handleSignals(server: ServerProcess, logger: Logger): void {
  let firstAtMs: number | undefined;
  const handle = (signal: NodeJS.Signals): void => {
    const now = performance.now();
    if (firstAtMs === undefined) {
      firstAtMs = now;
      logger.info({ signal }, `Stopping on ${signal}`);
      void server.stop();
    } else if (now - firstAtMs > SAME_SIGNAL_MS) {
      // npm forwards a Ctrl-C that the terminal has already delivered: a second signal within a second is the same one.
      server.abandon(`a second ${signal}`);
    }
  };
  process.on('SIGTERM', handle);
  process.on('SIGINT', handle);
}

function handleBugs(server: ServerProcess, logger: Logger): void {
  process.on('uncaughtException', (error) => {
    logger.error({ err: error }, 'Uncaught exception; exiting with code 70, and the journal keeps its increments');
    server.end(70);
  });
}

function endWithProblems(error: unknown): never {
  const problems = error instanceof StartError ? error.problems : ['The start failed; see the log for the reason.'];
  for (const problem of problems) process.stderr.write(`summing-counters: ${problem}\n`);
  process.exit(error instanceof StartError ? error.exitCode : 1);
}

run();
