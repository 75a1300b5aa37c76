/**
 * The floor: what receiving a request costs on this machine before anything is done with it. A bare uWebSockets.js
 * server, of the build that the product loads, reads the body and answers as the product does. A process of its own; it
 * prints its address when it listens.
 */
import { loadUws } from '#product/http/uws.js';

const { uws, build } = loadUws();
const app = uws.App();
app.post('/increment', (res) => {
  // An answer to a closed connection would end the process.
  let aborted = false;
  res.onAborted(() => {
    aborted = true;
  });
  res.onData((_chunk, isLast) => {
    if (!isLast || aborted) return;
    res.cork(() => {
      res.writeStatus('202 Accepted').writeHeader('content-type', 'text/plain').end('created');
    });
  });
});
app.listen('127.0.0.1', 0, uws.LIBUS_LISTEN_EXCLUSIVE_PORT, (socket) => {
  if (socket === false) throw new Error('the floor cannot listen');
  console.log(`${build}\nListening on http://127.0.0.1:${uws.us_socket_local_port(socket)}`);
});
