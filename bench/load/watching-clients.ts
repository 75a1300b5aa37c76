/**
 * A process with many event streams: opens them, reads and counts what comes, and says how many are still open.
 *
 *     node watching-clients.js '{"url":…,"streams":1000,"deaf":20,"first":0,"keys":100,"of":1000}'
 *
 * Stream n watches `keys` keys from number `first` × n on, modulo `of`. Deaf streams are opened, too, and never read.
 * Prints `{"open":…}` when all are open, and `{"open":…,"deafOpen":…,"bytes":…,"events":…}` for each line on its input.
 */
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** What to open. */
export interface WatchingTask {
  readonly url: string;
  readonly streams: number;
  readonly deaf: number;
  readonly first: number;
  readonly keys: number;
  readonly of: number;
}

/** What has come so far. */
export interface WatchingCount {
  readonly open: number;
  readonly deafOpen: number;
  readonly bytes: number;
  readonly events: number;
}

const EVENT = Buffer.from('event: ');
const task = JSON.parse(process.argv[2] ?? '{}') as WatchingTask;
const count = { open: 0, deafOpen: 0, bytes: 0, events: 0 };

function pathOf(stream: number): string {
  const width = String(task.of - 1).length;
  const keys = Array.from({ length: task.keys }, (_, index) => (stream * task.first + index) % task.of);
  return `/watch?${keys.map((key) => `key=key:${String(key).padStart(width, '0')}`).join('&')}`;
}

async function open(stream: number, isDeaf: boolean): Promise<Socket> {
  const { hostname, port } = new URL(task.url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  socket.write(`GET ${pathOf(stream)} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`);
  const cell = isDeaf ? 'deafOpen' : 'open';
  count[cell] += 1;
  socket.on('close', () => (count[cell] -= 1));
  if (isDeaf) socket.pause();
  else socket.on('data', take);
  return socket;
}

/** An event that two chunks share is not counted; there are few. */
function take(chunk: Buffer): void {
  count.bytes += chunk.length;
  for (let at = chunk.indexOf(EVENT); at >= 0; at = chunk.indexOf(EVENT, at + EVENT.length)) count.events += 1;
}

const sockets: Socket[] = [];
for (let stream = 0; stream < task.streams; stream += 1) sockets.push(await open(stream, false));
for (let stream = 0; stream < task.deaf; stream += 1) sockets.push(await open(stream, true));
console.log(JSON.stringify(count));
createInterface(process.stdin).on('line', () => console.log(JSON.stringify(count)));
process.on('SIGTERM', () => process.exit(0));
