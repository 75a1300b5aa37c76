/**
 * What the peers have in common: Fastify with POST /increment as its users would write it, and GET /total, with which
 * the benchmark checks the sums. Prints its address when it listens.
 */
import Fastify from 'fastify';

/** A JSON object of keys and amounts, checked by the schema validation of Fastify. */
const body = {
  type: 'object',
  minProperties: 1,
  propertyNames: { minLength: 1, maxLength: 512 },
  additionalProperties: { type: 'integer' },
};

/**
 * Serves a store. `add(increments)` settles when the increments are as durable as this peer makes them. `total()`
 * settles with `{ sum, keys }` of everything that is kept, both as text. `close()` releases connections.
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
