/**
 * A process that runs an embedded PostgreSQL in the directory of its first argument until it is killed, for tests of
 * what remains afterwards. Prints one line of JSON when the server runs.
 */
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { silentLogger } from './database.js';

const [, , dataDir] = process.argv;
if (dataDir === undefined) throw new Error('usage: embedded-process DATA_DIR');
const server = await startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections: 5 });
console.log(JSON.stringify({ pid: server.pid, url: server.url }));
