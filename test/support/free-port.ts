/** Ports for servers of a test that listen later, or listen again. */
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/** Below the ports that Linux gives to connections, and to servers that ask for any port. */
const FIRST_PORT = 10_000;
const PORTS_OF_PROCESS = 250;
const PROCESSES = 88;

let chosen = randomInt(PORTS_OF_PROCESS);

/**
 * A port of the loopback on which nobody listens now. The next calls return others, and other test processes choose from other ports,
 * as a rule, so that nobody takes it before the server listens, or while it restarts.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < PORTS_OF_PROCESS; attempt += 1) {
    chosen = (chosen + 1) % PORTS_OF_PROCESS;
    const port = FIRST_PORT + (process.pid % PROCESSES) * PORTS_OF_PROCESS + chosen;
    if (await isFree(port)) return port;
  }
  throw new Error('no port is free');
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}
