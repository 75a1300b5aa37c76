/**
 * Three brokers of NATS JetStream as a cluster, for the benchmark.
 */
import { readdirSync, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort } from '../../test/support/free-port.js';
import { cpuTime } from '../processes/process-cost.js';
import { ownedDirectory, removeOwned, startOwned } from '../processes/owned-process.js';

const BROKERS = 3;

/** A running cluster. */
export interface BrokerCluster {
  /** The settings of a server that keeps its journal there. */
  readonly env: Readonly<Record<string, string>>;
  /** CPU time of all brokers so far, in ms. */
  costMs(): number;
  /** Bytes of the files of one broker. */
  storedBytes(): number;
  stop(): Promise<void>;
}

/**
 * Starts it with the defaults of NATS: messages are synced every two minutes, replicas make them safe. With `syncsAlways` each
 * message is synced before it is acknowledged.
 */
export async function startBrokerCluster(syncsAlways = false): Promise<BrokerCluster> {
  const ports: number[] = [];
  while (ports.length < 2 * BROKERS) ports.push(await freePort());
  const clients = ports.slice(0, BROKERS);
  const routes = ports.slice(BROKERS);
  const directories = await Promise.all(clients.map(() => ownedDirectory()));
  const brokers = await Promise.all(
    clients.map(async (port, index) => {
      const directory = directories[index] ?? '';
      const file = join(directory, 'server.conf');
      const others = routes.map((route) => `nats://127.0.0.1:${route}`).join(', ');
      await writeFile(
        file,
        `host: 127.0.0.1
port: ${port}
server_name: broker-${index}
jetstream { store_dir: "${directory}"${syncsAlways ? ', sync_interval: always' : ''} }
cluster { name: bench, listen: "127.0.0.1:${routes[index] ?? ''}", routes: [${others}] }
`,
      );
      return startOwned({
        name: `broker ${index}`,
        command: 'nats-server',
        args: ['-c', file],
        // Debian has it there.
        env: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin` },
        ready: /Server is ready/,
      });
    }),
  );
  return {
    env: { JOURNAL: `nats://${clients.map((port) => `127.0.0.1:${port}`).join(',')}`, NATS_REPLICAS: String(BROKERS) },
    costMs: () => brokers.reduce((sum, { pid }) => sum + cpuTime(pid).ownMs, 0),
    storedBytes: () => bytesBelow(directories[0] ?? ''),
    async stop() {
      await Promise.all(brokers.map((broker) => broker.stop()));
      await Promise.all(directories.map(removeOwned));
    },
  };
}

function bytesBelow(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
}
