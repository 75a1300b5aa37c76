/**
 * What the peers have in common: Fastify with POST /increment as its users would write it, and GET /total, by which the
 * benchmark checks what is kept. Prints its address when it listens.
 */
import Fastify from 'fastify';

/** A JSON object of key and amount, checked by Fastify's own schema validation. */
const body = {
  type: 'object',
  minProperties: 1,
  propertyNames: { minLength: 1, maxLength: 512 },
  additionalProperties: { type: 'integer' },
};

/**
 * Serves a store. `add(pairs)` settles when the pairs are as durable as this peer makes them; `total()` settles with
 * `{ sum, keys }`, both as text, of everything that is kept; `close()` lets go of what it holds.
 */
export async function serve({ add, total, close }) {
  const app = Fastify({ logger: false, forceCloseConnections: true });
  app.post('/increment', { schema: { body } }, async (request, reply) => {
    await add(Object.entries(request.body));
    return reply.code(202).type('text/plain').send('created');
  });
  app.get('/total', () => total());
  process.once('SIGTERM', () => {
    app
      .close()
      .then(close)
      .then(
        () => process.exit(0),
        () => process.exit(1),
      );
  });
  console.log(`Listening on ${await app.listen({ host: '127.0.0.1', port: 0 })}`);
}
