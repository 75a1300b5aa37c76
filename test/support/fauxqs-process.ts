/**
 * A local SQS-compatible server as a process of its own. Says when it listens. Argument: the port.
 *
 * The package exports no entry whose queues have addresses of this machine: its command names hosts such as
 * `sqs.us-east-1.localhost`, which not every system resolves. So its modules are loaded by their paths, and a queue is found by
 * the path of its URL, as in SQS itself: a test can put a proxy in front.
 */
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

interface Store {
  host: string | undefined;
  getQueue: (url: string) => unknown;
  getQueueByName: (name: string) => unknown;
}
interface App {
  listen: (options: { readonly port: number; readonly host: string }) => Promise<string>;
}

const root = join(import.meta.dirname, '../../../node_modules/fauxqs/dist');
const load = async (file: string): Promise<unknown> => import(pathToFileURL(join(root, file)).href);

const { buildApp } = (await load('app.js')) as { buildApp: (options: object) => App };
const { SqsStore } = (await load('sqs/sqsStore.js')) as { SqsStore: new () => Store };
const { SnsStore } = (await load('sns/snsStore.js')) as { SnsStore: new () => object };
const { S3Store } = (await load('s3/s3Store.js')) as { S3Store: new () => object };

const sqsStore = new SqsStore();
sqsStore.host = undefined;
sqsStore.getQueue = (url) => sqsStore.getQueueByName(url.slice(url.lastIndexOf('/') + 1));
const stores = { sqsStore, snsStore: new SnsStore(), s3Store: new S3Store() };
const address = await buildApp({ logger: false, stores }).listen({
  port: Number(process.argv[2]),
  host: '127.0.0.1',
});
process.stdout.write(`listening on ${address}\n`);
