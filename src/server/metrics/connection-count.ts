/**
 * Counts open HTTP connections where uWebSockets.js cannot (build 20.30). Main thread.
 */
import { readFile } from 'node:fs/promises';

/** Linux lists TCP sockets, one a line: number, local address, remote address, state, … in hexadecimal. */
const TABLES = ['/proc/self/net/tcp', '/proc/self/net/tcp6'];
const SOCKET = /^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) /gm;
const LISTENING = '0A';
const TIME_WAIT = '06';

/** Sockets of this machine or container with the local port, without the listening one; undefined if unknown. */
export async function connectionsTo(port: number): Promise<number | undefined> {
  let connections = 0;
  try {
    for (const table of TABLES) {
      for (const [, localPort = '', state] of (await readFile(table, 'latin1')).matchAll(SOCKET)) {
        // A socket in TIME_WAIT has no descriptor.
        const isOpen = state !== LISTENING && state !== TIME_WAIT;
        if (isOpen && Number.parseInt(localPort, 16) === port) connections += 1;
      }
    }
  } catch {
    return undefined;
  }
  return connections;
}
