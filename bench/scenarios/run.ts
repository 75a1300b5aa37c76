/**
 * Runs a scenario, appends its record to the file of results and prints its table.
 */
import type { Contender } from '../contenders/contender.js';
import type { RunOptions } from './options.js';
import { appendRecord, provenance, type TurnsRecord } from '../report/record.js';
import type { Scenario } from './scenario.js';
import { markdownTable, origin, plainTable, turnsRows } from '../report/table.js';
import { runTurns } from './turns.js';

/** Runs a scenario with its contenders. */
export async function measureScenario(
  kind: TurnsRecord['kind'],
  contenders: readonly Contender[],
  scenario: Scenario,
  options: RunOptions,
): Promise<void> {
  const { turns, seconds, generator } = options;
  console.log(`\n${scenario.name}: ${scenario.meaning}`);
  const before = provenance('');
  const outcome = await runTurns(contenders, scenario, {
    ...{ turns, seconds, generator, warmUpSeconds: options.warmUpSeconds },
    ...(options.connections === undefined ? {} : { connections: options.connections }),
    onProgress: (line) => console.log(line),
  });
  const record: TurnsRecord = {
    ...before,
    uws: outcome.build,
    kind,
    scenario: scenario.name,
    generator: scenario.loop === 'open' ? 'fixed rate' : generator.name,
    connections: outcome.connections,
    secondsATurn: seconds,
    turns,
    contenders: outcome.contenders,
  };
  appendRecord(options.out, record);
  const rows = turnsRows(record);
  console.log(`\n${options.markdown ? markdownTable(rows) : plainTable(rows)}\n\n${origin(record)}`);
  for (const { name, note } of record.contenders) if (note !== undefined) console.log(`${name}: ${note}`);
}
