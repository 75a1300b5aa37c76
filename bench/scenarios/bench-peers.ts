/**
 * `npm run bench:peers`: the server and what a user would build or choose instead, in turns within one run. The first
 * contender, of which the others are multiples, is the server with its default journal.
 */
import { readOptions, usage } from './options.js';
import { ourServer } from '../contenders/our-server.js';
import { withCleanup } from '../processes/owned-process.js';
import { missingForPeers, peers } from '../contenders/peers.js';
import { measureScenario } from './run.js';

await withCleanup(async () => {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') {
    console.log(`npm run bench:peers -- [options]\n${usage}`);
    return;
  }
  const missing = missingForPeers();
  if (missing !== undefined) throw new Error(missing);
  if (options.scenarios.some(({ name }) => name === 'ndjson')) throw new Error('The peers do not take NDJSON.');
  const contenders = [ourServer('file-always'), ourServer('file-everysec'), ...peers];
  for (const scenario of options.scenarios) await measureScenario('peers', contenders, scenario, options);
});
