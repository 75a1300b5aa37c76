/**
 * `npm run bench`: the server with each of its journals against the floor, in turns within one run.
 *
 * The main figure is CPU time of the server process an increment, as a multiple of the floor's in the same turn. It
 * holds on a machine that others use, too. The tables also show requests a second and latency.
 */
import { autocannonGenerator } from '../load/autocannon-load.js';
import { readOptions, usage, type RunOptions } from './options.js';
import type { Contender } from '../contenders/contender.js';
import { floor, idempotent, ourServer, watched, type JournalName } from '../contenders/our-server.js';
import { withCleanup } from '../processes/owned-process.js';
import { measureScenario } from './run.js';
import type { Scenario } from './scenario.js';
import { runTurns } from './turns.js';

await withCleanup(async () => {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') console.log(`npm run bench -- [options]\n${usage}`);
  else if (options.smoke) await smoke(options);
  else {
    for (const scenario of options.scenarios) {
      await measureScenario('turns', contendersOf(scenario, options), scenario, options);
    }
  }
});

function contendersOf({ journals, idempotent: isIdempotent }: Scenario, options: RunOptions): readonly Contender[] {
  const names = options.journals.filter((name) => journals?.includes(name) ?? true);
  const variants = (name: JournalName): readonly Contender[] => [
    ourServer(name),
    ...(isIdempotent === true ? [idempotent(name)] : []),
    ...(options.watched ? [watched(name)] : []),
  ];
  return [floor, ...names.flatMap(variants)];
}

/**
 * Sends a few thousand requests to each server. Each must be answered 202 and counted exactly; their number is fixed,
 * so none is in flight at the end. This says nothing about speed.
 */
async function smoke(options: RunOptions): Promise<void> {
  for (const scenario of options.scenarios) {
    await runTurns(
      contendersOf(scenario, options),
      { ...scenario, loop: 'closed', refusalsAllowed: false },
      {
        ...{ turns: 2, seconds: 1, warmUpSeconds: 0, connections: 16, amount: 2000 },
        generator: autocannonGenerator,
        onProgress: (line) => console.log(line),
      },
    );
    console.log(`bench: ${scenario.name} runs, every request was answered 202, every sum is exact`);
  }
}
