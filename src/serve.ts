/**
 * The server as a command: arguments, configuration, signals, exit codes. Main thread. `server/server-process.ts` has the
 * order of start and stop.
 */
import type { Config } from './config/config.js';
import { configHelp } from './config/help.js';
import { logLevelOf, readConfig, readReloaded } from './config/read-config.js';
import { misspelledSettings } from './config/misspelled-settings.js';
import { discardUnreadOutput } from './core/closed-output.js';
import { StartError } from './core/errors.js';
import { loadUws, type LoadedUws } from './http/uws.js';
import { versionsWith } from './http/version.js';
import { createLogger, type Logger, type ProcessLogger } from './core/logger.js';
import { ServerProcess } from './server/server-process.js';

const SAME_SIGNAL_MS = 1000;

function run(): void {
  const [argument, extra] = process.argv.slice(2);
  if (extra === undefined && (argument === '--help' || argument === '-h')) {
    discardUnreadOutput();
    process.stdout.write(`${configHelp()}\n`);
    return;
  }
  if (extra === undefined && argument === '--version') {
    printVersion();
    return;
  }
  if (argument !== undefined) {
    const problem = `Unknown argument "${extra ?? argument}": the server is configured by environment variables, see --help.`;
    endWithProblems(new StartError([problem]));
  }
  const logger = createLogger(logLevelOf(process.env));
  for (const warning of misspelledSettings(process.env)) logger.warn({}, warning);
  let config: Config;
  let uws: LoadedUws;
  try {
    config = readConfig(process.env);
    uws = loadUws();
  } catch (error) {
    endWithProblems(error, logger);
  }
  const server = new ServerProcess(config, uws, logger, (code) => {
    process.exit(code);
  });
  handleSignals(server, logger);
  handleBugs(server, logger);
  server.start().catch((error: unknown) => {
    endWithProblems(error, logger);
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
  process.on('SIGHUP', () => {
    server.reload(() => readReloaded(process.env));
  });
  process.on('SIGTERM', handle);
  process.on('SIGINT', handle);
}

function handleBugs(server: ServerProcess, logger: Logger): void {
  process.on('uncaughtException', (error) => {
    logger.error({ err: error }, 'Uncaught exception; exiting with code 70, and the journal keeps its increments');
    server.end(70);
  });
}

/** Says why the process cannot start, on standard error for people and in the log for what collects it. */
function endWithProblems(error: unknown, logger?: ProcessLogger): never {
  if (!(error instanceof StartError)) {
    logger?.fatal({ err: error, exitCode: 1 }, 'The start failed');
    process.stderr.write('summing-counters: The start failed; see the log for the reason.\n');
    process.exit(1);
  }
  const { problems, exitCode } = error;
  for (const problem of problems) {
    // On a terminal the log is for people, too.
    if (!process.stdout.isTTY) logger?.fatal({ exitCode }, problem);
    process.stderr.write(`summing-counters: ${problem}\n`);
  }
  process.exit(exitCode);
}

run();
