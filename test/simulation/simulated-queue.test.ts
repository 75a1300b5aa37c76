/** The simulated queue keeps to what AWS documents of a FIFO queue. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mulberry32 } from '../support/mulberry32.js';
import { runOnScheduler } from './on-scheduler.js';
import { Scheduler } from './scheduler.js';
import { BATCH_MAX, BODY_BYTES_MAX, type Queue, type QueueKind, SimulatedQueue } from './simulated-queue.js';

const KIND: QueueKind = { hasGroupLock: true, deduplicationMs: 300, retentionMs: 2000 };
const AT_ONCE = { messagesMax: BATCH_MAX, waitMs: 0, visibilityMs: 100 };

interface Bench {
  readonly queue: Queue;
  readonly server: SimulatedQueue;
  readonly scheduler: Scheduler;
  readonly send: (group: string, ...bodies: readonly string[]) => Promise<void>;
  readonly bodies: () => Promise<readonly string[]>;
  readonly pause: (ms: number) => Promise<void>;
}

/** Runs a case on a queue, without faults unless `isHealthy` is false. */
async function onQueue(run: (bench: Bench) => Promise<void>, isHealthy = true, kind = KIND, seed = 1): Promise<void> {
  const scheduler = new Scheduler();
  const server = new SimulatedQueue(scheduler, new Mulberry32(seed), kind);
  if (isHealthy) server.heal();
  await runOnScheduler(scheduler, 1_000_000, (life) => {
    const queue = server.connect(life);
    return run({
      queue,
      server,
      scheduler,
      send: async (group, ...bodies) => {
        for (const body of bodies) {
          const outcome = await queue.send({ group, deduplicationId: `${group}:${body}`, body });
          assert.equal(outcome.kind, 'sent');
        }
      },
      bodies: async () => (await queue.receive(AT_ONCE)).map(({ body }) => body),
      pause: (ms) => new Promise((resolve) => scheduler.after(ms, life, resolve)),
    });
  });
}

test('messages of a group come in order, and none while one before it is in flight', async () => {
  await onQueue(async ({ queue, send, bodies }) => {
    await send('a', '1', '2');
    await send('b', '3');
    const [first] = await queue.receive({ ...AT_ONCE, messagesMax: 1 });
    assert.equal(first?.body, '1');
    assert.deepEqual(await bodies(), ['3']);
    assert.deepEqual(await queue.delete([first?.receipt ?? '']), [true]);
    assert.deepEqual(await bodies(), ['2']);
  });
});

test('without the lock on groups a later message comes while an earlier one is in flight', async () => {
  const run = async ({ queue, send, bodies }: Bench): Promise<void> => {
    await send('a', '1', '2');
    await queue.receive({ ...AT_ONCE, messagesMax: 1 });
    assert.deepEqual(await bodies(), ['2']);
  };
  await onQueue(run, true, { ...KIND, hasGroupLock: false });
});

test('a message that is not deleted comes again when its visibility ends, before later ones', async () => {
  await onQueue(async ({ queue, send, bodies, pause }) => {
    await send('a', '1', '2');
    const [first] = await queue.receive({ ...AT_ONCE, messagesMax: 1 });
    await pause(60);
    assert.deepEqual(await queue.changeVisibility([first?.receipt ?? ''], 100), [true]);
    await pause(60);
    assert.deepEqual(await bodies(), []);
    await pause(60);
    assert.deepEqual(await bodies(), ['1', '2']);
  });
});

test('a message comes again at once when its visibility is set to 0', async () => {
  await onQueue(async ({ queue, send, bodies }) => {
    await send('a', '1');
    const [first] = await queue.receive(AT_ONCE);
    await queue.changeVisibility([first?.receipt ?? ''], 0);
    assert.deepEqual(await bodies(), ['1']);
  });
});

test('a duplicate is swallowed for the time of deduplication, also after the message was deleted', async () => {
  await onQueue(async ({ queue, server, send, pause }) => {
    await send('a', '1', '1');
    assert.equal(server.messages.length, 1);
    const received = await queue.receive(AT_ONCE);
    await queue.delete(received.map(({ receipt }) => receipt));
    await send('a', '1');
    assert.equal(server.messages.length, 0);
    await pause(KIND.deduplicationMs);
    await send('a', '1');
    assert.equal(server.messages.length, 1);
  });
});

test('the same deduplication id in another group is a duplicate as well', async () => {
  await onQueue(async ({ queue, server }) => {
    await queue.send({ group: 'a', deduplicationId: '1', body: 'a' });
    assert.equal((await queue.send({ group: 'b', deduplicationId: '1', body: 'b' })).kind, 'sent');
    assert.deepEqual(
      server.messages.map(({ group }) => group),
      ['a'],
    );
  });
});

test('a consumer that waits gets the first message as it comes, and nothing after its time', async () => {
  await onQueue(async ({ queue, scheduler, send, pause }) => {
    const waiting = queue.receive({ ...AT_ONCE, waitMs: 200 });
    await pause(50);
    await send('a', '1');
    assert.equal((await waiting).length, 1);
    assert.ok(scheduler.now < 100);
    const since = scheduler.now;
    assert.deepEqual(await queue.receive({ ...AT_ONCE, waitMs: 50 }), []);
    assert.ok(scheduler.now >= since + 50 && scheduler.now < since + 100);
  });
});

test('a batch has ten messages at most', async () => {
  await onQueue(async ({ queue, send }) => {
    await send('a', ...Array.from({ length: 12 }, (_, index) => String(index)));
    assert.equal((await queue.receive({ ...AT_ONCE, messagesMax: 100 })).length, 10);
  });
});

test('an old receipt handle deletes nothing of a message that was delivered again', async () => {
  await onQueue(async ({ queue, server, send, pause }) => {
    await send('a', '1');
    const [first] = await queue.receive(AT_ONCE);
    await pause(150);
    const [second] = await queue.receive(AT_ONCE);
    assert.deepEqual(await queue.delete([first?.receipt ?? '']), [false]);
    assert.deepEqual(await queue.changeVisibility([first?.receipt ?? ''], 100), [false]);
    assert.equal(server.messages.length, 1);
    assert.deepEqual(await queue.delete([second?.receipt ?? '']), [true]);
    assert.deepEqual(await queue.delete([second?.receipt ?? '']), [true]);
    assert.equal(server.messages.length, 0);
  });
});

test('a message that nobody deletes expires, and says so', async () => {
  await onQueue(async ({ queue, server, pause }) => {
    const expired: string[] = [];
    server.onExpired = ({ body }) => expired.push(body);
    while (server.messages.length === 0) await queue.send({ group: 'a', deduplicationId: '1', body: '1' });
    await pause(KIND.retentionMs + 500);
    assert.deepEqual(server.messages, []);
    assert.deepEqual(expired, ['1']);
  }, false);
});

test('a body that is too long is refused, and so is everything while the queue is throttled', async () => {
  await onQueue(async ({ queue, server }) => {
    const send = async (body: string): Promise<string> =>
      (await queue.send({ group: 'a', deduplicationId: body.slice(0, 10), body })).kind;
    assert.equal(await send('x'.repeat(BODY_BYTES_MAX)), 'sent');
    assert.equal(await send('y'.repeat(BODY_BYTES_MAX + 1)), 'refused');
    server.isThrottled = true;
    assert.equal(await send('z'), 'refused');
    assert.equal(server.messages.length, 1);
  });
});

test('a lost answer leaves a send unknown and the message stored', async () => {
  await onQueue(async ({ queue, server }) => {
    server.loseNext = 1;
    assert.equal((await queue.send({ group: 'a', deduplicationId: '1', body: '1' })).kind, 'unknown');
    assert.equal(server.messages.length, 1);
  });
});

test('a queue that is gone answers nothing, and stores only what arrives once it is back', async () => {
  await onQueue(async ({ queue, server, pause }) => {
    server.isGone = true;
    const bodies = Array.from({ length: 30 }, (_, index) => String(index));
    const sends = bodies.map((body) => queue.send({ group: 'a', deduplicationId: body, body }));
    assert.ok((await Promise.all(sends)).every(({ kind }) => kind === 'unknown'));
    assert.equal(server.messages.length, 0);
    const lost = [queue.receive(AT_ONCE), queue.delete(['1:1'])];
    await Promise.all(lost.map((request) => assert.rejects(request, { name: 'QueueUnavailable' })));
    server.isGone = false;
    const expected = server.underWay;
    await pause(1000);
    assert.equal(server.underWay, 0);
    assert.ok(expected > 0);
    assert.equal(server.messages.length, expected);
  });
});

test('with faults some sends are unknown though stored, some arrive late, and a refused one is never stored', async () => {
  await onQueue(async ({ queue, server, pause }) => {
    const seen = { storedUnknown: 0, storedLate: 0, refused: 0, sent: 0 };
    for (let number = 0; number < 600; number += 1) {
      const body = String(number);
      const isStored = (): boolean => server.messages.some((message) => message.body === body);
      const { kind } = await queue.send({ group: body, deduplicationId: body, body });
      const wasStored = isStored();
      await pause(450);
      if (kind === 'sent') seen.sent += 1;
      else if (kind === 'refused') seen.refused += 1;
      else if (wasStored) seen.storedUnknown += 1;
      else if (isStored()) seen.storedLate += 1;
      assert.equal(kind === 'refused' && isStored(), false);
      assert.equal(kind === 'sent' && !isStored(), false);
    }
    assert.ok(
      Object.values(seen).every((count) => count > 0),
      JSON.stringify(seen),
    );
  }, false);
});
