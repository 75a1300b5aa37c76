import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { GoodClient, openConnections, openFilesMax, residentMib } from '../../support/attack.js';
import { sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { SuiteServer } from '../../support/suite-server.js';

const WANTED = 10_000;
/** Open files besides the attack's sockets, in this process and in the server. */
const OTHER_FILES = 500;

describe('idle connections', () => {
  const node = new SuiteServer();

  test('ten thousand idle connections stay open while others are served', async () => {
    const count = Math.min(WANTED, openFilesMax() - OTHER_FILES);
    if (count < WANTED)
      console.log(`The hard limit of open files is ${openFilesMax()}: only ${count} connections are tried.`);
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-idle');
    const startedAt = performance.now();
    const idle = await openConnections(node.url, count);
    const openedMs = Math.round(performance.now() - startedAt);
    // Every second connection gets an answer before it becomes idle.
    const used = idle.filter((_, index) => index % 2 === 0);
    await Promise.all(used.map((connection) => connection.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')));
    await eventually('every connection that sends a request is answered', async () =>
      used.every(({ received, isClosed }) => received !== '' || isClosed),
    );
    const answered = used.filter(({ status }) => status === 200).length;
    const open = idle.filter(({ isClosed }) => !isClosed).length;
    await good.served(200);
    const during = residentMib(node.server);
    for (const { socket } of idle) socket.destroy();
    await Promise.all(idle.map(({ closed }) => closed));
    const service = await good.stop();
    console.log(
      `${count} idle connections opened in ${openedMs} ms, ${open} open at once, ${answered} of ${used.length} answered; ` +
        `resident memory ${before} to ${during} MiB; others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.deepEqual(service.failures, []);
    assert.equal(await sumOf(node.url, 'good-idle'), BigInt(service.requests));
    assert.ok(during - before < 150, `${before} to ${during} MiB`);
    // On a busy machine the first connections may be idle too long before the last one opens.
    assert.ok(
      openedMs > 10_000 || (open === count && answered === used.length),
      `${open} of ${count}, ${answered} answered`,
    );
  });
});
