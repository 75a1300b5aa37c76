/**
 * Finding out whether a port is free before several front ends share it: with the option that lets them share, the system
 * would let any other process of the same user share it as well, without a word. Main thread.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { StartError } from '../core/errors.js';

/**
 * Holds the port for a moment, exclusively, and resolves to its number once it is let go; 0 finds a free one. Throws
 * StartError, exit code 1, where someone has it. Two servers that start within the same millisecond can miss each other.
 */
export async function reservePort(host: string, port: number): Promise<number> {
  const server = createServer();
  try {
    server.listen({ host, port, exclusive: true });
    await once(server, 'listening');
  } catch (error) {
    throw portRefused(host, port, error);
  }
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : port;
}

/** The error of a port that cannot be had. */
export function portRefused(host: string, port: number, cause?: unknown): StartError {
  const problem = `Port ${port} on ${host} cannot be listened on: it is in use, or not permitted.`;
  return new StartError([problem], { exitCode: 1, cause });
}
