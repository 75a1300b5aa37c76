/**
 * The blocks between `<!-- figures: NAME -->` and `<!-- end -->` in documents.
 */
import { deploymentsText, inputsText, rowsText } from './cost-model-text.js';
import { newestTurns, type GridRecord, type RunRecord, type TurnsRecord } from './record.js';
import { flushRows, markdownTable, origin, provenanceSentence, thousands, turnsRows, upkeepRows } from './table.js';

type Block = (records: readonly RunRecord[]) => string | undefined;

/** Blocks by name. Every other name is that of a run in turns. */
const blocks: Readonly<Record<string, Block>> = {
  grid: (records) => gridTable(records.filter((record) => record.kind === 'grid')),
  soak,
  memory,
  bounds,
  flush,
  upkeep,
  journal,
  'cost-model-inputs': inputsText,
  'cost-model-machines': deploymentsText,
  'cost-model-rows': rowsText,
};

/** The block with that name from the newest run; undefined if there is no such run. */
export function figures(name: string, records: readonly RunRecord[]): string | undefined {
  const block = blocks[name];
  if (block !== undefined) return block(records);
  const run = newestTurns(records).get(name);
  return run === undefined ? undefined : turnsTable(run);
}

function turnsTable(run: TurnsRecord): string {
  const notes = run.contenders.flatMap(({ name: contender, note }) =>
    note === undefined ? [] : `- ${contender}: ${note}`,
  );
  return [markdownTable(turnsRows(run)), ...(notes.length === 0 ? [] : [notes.join('\n')]), origin(run)].join('\n\n');
}

function soak(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'soak');
  return (
    run &&
    `${run.minutes} minutes at ${thousands(run.incrementsPerSecond)} increments/s (${run.scenario}, ${run.journal}), ` +
      `${thousands(run.increments)} increments, sums exact. Resident memory: ` +
      `${thousands(run.residentMibAfterFirstMinute)} MiB after the first minute, ` +
      `${thousands(run.residentMibAtEnd)} MiB at the end, ${thousands(run.residentMibMax)} MiB at most.\n\n` +
      provenanceSentence(run)
  );
}

function memory(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'memory');
  return (
    run &&
    `${thousands(run.bytesPerPendingKey)} bytes of resident memory for each of ${thousands(run.keys)} pending keys of ` +
      `${run.keyBytes} bytes (${run.journal}, ${run.shards} shards).\n\n${provenanceSentence(run)}`
  );
}

function bounds(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'bounds');
  if (run === undefined) return undefined;
  const heads = ['journal', 'bound', 'key bytes', 'pending keys', 'MiB before', 'MiB at the bound', 'MiB at most', 's'];
  const rows = run.runs.map(({ journal: name, bound, keyBytes, keys, secondsToCommit, ...resident }) => [
    name,
    `\`${bound}\``,
    ...[keyBytes, keys, resident.residentMibBefore, resident.residentMibAtBound, resident.residentMibMax].map(
      thousands,
    ),
    secondsToCommit.toFixed(1),
  ]);
  return `${markdownTable([heads, ...rows])}\n\n\`SHARDS=${run.shards}\`. ${provenanceSentence(run)}`;
}

function flush(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'flush');
  if (run === undefined) return undefined;
  const seconds = run.sustained[0]?.median.seconds;
  const sustained =
    seconds === undefined
      ? []
      : [`New counters for ${Math.round(seconds)} s, one after the other:`, markdownTable(flushRows(run.sustained))];
  const how = `Medians of ${run.turns} turns of ${run.secondsATurn} s; PostgreSQL ${run.postgres}. `;
  return [markdownTable(flushRows(run.cells)), ...sustained, how + provenanceSentence(run)].join('\n\n');
}

function upkeep(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'upkeep');
  if (run === undefined) return undefined;
  const settings = new Map(run.cases.map(({ settings: name, storage }) => [name, storage]));
  const storage = Array.from(settings, ([name, text]) => `${name}: ${text === '' ? 'nothing set' : text}.`).join(' ');
  return `${markdownTable(upkeepRows(run.cases))}\n\n${storage}\n\nPostgreSQL ${run.postgres}. ${provenanceSentence(run)}`;
}

function journal(records: readonly RunRecord[]): string | undefined {
  const run = records.findLast((record) => record.kind === 'journal');
  if (run === undefined) return undefined;
  const rows = run.scenarios.map(({ name, figures: measured }) => [
    name,
    Object.entries(measured)
      .map(([figure, value]) => `${words(figure)} ${value.toLocaleString('en-US')}`)
      .join(', '),
  ]);
  return `${markdownTable([['', 'figures'], ...rows])}\n\n${provenanceSentence(run)}`;
}

/** `recordsPerSecond` as `records per second`. */
function words(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

/** The cells of the newest run, which have the same date. */
function gridTable(cells: readonly GridRecord[]): string | undefined {
  const newest = cells.at(-1);
  if (newest === undefined) return undefined;
  const rows = cells
    .filter(({ date }) => date === newest.date)
    .map(({ connections, keys, incrementsPerBody, shards, figures: { incrementsPerSecond, serverCpuUs, latency } }) =>
      [connections, keys, incrementsPerBody, shards, incrementsPerSecond]
        .map(thousands)
        .concat(serverCpuUs.toFixed(2), latency.p99Ms.toFixed(2)),
    );
  const heads = ['connections', 'keys', 'keys a body', 'shards', 'increments/s', 'server CPU µs', 'p99 ms'];
  return `${markdownTable([heads, ...rows])}\n\n${newest.journal}. ${provenanceSentence(newest)}`;
}
