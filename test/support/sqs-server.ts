/**
 * A local SQS-compatible server (fauxqs) as a child of the test, and a FIFO queue in it.
 *
 * What it does, tried with version 1.9.2: it swallows a message whose deduplication id it has had within five minutes (in real
 * time, of the last 10,000 ids), and answers as for the first one. Visibility times run out in real time, and a message is then
 * first in its group again. A group of which a message is held hands out nothing, so the order of a group holds.
 *
 * What it does not: a receive returns one message of a group, where SQS returns up to ten. Everything is in memory: a restart
 * loses queues and messages, so an outage is made by a proxy in front of it, or by stopping the process for a while. A receive
 * whose client is gone is still given messages. It checks no credentials, throttles nothing, drops nothing after the retention
 * and has no high throughput: DeduplicationScope and FifoThroughputLimit cannot be set.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import {
  CreateQueueCommand,
  GetQueueAttributesCommand,
  SendMessageCommand,
  SQSClient,
  type QueueAttributeName,
} from '@aws-sdk/client-sqs';
import { freePort } from './free-port.js';

const PROGRAM = fileURLToPath(new URL('./fauxqs-process.js', import.meta.url));
const DEFAULT_ATTRIBUTES = { FifoQueue: 'true', MessageRetentionPeriod: '1209600' };

/** Credentials that the local server does not check. A server process of a test needs them, too. */
export const SQS_ENVIRONMENT = {
  AWS_ACCESS_KEY_ID: 'local',
  AWS_SECRET_ACCESS_KEY: 'local',
  AWS_REGION: 'us-east-1',
  AWS_EC2_METADATA_DISABLED: 'true',
} as const;

/** One server. Its port stays over a restart, its queues do not. */
export class SqsServer {
  #child: ChildProcess | undefined;
  readonly #port: number;
  #client: SQSClient | undefined;
  /** The id of the database that sent messages name; undefined: as an earlier version of the server sends them. */
  databaseId: string | undefined;

  private constructor(port: number) {
    this.#port = port;
  }

  static async start(): Promise<SqsServer> {
    const server = new SqsServer(await freePort());
    await server.start();
    return server;
  }

  /** Starts the process; settles when it listens. */
  async start(): Promise<void> {
    const child = spawn(process.execPath, [PROGRAM, String(this.#port)], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#child = child;
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(() => {
        throw new Error('the local SQS server did not start');
      }),
    ]);
  }

  /** A client, past any proxy. */
  get client(): SQSClient {
    this.#client ??= new SQSClient({
      endpoint: this.address,
      region: SQS_ENVIRONMENT.AWS_REGION,
      credentials: {
        accessKeyId: SQS_ENVIRONMENT.AWS_ACCESS_KEY_ID,
        secretAccessKey: SQS_ENVIRONMENT.AWS_SECRET_ACCESS_KEY,
      },
    });
    return this.#client;
  }

  /** `http://127.0.0.1:PORT`. */
  get address(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** The process, while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** The URL of a queue. */
  urlOf(name: string): string {
    return `${this.address}/000000000000/${name}`;
  }

  /** Makes a queue, and returns the value of JOURNAL. */
  async makeQueue(
    name = 'journal.fifo',
    attributes: Partial<Record<QueueAttributeName, string>> = {},
  ): Promise<string> {
    const Attributes = { ...DEFAULT_ATTRIBUTES, ...attributes };
    await this.client.send(new CreateQueueCommand({ QueueName: name, Attributes }));
    return `sqs:${this.urlOf(name)}`;
  }

  /** Messages that are in a queue, held ones included. */
  async messagesIn(name = 'journal.fifo'): Promise<number> {
    const { Attributes: attributes = {} } = await this.client.send(
      new GetQueueAttributesCommand({ QueueUrl: this.urlOf(name), AttributeNames: ['All'] }),
    );
    const { ApproximateNumberOfMessages = '0', ApproximateNumberOfMessagesNotVisible = '0' } = attributes;
    return Number(ApproximateNumberOfMessages) + Number(ApproximateNumberOfMessagesNotVisible);
  }

  /** Sends a message as a writer would. */
  async send(stream: string, id: string, data: Uint8Array, name = 'journal.fifo'): Promise<void> {
    await this.#send(stream, id, Buffer.from(data).toString('base64'), name);
  }

  /** Sends what no writer would. */
  async sendText(group: string, text: string, name = 'journal.fifo'): Promise<void> {
    await this.#send(group, text, text, name);
  }

  async #send(group: string, id: string, body: string, name: string): Promise<void> {
    await this.client.send(
      new SendMessageCommand({
        QueueUrl: this.urlOf(name),
        MessageGroupId: group,
        MessageDeduplicationId: id,
        MessageBody: body,
        ...(this.databaseId !== undefined && {
          MessageAttributes: { Database: { DataType: 'String', StringValue: this.databaseId } },
        }),
      }),
    );
  }

  /** Stops the process without ending it, or lets it go on. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(signal);
  }

  /** Ends the process; its queues and messages are gone. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  async dispose(): Promise<void> {
    this.#client?.destroy();
    await this.stop();
  }
}
