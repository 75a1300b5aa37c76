/** What a server makes of a broker or a queue whose settings are changed while it runs. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { DeleteQueueCommand, SetQueueAttributesCommand } from '@aws-sdk/client-sqs';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { readConfig } from '#product/config/read-config.js';
import { journalElsewhere } from '#product/server/journal-elsewhere.js';
import { JournalWatch } from '#product/server/journal-watch.js';
import { CollectedLog } from '../../support/collected-log.js';
import { eventually } from '../../support/eventually.js';
import { ManualClock } from '../../support/manual-clock.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';
import { own } from '../../support/own.js';
import { SQS_ENVIRONMENT, SqsServer } from '../../support/sqs-server.js';

const STREAM = 'summing-counters';

class Scene {
  readonly #clock = new ManualClock();
  readonly #log: CollectedLog;
  readonly #watch: JournalWatch;
  #checks = 0;

  private constructor(log: CollectedLog, check: () => Promise<void>) {
    this.#log = log;
    this.#watch = new JournalWatch(this.#clock, log, () => check().finally(() => (this.#checks += 1)));
  }

  static async start(context: TestContext, JOURNAL: string): Promise<Scene> {
    const log = new CollectedLog();
    const open = journalElsewhere(readConfig({ DATABASE_URL: 'postgres://127.0.0.1:1/none', ROLE: 'ingest', JOURNAL }));
    assert.ok(open !== undefined);
    const { check } = await open(log, context.signal);
    log.take();
    const scene = new Scene(log, check);
    scene.#watch.start();
    context.after(() => {
      scene.#watch.close();
    });
    return scene;
  }

  /** Lets a minute pass; resolves with the problem that is known then. */
  async minute(): Promise<string | undefined> {
    const before = this.#checks;
    this.#clock.advance(60_000);
    await eventually('the check has ended', () => Promise.resolve(this.#checks > before));
    return this.#watch.problem;
  }

  levels(): readonly string[] {
    return this.#log.take().map(({ level }) => level);
  }
}

test(
  'a stream of JetStream that is changed or removed is a problem until it is as before',
  { skip: natsServerMissing() },
  async (t) => {
    const broker = own(t, await NatsServer.start());
    const scene = await Scene.start(t, broker.journal);
    const session = await connect({ servers: broker.address });
    try {
      const manager = await jetstreamManager(session);
      assert.equal(await scene.minute(), undefined);
      await manager.streams.update(STREAM, { max_age: 3_600_000_000_000 });
      assert.match((await scene.minute()) ?? '', /^NATS_STREAM summing-counters has a max age, which drops records/);
      await scene.minute();
      assert.deepEqual(scene.levels(), ['error']);
      await manager.streams.update(STREAM, { max_age: 0 });
      assert.equal(await scene.minute(), undefined);
      assert.deepEqual(scene.levels(), ['info']);
      await manager.streams.delete(STREAM);
      assert.match((await scene.minute()) ?? '', /is gone from the broker/);
      // A check makes no stream: the server would then go on in one without its records.
      await assert.rejects(manager.streams.info(STREAM), /stream not found/);
      await broker.stop();
      assert.match((await scene.minute()) ?? '', /is gone from the broker/, 'an outage tells nothing new');
    } finally {
      await session.close();
    }
  },
);

test('a queue that is changed or removed is a problem until it is as before', async (t) => {
  Object.assign(process.env, SQS_ENVIRONMENT);
  const sqs = own(t, await SqsServer.start());
  const scene = await Scene.start(t, await sqs.makeQueue());
  const keep = (seconds: number): Promise<unknown> =>
    sqs.client.send(
      new SetQueueAttributesCommand({
        QueueUrl: sqs.urlOf('journal.fifo'),
        Attributes: { MessageRetentionPeriod: String(seconds) },
      }),
    );
  assert.equal(await scene.minute(), undefined);
  await keep(86_400);
  assert.match((await scene.minute()) ?? '', /^JOURNAL: the queue keeps messages for 1 day/);
  await keep(1_209_600);
  assert.equal(await scene.minute(), undefined);
  assert.deepEqual(scene.levels(), ['error', 'info']);
  await sqs.client.send(new DeleteQueueCommand({ QueueUrl: sqs.urlOf('journal.fifo') }));
  assert.match((await scene.minute()) ?? '', /^SQS refuses the server: .*Check JOURNAL/);
});
