/** What the client of SQS makes of a queue's answers, and of their absence. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { JournalError, StartError } from '#product/core/errors.js';
import type { SendOutcome } from '#product/shard-worker/journal/sqs/queue.js';
import { SqsQueue } from '#product/shard-worker/journal/sqs/sqs-queue.js';
import { openQueue } from '#product/shard-worker/journal/sqs/sqs-start.js';
import { freePort } from '../../support/free-port.js';
import { eventually } from '../../support/eventually.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

const data = Buffer.from('a record');
const region = SQS_ENVIRONMENT.AWS_REGION;
let sqs: SqsServer;
let proxy: TcpProxy;
const queues: SqsQueue[] = [];

const STORE = { id: randomUUID(), databaseId: randomUUID(), isAdopted: false };

before(async () => {
  Object.assign(process.env, SQS_ENVIRONMENT);
  sqs = await SqsServer.start();
  proxy = await TcpProxy.start(sqs.address);
});

after(async () => {
  for (const queue of queues) queue.close();
  await proxy.close();
  await sqs.dispose();
});

function queueAt(queueUrl: string): SqsQueue {
  const queue = new SqsQueue({ queueUrl, region, store: STORE });
  queues.push(queue);
  return queue;
}

function send(queue: SqsQueue, bytes: Uint8Array = data): Promise<SendOutcome> {
  return queue.send(randomUUID(), randomUUID(), bytes);
}

test('a send that the queue refuses, or that finds no queue server, is refused', async () => {
  await sqs.makeQueue('small.fifo', { MaximumMessageSize: '1024' });
  const small = queueAt(sqs.urlOf('small.fifo'));
  assert.deepEqual(await send(small), { kind: 'sent' });
  for (const outcome of [
    await send(small, Buffer.alloc(2000)),
    await send(queueAt(sqs.urlOf('missing.fifo'))),
    await send(queueAt(`http://127.0.0.1:${await freePort()}/0/gone.fifo`)),
    await send(queueAt('http://no-such-host.invalid/0/gone.fifo')),
  ]) {
    assert.equal(outcome.kind, 'refused');
    assert.ok(outcome.kind === 'refused' && !outcome.isThrottled);
  }
});

test('without a region or credentials a send is refused, and the start says what to set', async () => {
  const cases = [
    ['AWS_REGION', /names no region; set AWS_REGION/],
    ['AWS_ACCESS_KEY_ID', /No credentials for SQS were found.* Set AWS_ACCESS_KEY_ID/],
  ] as const;
  const settings = { queueUrl: sqs.urlOf('missing.fifo'), region: undefined };
  for (const [variable, problem] of cases) {
    Reflect.deleteProperty(process.env, variable);
    const queue = new SqsQueue({ ...settings, store: STORE });
    queues.push(queue);
    assert.equal((await send(queue)).kind, 'refused');
    await assert.rejects(openQueue(settings), (error) => error instanceof StartError && problem.test(error.message));
    process.env[variable] = SQS_ENVIRONMENT[variable];
  }
});

test('a send without an answer is unknown, and a copy of it under the same id is swallowed', async () => {
  await sqs.makeQueue('lossy.fifo');
  const queue = queueAt(proxy.urlOf(sqs.urlOf('lossy.fifo')));
  const [stream, id] = [randomUUID(), randomUUID()];
  for (const fate of ['lose-answer', 'cut-before', 'blackhole'] as const) {
    proxy.setRule((bytes) => (bytes.includes('AmazonSQS.SendMessage') ? fate : 'forward'));
    assert.equal((await queue.send(stream, id, data)).kind, 'unknown', fate);
  }
  proxy.setRule();
  await eventually('an answer', async () => (await queue.send(stream, id, data)).kind === 'sent');
  assert.equal(await sqs.messagesIn('lossy.fifo'), 1);
});

test('a queue delivers a group in order: nothing while a message of it is received, and that message again after its release', async () => {
  await sqs.makeQueue('order.fifo');
  const queue = queueAt(sqs.urlOf('order.fifo'));
  const stream = randomUUID();
  for (const text of ['first', 'second']) await queue.send(stream, text, Buffer.from(text));
  const receive = async (): Promise<{ readonly receipt: string; readonly text: string }> => {
    const [message] = await queue.receive();
    assert.ok(message !== undefined);
    assert.equal(message.stream, stream);
    return { receipt: message.receipt, text: Buffer.from(message.body, 'base64').toString() };
  };
  const held = await receive();
  assert.equal(held.text, 'first');
  assert.deepEqual(await queue.receive(), []);
  await queue.extend([held.receipt, 'not a receipt']);
  await queue.release([held.receipt]);
  const again = await receive();
  assert.equal(again.text, 'first');
  await queue.delete([again.receipt]);
  assert.equal((await receive()).text, 'second');
});

test('every other call says that the journal is unavailable', async () => {
  const queueUrl = `http://127.0.0.1:${await freePort()}/0/gone.fifo`;
  const queue = queueAt(queueUrl);
  for (const call of [
    () => queue.receive(),
    () => queue.extend(['a']),
    () => queue.release(['a']),
    () => queue.delete(['a']),
    () => openQueue({ queueUrl, region }),
  ])
    await assert.rejects(call, (error) => error instanceof JournalError && error.code === 'journal-unavailable');
});
