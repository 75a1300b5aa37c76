import assert from 'node:assert/strict';
import { request } from 'node:http';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { loadUws, type Uws } from '#product/http/uws.js';

/** Length of the header `x` as the server saw it. */
async function headerLengthSeen(uws: Uws, headerBytes: number): Promise<string> {
  const app = uws.App();
  app.get('/*', (response, head) => {
    response.end(String(head.getHeader('x').length));
  });
  try {
    return await new Promise<string>((resolve, reject) => {
      app.listen('127.0.0.1', 0, uws.LIBUS_LISTEN_EXCLUSIVE_PORT, (socket) => {
        if (socket === false) {
          reject(new Error('the port was refused'));
          return;
        }
        const port = uws.us_socket_local_port(socket);
        const headers = { x: 'x'.repeat(headerBytes), connection: 'close' };
        request({ port, host: '127.0.0.1', headers }, (response) => {
          response.setEncoding('utf8').on('data', resolve);
        })
          .on('error', reject)
          .end();
      });
    });
  } finally {
    app.close();
  }
}

test('a native build of uWebSockets.js loads, returns its name, and serves', async () => {
  const { uws, build } = loadUws();
  assert.match(build, /^uWebSockets\.js (20\.\d+) \(package [@\w./-]+ \1\.\S+, (linux|darwin) (x64|arm64), ABI \d+\)$/);
  assert.equal(await headerLengthSeen(uws, 10), '10');
});

test('a request head of 15 KiB is accepted', async () => {
  const { uws } = loadUws();
  assert.equal(await headerLengthSeen(uws, 15 * 1024), String(15 * 1024));
});

test('the same build loads in a worker thread', async () => {
  const { build } = loadUws();
  const module = JSON.stringify(import.meta.resolve('#product/http/uws.js'));
  const program = `import(${module}).then(({ loadUws }) => {
    require('node:worker_threads').parentPort.postMessage(loadUws().build);
  });`;
  const worker = new Worker(program, { eval: true });
  const message = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  await worker.terminate();
  assert.equal(message, build);
});
